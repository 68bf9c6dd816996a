"""A model whose regions are operators, as on a GPU, is the model whose regions are plain."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from omniforcing_model.kernels import operators
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout, roll_out
from tests.worlds.small_models import random_small_model, small_model_config

LAYERS, BLOCKS = 2, 5
SIGMAS = (1.0, 0.5)
PASSES = BLOCKS * (len(SIGMAS) + 1) - 1  # the last block is not committed


class Regions(TorchDispatchMode):
    """How often each of our operators is called."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == operators.NAMESPACE:
            self.calls[func.name().partition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
@torch.no_grad()
def test_a_stream_is_the_same_by_operators_and_a_layer_has_seven(architecture, monkeypatch):
    config = small_model_config(architecture, layers=LAYERS)
    model = random_small_model(config)
    widths = (
        (config.text_width, config.text_width)
        if architecture == "ltx-2.0"
        else (config.video.width, config.audio.width)
    )
    text = model.read_text(PerStream(*(torch.randn(1, 5, width) for width in widths)))

    def streamed():
        return roll_out(Rollout(model, text, (2, 2), SIGMAS, seeded_noise(0)), BLOCKS)

    plain = streamed()
    monkeypatch.setattr(operators, "DEVICES", {"cpu"})
    with Regions() as regions:
        by_operators = streamed()
    for one, other in zip(by_operators, plain, strict=True):
        assert one.std() > 0.1
        assert torch.equal(one, other)
    halves = 2 * LAYERS * PASSES
    inputs = regions.calls["attention_inputs"] + regions.calls["attention_inputs_kept"]
    assert regions.calls["add_norm"] == 4 * halves
    assert inputs == 2 * halves
    assert regions.calls["head_norm"] >= halves
