"""Whole-clip sampling: what a step costs, and in which precision it is."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from infra.presets import load_preset
from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import SamplingError
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import (
    ClipShape,
    Guidance,
    draw_noise,
    few_step_sample,
    ode_trajectory,
    predict_clean,
    whole_clip,
)
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.text_context import TextContext

SHAPE = ClipShape(2, PerStream(4, 26), (1, 2))
SIGMAS = (1.0, 0.7, 0.3, 0.0)
NEUTRAL = GuidanceScales()


def small(architecture: str = "ltx-2.0") -> ModelConfig:
    config = load_preset("tiny").model
    width = config.text_width if architecture == "ltx-2.0" else config.video.width
    changes = {"architecture": architecture, "layers": 2, "text_width": width}
    return config.model_copy(update=changes)


def random_model(architecture: str = "ltx-2.0") -> DualStreamTransformer:
    torch.manual_seed(0)
    model = DualStreamTransformer(small(architecture)).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def text(model: DualStreamTransformer, seed: int) -> TextContext:
    config, generator = model.config, torch.Generator().manual_seed(seed)
    widths = PerStream(config.text_width, config.text_width)
    if config.modulated_text:
        widths = PerStream(config.video.width, config.audio.width)
    drawn = widths.map(lambda width: torch.randn(SHAPE.batch, 5, width, generator=generator))
    return model.read_text(drawn.map(lambda features: features.to(model.dtype)))


def start(model: DualStreamTransformer) -> PerStream[Tensor]:
    return draw_noise(model, SHAPE, seeded_noise([1, 2]))


@contextmanager
def passes_counted(model: DualStreamTransformer) -> Iterator[list[Any]]:
    passes: list[Any] = []
    handle = model.register_forward_hook(lambda *_: passes.append(None))
    yield passes
    handle.remove()


@pytest.mark.parametrize(
    ("scales", "passes"),
    [
        (PerStream(NEUTRAL, NEUTRAL), 1),
        (PerStream(GuidanceScales(rescale=0.7), NEUTRAL), 1),
        (PerStream(GuidanceScales(cfg=3), GuidanceScales(cfg=5)), 2),
        (PerStream(NEUTRAL, GuidanceScales(stg=1)), 2),
        (PerStream(GuidanceScales(cfg=3, modality=3), NEUTRAL), 3),
        (PerStream(GuidanceScales(3, 1, 3, 0.7), GuidanceScales(7, 1, 3, 0.7)), 4),
    ],
)
def test_a_step_costs_a_pass_for_every_term_that_is_not_neutral(
    scales: PerStream[GuidanceScales], passes: int
) -> None:
    model = random_model()
    guidance = Guidance(text(model, 1), scales, (1,))
    with passes_counted(model) as counted:
        ode_trajectory(model, text(model, 0), start(model), SIGMAS, guidance)
    assert len(counted) == passes * (len(SIGMAS) - 1)


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_a_guided_clip_is_the_same_each_time(architecture: str) -> None:
    model = random_model(architecture)
    scales = PerStream(GuidanceScales(3, 1, 3, 0.7), GuidanceScales(7, 1, 3, 0.7))
    first, again = (
        ode_trajectory(
            model, text(model, 0), start(model), SIGMAS, Guidance(text(model, 1), scales, (1,))
        )
        for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        assert one.video.equal(other.video)
        assert one.audio.equal(other.audio)


def test_layers_that_are_not_there_stop_the_first_step() -> None:
    model = random_model()
    scales = PerStream(GuidanceScales(stg=1), NEUTRAL)
    with pytest.raises(SamplingError, match="got 29"):
        ode_trajectory(
            model, text(model, 0), start(model), SIGMAS, Guidance(text(model, 1), scales)
        )


def test_latents_keep_float32_while_the_model_computes_in_bfloat16() -> None:
    model = DualStreamTransformer(small()).requires_grad_(False).bfloat16()
    noise = start(model)
    # A fresh model's velocity is 0, so every state is the noise, to the last digit of float32.
    guidance = Guidance(text(model, 1), PerStream(GuidanceScales(cfg=3), GuidanceScales(cfg=7)))
    end = ode_trajectory(model, text(model, 0), noise, SIGMAS, guidance)[-1]
    assert torch.allclose(end.video, noise.video, rtol=0, atol=1e-6)
    assert not torch.allclose(noise.video.bfloat16().float(), noise.video, rtol=0, atol=1e-6)
    assert end.video.dtype == end.audio.dtype == torch.float32


def test_a_bfloat16_model_samples_nearly_what_it_samples_in_float32() -> None:
    scales = PerStream(GuidanceScales(3, 1, 3, 0.7), GuidanceScales(7, 1, 3, 0.7))
    clips = []
    for dtype in (torch.float32, torch.bfloat16):
        model = random_model().to(dtype)
        guidance = Guidance(text(model, 1), scales, (1,))
        clips.append(ode_trajectory(model, text(model, 0), start(model), SIGMAS, guidance)[-1])
    for full, half in zip(*clips, strict=True):
        assert (full - half).abs().mean() < 0.05 * full.abs().mean()


def test_the_text_of_a_past_noise_level_is_forgotten() -> None:
    """In LTX-2.3 every sigma has its own text keys and values; many steps must not pile up."""
    model, shape = random_model("ltx-2.3"), start(random_model())
    prompt = text(model, 0)
    level = model.at_noise_level(torch.full((SHAPE.batch, 1), 0.5))
    with torch.no_grad():
        model(shape, level, prompt, whole_clip(model, shape))
        text_keys = prompt.streams.video.layer(0, level.modulation.video)[0][0]
    past = weakref.ref(text_keys)
    del text_keys
    gc.collect()
    assert past() is not None
    del level
    gc.collect()
    assert past() is None


def test_a_model_without_velocity_leaves_the_ode_where_it_starts() -> None:
    model = DualStreamTransformer(small()).requires_grad_(False)
    states = ode_trajectory(model, text(model, 1), start(model), SIGMAS)
    assert len(states) == len(SIGMAS)
    assert all(torch.allclose(state.video, states[0].video, atol=1e-5) for state in states)


def test_each_step_of_the_ode_goes_along_the_velocity() -> None:
    model = random_model()
    context, noisy = text(model, 1), start(model)
    states = ode_trajectory(model, context, noisy, (1.0, 0.6, 0.0))
    view = whole_clip(model, noisy)
    for number, (sigma, step) in enumerate(((1.0, -0.4), (0.6, -0.6))):
        before, after = states[number], states[number + 1]
        velocity = model(before, torch.full((2, 1), sigma), context, view)
        expected = before.map(lambda x, v, step=step: x + step * v, velocity)
        assert torch.allclose(after.video, expected.video, atol=1e-4)
        assert torch.allclose(after.audio, expected.audio, atol=1e-4)


def test_few_steps_mix_fresh_noise_into_what_is_clean() -> None:
    model = DualStreamTransformer(small()).requires_grad_(False)
    noise = seeded_noise([1, 2])
    clip = few_step_sample(model, text(model, 1), SHAPE, (1.0, 0.75, 0.5), noise)
    first, second, third = (draw_noise(model, SHAPE, noise, step).audio for step in range(3))
    expected = 0.5 * (0.25 * first + 0.75 * second) + 0.5 * third
    assert torch.allclose(clip.audio, expected, atol=1e-6)


def test_guidance_is_the_conditional_prediction_pushed_from_the_negative_prompts() -> None:
    model = random_model()
    noisy, sigma = start(model), torch.tensor([0.5, 0.9])
    contexts = [text(model, seed) for seed in (1, 2)]
    positive, negative = (predict_clean(model, noisy, sigma, context) for context in contexts)
    scales = PerStream(GuidanceScales(cfg=3), GuidanceScales(cfg=5))
    guidance = Guidance(contexts[1], scales)
    guided = predict_clean(model, noisy, sigma, contexts[0], guidance)
    for x, c, u, scale in zip(guided, positive, negative, (3, 5), strict=True):
        assert torch.allclose(x, c + (scale - 1) * (c - u), atol=1e-4)
