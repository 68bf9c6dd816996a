"""Modulation rows of the noise levels of a stream are made once per process."""

import pytest
import torch

from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.streaming.stream_batch import StreamBatch
from pipelines.benchmarks.kernels.kernel_counter import KernelCounter
from tests.worlds.small_models import random_small_model, small_model_config

GRID, SIGMAS = (1, 2), (1.0, 0.5)
MAKERS = ("time_embed", "cross_embed", "gate_embed", "prompt_embed", "modulation")


def read_prompt(model, seed):
    config = model.config
    widths = PerStream(config.text_width, config.text_width)
    if config.modulated_text:
        widths = PerStream(config.video.width, config.audio.width)
    drawn = torch.Generator().manual_seed(seed)
    return model.read_text(widths.map(lambda width: torch.randn(1, 5, width, generator=drawn)))


def in_a_batch(model, seed):
    batch = StreamBatch(model, GRID, SIGMAS)
    return batch.open(0, read_prompt(model, seed), seeded_noise(seed))


def alone(model, seed):
    return Rollout(model, read_prompt(model, seed), GRID, SIGMAS, seeded_noise(seed))


def rows_made(model, open_stream, seed):
    """Kernels of the networks that turn sigma into rows, in two blocks of a new stream."""
    with torch.no_grad(), KernelCounter(model, model.device) as counts:
        stream = open_stream(model, seed)
        for _ in range(2):
            stream.next_block()
            stream.commit()
    return sum(count for place, count in counts.by_place.items() if any(m in place for m in MAKERS))


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
@pytest.mark.parametrize("open_stream", [in_a_batch, alone])
def test_the_second_stream_of_a_process_makes_no_modulation_row(architecture, open_stream):
    model = random_small_model(small_model_config(architecture, layers=2)).seal()
    assert rows_made(model, open_stream, seed=1) > 0
    assert rows_made(model, open_stream, seed=2) == 0


def test_a_model_that_may_still_learn_makes_them_anew():
    model = random_small_model(small_model_config(layers=2))
    made = [rows_made(model, alone, seed) for seed in (1, 2)]
    assert made[0] == made[1] > 0
