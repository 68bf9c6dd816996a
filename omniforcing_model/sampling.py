"""Whole-clip, bidirectional sampling: the 40-step teacher and the few-step stage I model.

Euler steps of the probability-flow ODE, x_{sigma'} = x_sigma + (sigma' - sigma) v, with
classifier-free guidance on clean predictions (facts 4).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.attention_view import BidirectionalView
from omniforcing_model.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.flow_matching import add_noise, to_clean, to_velocity
from omniforcing_model.guidance import guide
from omniforcing_model.per_stream import PerStream
from omniforcing_model.rollout import BlockNoise
from omniforcing_model.text_context import TextContext


class ClipShape(NamedTuple):
    """Latents of a clip: how many prompts, latents per stream, latent (height, width)."""

    batch: int
    latents: PerStream[int]
    grid: tuple[int, int]


class Guidance(NamedTuple):
    """Classifier-free guidance: the unconditional prompt's text and a scale per stream."""

    null_text: TextContext
    scale: PerStream[float]


def draw_noise(
    model: DualStreamTransformer, shape: ClipShape, noise: BlockNoise, step: int = 0
) -> PerStream[Tensor]:
    """Standard normal latents of a whole clip."""
    config, latents = model.config, shape.latents
    video = (shape.batch, latents.video, config.video.latent_channels, *shape.grid)
    audio = (shape.batch, latents.audio, config.audio.latent_channels)
    return PerStream(noise("video", 0, step, video), noise("audio", 0, step, audio))


def predict_clean(
    model: DualStreamTransformer,
    noisy: PerStream[Tensor],
    sigma: Tensor,
    text: TextContext,
    guidance: Guidance | None = None,
) -> PerStream[Tensor]:
    """The bidirectional model's clean latents at sigma (batch,), guided if `guidance` is given."""
    grid = (noisy.video.shape[3], noisy.video.shape[4])
    counts = PerStream(noisy.video.shape[1], noisy.audio.shape[1])
    view = BidirectionalView(model.config, counts, grid, model.device)
    levels = PerStream(sigma, sigma)
    clean = noisy.map(to_clean, model(noisy, sigma[:, None], text, view), levels)
    if guidance is None:
        return clean
    null = noisy.map(to_clean, model(noisy, sigma[:, None], guidance.null_text, view), levels)
    return guide(clean, null, guidance.scale)


@torch.no_grad()
def ode_trajectory(
    model: DualStreamTransformer,
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
        guidance: classifier-free guidance, or none.

    Returns:
        len(sigmas) states; the last is clean.
    """
    states = [start]
    for now, following in pairwise(sigmas):
        noisy = states[-1]
        sigma = torch.full((len(noisy.video),), now)
        clean = predict_clean(model, noisy, sigma, text, guidance)
        velocity = noisy.map(to_velocity, clean, PerStream(sigma, sigma))
        step = following - now
        states.append(noisy.map(lambda x, v, d=step: x + d * v, velocity))
    return states


@torch.no_grad()
def few_step_sample(
    model: DualStreamTransformer,
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
    for step, level in enumerate(sigmas):
        sigma = torch.full((shape.batch,), level)
        clean = predict_clean(model, noisy, sigma, text)
        if step + 1 < len(sigmas):
            following = torch.full((shape.batch,), sigmas[step + 1])
            fresh = draw_noise(model, shape, noise, step + 1)
            noisy = clean.map(add_noise, fresh, PerStream(following, following))
    return clean
