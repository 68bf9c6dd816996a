"""Rotary position embedding on physical time: seconds for both streams, pixels for video.

Angles are affine in position and computed in float64 by default; only cos and sin are cast, so that
an hour-long stream rotates as exactly as a short one (float32 angles drift above bf16 noise after
five minutes).

    angle(i, axis) = f_i * (2 * position_axis / horizon_axis - 1)
    f_i = theta ** (i / (n - 1)) * pi / 2,  i = 0 .. n - 1,  n = width // (2 * axes)

The axes alternate (f0_t, f0_h, f0_w, f1_t, ...); angles that do not fill width / 2 are padded with
zeros in front. `split` turns the pairs (r, r + head_dim / 2) of each head, `interleaved` the pairs
(2r, 2r + 1); both read the same table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig, RotaryConfig, StreamConfig
from omniforcing_model.identity_rope import with_identity_rows


@dataclass(frozen=True)
class Rotation:
    """cos and sin of every token's angles: (heads, tokens, head_dim / 2) each, float32."""

    cos: Tensor
    sin: Tensor
    pairs: Literal["split", "interleaved"]

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` (batch, heads, tokens, head_dim) in float32; returned in x's type."""
        values = x.float()
        if self.pairs == "split":
            first, second = values.chunk(2, dim=-1)
        else:
            first, second = values[..., 0::2], values[..., 1::2]
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        if self.pairs == "split":
            return torch.cat(turned, dim=-1).to(x.dtype)
        return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class RotaryTable:
    """Turns positions into rotations for one attention: its width, heads and horizons per axis."""

    config: RotaryConfig
    stream: StreamConfig
    horizons: tuple[float, ...]

    def rotation(self, positions: Tensor, identity_rows: int = 0) -> Rotation:
        """The rotation of tokens at `positions` (tokens, axes), after `identity_rows` sinks."""
        fractions = 2 * positions / positions.new_tensor(self.horizons) - 1
        return self._rotation(fractions, identity_rows)

    def time_shift(self, seconds: float, tokens: int, identity_rows: int = 0) -> Rotation:
        """The extra rotation that moves `tokens` already rotated tokens `seconds` later."""
        fractions = torch.zeros(tokens - identity_rows, len(self.horizons), dtype=torch.float64)
        fractions[:, 0] = 2 * seconds / self.horizons[0]
        return self._rotation(fractions, identity_rows)

    def _rotation(self, fractions: Tensor, identity_rows: int) -> Rotation:
        axes = len(self.horizons)
        exact = torch.float64 if self.config.frequencies == "float64" else torch.float32
        steps = torch.linspace(0, 1, self.stream.width // (2 * axes), dtype=exact)
        frequencies = self.config.theta**steps * (math.pi / 2)
        angles = (fractions.to(exact)[:, None, :] * frequencies[None, :, None]).flatten(1)
        pad = self.stream.width // 2 - angles.shape[1]
        angles = torch.nn.functional.pad(angles, (pad, 0))
        angles = with_identity_rows(angles, identity_rows)
        per_head = angles.unflatten(1, (self.stream.heads, -1)).transpose(0, 1)
        return Rotation(per_head.cos().float(), per_head.sin().float(), self.config.pairs)


def video_tables(config: ModelConfig) -> tuple[RotaryTable, RotaryTable]:
    """Tables of the video stream's tokens: (self attention, cross-modal attention)."""
    rotary = config.rotary
    space_time = (rotary.max_seconds, rotary.max_height, rotary.max_width)
    return (
        RotaryTable(rotary, config.video, space_time),
        RotaryTable(rotary, config.audio, (rotary.max_seconds,)),
    )


def audio_tables(config: ModelConfig) -> tuple[RotaryTable, RotaryTable]:
    """Tables of the audio stream's tokens: (self attention, cross-modal attention)."""
    table = RotaryTable(config.rotary, config.audio, (config.rotary.max_seconds,))
    return table, table


def video_positions(midpoints_s: Sequence[float], grid: tuple[int, int], stride: int) -> Tensor:
    """Positions (latents * height * width, 3) in (seconds, pixels, pixels), frame-major.

    Args:
        midpoints_s: the middle of each latent, in seconds.
        grid: latent (height, width).
        stride: pixels per latent.
    """
    times = torch.tensor(midpoints_s, dtype=torch.float64)
    rows = (torch.arange(grid[0], dtype=torch.float64) + 0.5) * stride
    columns = (torch.arange(grid[1], dtype=torch.float64) + 0.5) * stride
    return torch.stack(torch.meshgrid(times, rows, columns, indexing="ij"), dim=-1).flatten(0, 2)


def audio_positions(midpoints_s: Sequence[float]) -> Tensor:
    """Positions (latents, 1) in seconds."""
    return torch.tensor(midpoints_s, dtype=torch.float64)[:, None]
