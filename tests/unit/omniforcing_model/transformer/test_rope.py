"""Rotary embedding: LTX-2's golden values, exactness far into a stream, sinks that do not turn."""

import math

import pytest
import torch

from omniforcing_model.config import RotaryConfig, StreamConfig
from omniforcing_model.kernels.rotation import Rotation
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
    rotated = AUDIO.rotation(at(0.3, 0.4), identity_rows=2)(x)
    assert torch.equal(rotated[:, :, :2], x[:, :, :2])
    assert not torch.allclose(rotated[:, :, 2:], x[:, :, 2:])


@pytest.mark.parametrize(
    ("pairs", "rotated"),
    [("split", [-3.0, 2.0, 1.0, 4.0]), ("interleaved", [-2.0, 1.0, 3.0, 4.0])],
)
def test_the_first_pair_turns_by_a_quarter(pairs: str, rotated: list[float]) -> None:
    rotation = Rotation.of(torch.tensor([[[math.pi / 2, 0.0]]], dtype=torch.float64), pairs)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            assert torch.allclose(rotation(x).flatten(), torch.tensor(rotated), atol=1e-6)


def test_part_of_a_rotation_is_that_of_some_heads_and_tokens() -> None:
    rotation = AUDIO.rotation(at(0.5, 1.5, 2.5))
    part = rotation.part(slice(4, 8), slice(1, 3))
    assert torch.equal(part.cos, rotation.cos[1:3, 4:8])
    assert torch.equal(part.sin, rotation.sin[1:3, 4:8])
    assert rotation.part(slice(None), slice(None)) is rotation


def test_video_tokens_go_by_latent_then_row_then_column() -> None:
    spans = video_spans([(0.0, 0.5), (0.5, 1.0)], (2, 3), 32, CPU)
    assert spans.shape == (12, 3, 2)
    assert spans[0].tolist() == [[0.0, 0.5], [0.0, 32.0], [0.0, 32.0]]
    assert spans[5].tolist() == [[0.0, 0.5], [32.0, 64.0], [64.0, 96.0]]
    assert spans[6].tolist() == [[0.5, 1.0], [0.0, 32.0], [0.0, 32.0]]
    assert audio_spans([(0.0, 0.1), (0.1, 0.2)], CPU).tolist() == [[[0.0, 0.1]], [[0.1, 0.2]]]


def test_angles_are_frequencies_times_the_place_on_the_horizon() -> None:
    stream = StreamConfig(latent_channels=1, heads=1, head_dim=6)
    table = RotaryTable(LTX2, stream, (20.0,))
    # At 15 of 20 seconds the place is 0.5; frequencies are pi / 2 times 1, 100 and 10,000.
    cosines = table.rotation(at(15.0)).cos[0, 0, :3]
    expected = [math.cos(0.25 * math.pi * 100**power) for power in range(3)]
    assert torch.allclose(cosines, torch.tensor(expected), atol=2e-3)
