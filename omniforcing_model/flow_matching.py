"""Rectified flow: x_sigma = (1 - sigma) x0 + sigma eps, v = eps - x0.

`sigma` broadcasts from the left: (batch,), (batch, 1) or (batch, frames) against
(batch, frames, ...).
"""

import math

import torch
from torch import Tensor

# The shift grows linearly with a clip's video tokens, through these two points.
_FEW_TOKENS, _FEW_SHIFT = 1024, 0.95
_MANY_TOKENS, _MANY_SHIFT = 4096, 2.05


def _broadcast(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim)).to(x.dtype)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The noisy latents at `sigma`."""
    level = _broadcast(sigma, clean)
    return (1 - level) * clean + level * noise


def to_clean(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean latents that `velocity` at `noisy` points to: x0 = x - sigma v."""
    return noisy - _broadcast(sigma, noisy) * velocity


def to_velocity(noisy: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """The velocity that leads from `clean` to `noisy`: v = (x - x0) / sigma, sigma > 0."""
    return (noisy - clean) / _broadcast(sigma, noisy)


def shift_for_tokens(tokens: int) -> float:
    """The schedule's shift for a clip of `tokens` video tokens: 0.95 for 1024, 2.05 for 4096.

    diffusers' pipeline counts the clip's own tokens; LTX-2's pipelines take 2.05 for every clip.
    """
    slope = (_MANY_SHIFT - _FEW_SHIFT) / (_MANY_TOKENS - _FEW_TOKENS)
    return _FEW_SHIFT + slope * (tokens - _FEW_TOKENS)


def shifted_schedule(steps: int, shift: float, terminal: float) -> list[float]:
    """LTX-2's descending sigmas, `steps` + 1 of them, from 1 to 0.

    Args:
        steps: Euler steps.
        shift: s in e^s / (e^s + 1 / sigma - 1); 2.05 in LTX-2's own pipelines, else
            of `shift_for_tokens`.
        terminal: the last sigma before 0 after stretching; 0 leaves the schedule unstretched.
    """
    uniform = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    shifted = math.exp(shift) / (math.exp(shift) + 1 / uniform - 1)
    if terminal > 0:
        shifted = 1 - (1 - shifted) * (1 - terminal) / (1 - shifted[-1]) if steps > 1 else shifted
    return [*shifted.tolist(), 0.0]
