"""Rotary embedding: LTX-2's golden values, exactness far into a stream, sinks that do not turn."""

import pytest
import torch

from omniforcing_model.config import RotaryConfig, StreamConfig
from omniforcing_model.latent_clock import audio_latent_span_s, video_latent_span_s
from omniforcing_model.transformer.rope import RotaryTable, audio_spans, video_spans

CPU = torch.device("cpu")
LTX2 = RotaryConfig(
    pairs="split",
    frequencies="float64",
    theta=10000,
    max_seconds=20,
    max_height=2048,
    max_width=2048,
)
VIDEO = RotaryTable(
    LTX2, StreamConfig(latent_channels=128, heads=32, head_dim=128), (20, 2048, 2048)
)
AUDIO = RotaryTable(LTX2, StreamConfig(latent_channels=128, heads=32, head_dim=64), (20,))


def at(*times: float) -> torch.Tensor:
    """Spans of tokens at these instants."""
    return torch.tensor(times, dtype=torch.float64)[:, None, None].expand(-1, 1, 2)


@pytest.mark.parametrize(("phases", "tolerance"), [("float32", 2e-6), ("float64", 2e-3)])
def test_video_angles_are_those_of_the_19b_model(phases: str, tolerance: float) -> None:
    spans = [video_latent_span_s(i) for i in range(16)]
    corners = video_spans(spans, (16, 24), 32, CPU)[[0, -1]]
    rotary = LTX2.model_copy(update={"phases": phases})
    rotation = RotaryTable(rotary, VIDEO.stream, VIDEO.horizons).rotation(corners)
    first = torch.tensor([1, 1, 0.0032725, 0.0245411, 0.0245411, -0.0180708, 0.0034890, 0.0034890])
    assert torch.allclose(rotation.cos[0, 0, :8], first, atol=2e-6)
    last = torch.tensor([-0.7771275, -0.9999998, -0.3825883, -0.3826754])
    # LTX-2's authors multiply in float32, which moves the fastest angles by a thousandth.
    assert torch.allclose(rotation.sin[-1, 31, -4:], last, atol=tolerance)


def test_audio_angles_are_those_of_the_19b_model() -> None:
    rotation = AUDIO.rotation(audio_spans([audio_latent_span_s(i) for i in range(126)], CPU))
    cos = torch.tensor([0.0047124, -0.0094509, -0.0237405, -0.0381543])
    sin = torch.tensor([-0.9999889, -0.9999554, -0.9997181, -0.9992719])
    assert torch.allclose(rotation.cos[1, 0, :4], cos, atol=2e-6)
    assert torch.allclose(rotation.sin[1, 0, 32:36], sin, atol=2e-6)


@pytest.mark.parametrize("pairs", ["split", "interleaved"])
def test_scores_depend_on_time_differences_only_even_after_an_hour(pairs: str) -> None:
    table = RotaryTable(LTX2.model_copy(update={"pairs": pairs}), AUDIO.stream, (20,))
    x, y = torch.randn(2, 1, 32, 1, 64, generator=torch.Generator().manual_seed(0)).unbind(0)

    def score(start: float) -> torch.Tensor:
        rotation = table.rotation(at(start + 1.5, start))
        both = rotation(torch.cat([x, y], dim=2))
        return (both[:, :, 0] * both[:, :, 1]).sum(-1)

    assert torch.allclose(score(0), score(3600), atol=1e-4)


def test_a_time_shift_equals_rotating_at_the_later_time() -> None:
    keys = torch.randn(1, 32, 5, 64, generator=torch.Generator().manual_seed(0))
    times = at(0, 0.04, 0.08, 0.12, 0.16)
    moved = AUDIO.time_shift(7, 5, CPU)(AUDIO.rotation(times)(keys))
    assert torch.allclose(moved, AUDIO.rotation(times + 7)(keys), atol=1e-5)


def test_sink_tokens_do_not_rotate() -> None:
    x = torch.randn(1, 32, 4, 64, generator=torch.Generator().manual_seed(0))
    turned = AUDIO.rotation(at(0.3, 0.4), identity_rows=2)(x)
    assert torch.equal(turned[:, :, :2], x[:, :, :2])
    assert not torch.allclose(turned[:, :, 2:], x[:, :, 2:])
