"""Whole-clip, bidirectional sampling: the 40-step teacher and the few-step stage I model.

Euler steps of the probability-flow ODE, x_{sigma'} = x_sigma + (sigma' - sigma) v, with guidance on
clean predictions (guidance.py). Latents are float32 throughout, whatever the model computes in.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.flow_matching import add_noise, to_clean, to_velocity
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales, Push, guide, stg_perturbation
from omniforcing_model.transformer.attention_view import AttentionView, BidirectionalView
from omniforcing_model.transformer.denoiser import Denoiser
from omniforcing_model.transformer.dual_stream_transformer import UNPERTURBED
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.text_context import TextContext


class ClipShape(NamedTuple):
    """Latents of a clip: how many prompts, latents per stream, latent (height, width)."""

    batch: int
    latents: PerStream[int]
    grid: tuple[int, int]


class WeakerPass(NamedTuple):
    """A pass that guidance compares with, and each stream's weight."""

    text: TextContext
    perturbation: Perturbation
    weight: PerStream[float]


class Guidance(NamedTuple):
    """What a prediction is pushed away from, and how strongly in each stream.

    `null_text`: of the negative prompt. `stg_layers`: those that spatio-temporal guidance weakens;
    None for those that LTX-2's authors weaken.
    """

    null_text: TextContext
    scales: PerStream[GuidanceScales]
    stg_layers: Collection[int] | None = None

    def weaker_passes(self, config: ModelConfig, text: TextContext) -> Iterator[WeakerPass]:
        """The passes with a weight in some stream; SamplingError for layers it does not have."""
        cfg = self.scales.map(lambda scales: scales.cfg - 1)
        if any(cfg):
            yield WeakerPass(self.null_text, UNPERTURBED, cfg)
        stg = self.scales.map(lambda scales: scales.stg)
        if any(stg):
            yield WeakerPass(text, stg_perturbation(config, self.stg_layers), stg)
        modality = self.scales.map(lambda scales: scales.modality - 1)
        if any(modality):
            yield WeakerPass(text, Perturbation(isolate=True), modality)


def draw_noise(
    model: Denoiser, shape: ClipShape, noise: BlockNoise, step: int = 0
) -> PerStream[Tensor]:
    """Standard normal latents of a whole clip, where the model is."""
    config, latents = model.config, shape.latents
    video = (shape.batch, latents.video, config.video.latent_channels, *shape.grid)
    audio = (shape.batch, latents.audio, config.audio.latent_channels)
    drawn = PerStream(noise("video", 0, step, video), noise("audio", 0, step, audio))
    return drawn.map(lambda x: x.to(model.device))


def whole_clip(model: Denoiser, latents: PerStream[Tensor]) -> BidirectionalView:
    """The view in which all tokens of a clip attend to all of them."""
    video, audio = latents
    counts = PerStream(video.shape[1], audio.shape[1])
    return BidirectionalView(model.config, counts, (video.shape[3], video.shape[4]), model.device)


def predict_clean(
    model: Denoiser,
    noisy: PerStream[Tensor],
    sigma: Tensor,
    text: TextContext,
    guidance: Guidance | None = None,
    view: AttentionView | None = None,
) -> PerStream[Tensor]:
    """The bidirectional model's clean latents at sigma, guided if `guidance` is given.

    Args:
        model: bidirectional model.
        noisy: latents at sigma, float32.
        sigma: noise level of each clip, (batch,).
        text: prompts.
        guidance: costs a pass for every term that has a weight: up to four in all.
        view: of `whole_clip`, where the caller has it already.
    """
    clip_view = view or whole_clip(model, noisy)
    column = sigma[:, None]
    # Gradients go through the model's forward; without them all passes share the modulation.
    level = column if torch.is_grad_enabled() else model.at_noise_level(column)
    inputs = noisy.map(lambda x: x.to(model.dtype))

    def predict(prompt: TextContext, perturbation: Perturbation) -> PerStream[Tensor]:
        velocity = model(inputs, level, prompt, clip_view, perturbation)
        return noisy.map(lambda x, v: to_clean(x, v.float(), sigma), velocity)

    clean = predict(text, UNPERTURBED)
    if guidance is None:
        return clean
    pushes = (
        Push(predict(weaker.text, weaker.perturbation), weaker.weight)
        for weaker in guidance.weaker_passes(model.config, text)
    )
    return guide(clean, pushes, guidance.scales.map(lambda scales: scales.rescale))


@torch.no_grad()
def ode_trajectory(
    model: Denoiser,
    text: TextContext,
    start: PerStream[Tensor],
    sigmas: Sequence[float],
    guidance: Guidance | None = None,
) -> list[PerStream[Tensor]]:
    """States of the probability-flow ODE at every sigma, from noise to the clean clip.

    Args:
        model: bidirectional model.
        text: prompts.
        start: noise at sigmas[0] = 1.
        sigmas: descending, ending with 0.
        guidance: of every step, or none.

    Returns:
        len(sigmas) states; the last is clean.
    """
    states = [start]
    view = whole_clip(model, start)
    for now, following in pairwise(sigmas):
        noisy = states[-1]
        sigma = torch.full((len(noisy.video),), now, device=model.device)
        clean = predict_clean(model, noisy, sigma, text, guidance, view)
        velocity = noisy.map(to_velocity, clean, PerStream(sigma, sigma))
        step = following - now
        states.append(noisy.map(lambda x, v, d=step: x + d * v, velocity))
    return states


@torch.no_grad()
def few_step_sample(
    model: Denoiser,
    text: TextContext,
    shape: ClipShape,
    sigmas: Sequence[float],
    noise: BlockNoise,
) -> PerStream[Tensor]:
    """The stage I model's clip: predict clean, add fresh noise at the next sigma, and again.

    Args:
        model: the stage I model.
        text: prompts.
        shape: of the clips.
        sigmas: descending, without the final 0.
        noise: where noise comes from; step i is drawn before sigma i.
    """
    noisy = draw_noise(model, shape, noise)
    view = whole_clip(model, noisy)
    for step, level in enumerate(sigmas):
        sigma = torch.full((shape.batch,), level, device=model.device)
        clean = predict_clean(model, noisy, sigma, text, view=view)
        if step + 1 < len(sigmas):
            following = torch.full((shape.batch,), sigmas[step + 1], device=model.device)
            fresh = draw_noise(model, shape, noise, step + 1)
            noisy = clean.map(add_noise, fresh, PerStream(following, following))
    return clean
