"""Guidance on clean predictions, in LTX-2's words."""

import pytest
import torch
from torch import Tensor

from infra.presets import load_preset
from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import SamplingError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import Push, guide, stg_perturbation


def clips(seed: int) -> PerStream[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(2, 3, 4, 1, 2, generator=generator)
    return PerStream(video, torch.randn(2, 7, 5, generator=generator))


def model(architecture: str, layers: int) -> ModelConfig:
    config = load_preset("paper").model
    return config.model_copy(update={"architecture": architecture, "layers": layers})


def test_every_term_pushes_away_from_its_weaker_prediction_in_its_own_stream() -> None:
    conditional, null, weak = (clips(seed) for seed in range(3))
    pushes = [Push(null, PerStream(2.0, 6.0)), Push(weak, PerStream(1.0, 0.0))]
    guided = guide(conditional, pushes, PerStream(0.0, 0.0))
    video = 4 * conditional.video - 2 * null.video - weak.video
    assert torch.allclose(guided.video, video, atol=1e-5)
    assert torch.allclose(guided.audio, 7 * conditional.audio - 6 * null.audio, atol=1e-5)


def test_without_a_push_the_prediction_stays_as_it_is() -> None:
    conditional = clips(0)
    guided = guide(conditional, [], PerStream(0.0, 0.0))
    assert guided.video.equal(conditional.video)
    assert guided.audio.equal(conditional.audio)


def test_full_rescale_gives_each_clip_the_deviation_it_had() -> None:
    conditional = clips(0).map(
        lambda x: x * torch.tensor([1.0, 9.0]).reshape(2, *[1] * (x.ndim - 1))
    )
    push = Push(clips(1), PerStream(4.0, 4.0))
    loud = guide(conditional, [push], PerStream(0.0, 0.0)).video
    same = guide(conditional, [push], PerStream(1.0, 0.0)).video
    half = guide(conditional, [push], PerStream(0.5, 0.0)).video
    for clip in range(2):
        std = conditional.video[clip].std().item()
        assert same[clip].std().item() == pytest.approx(std, rel=1e-5)
        middle = (std + loud[clip].std().item()) / 2
        assert half[clip].std().item() == pytest.approx(middle, rel=1e-5)


def test_each_version_of_ltx2_weakens_its_own_layer_in_its_own_way() -> None:
    old = stg_perturbation(model("ltx-2.0", 48), None)
    new = stg_perturbation(model("ltx-2.3", 48), None)
    assert (old.self_attention, old.kind) == ({29}, "drop")
    assert (new.self_attention, new.kind) == ({28}, "values")
    assert stg_perturbation(model("ltx-2.3", 2), (0, 1)).self_attention == {0, 1}


@pytest.mark.parametrize("layers", [None, (), (4,), (-1, 2)])
def test_layers_that_a_small_model_does_not_have_are_refused(
    layers: tuple[int, ...] | None,
) -> None:
    with pytest.raises(SamplingError, match=r"0 to 3.*stg_layers"):
        stg_perturbation(model("ltx-2.0", 4), layers)
