"""Rotary position embedding on physical time: seconds for both streams, pixels for video.

Angles are affine in position. With float64 phases only cos and sin are cast, so that an hour-long
stream rotates as exactly as a short one (float32 angles drift above bf16 noise after five minutes).

    angle(i, axis) = f_i * (2 * position_axis / horizon_axis - 1)
    f_i = theta ** (i / (n - 1)) * pi / 2,  i = 0 .. n - 1,  n = width // (2 * axes)

A position is the middle of a token's span. The axes alternate (f0_t, f0_h, f0_w, f1_t, ...); angles
that do not fill width / 2 are padded with zeros in front. `split` turns the pairs
(r, r + head_dim / 2) of each head, `interleaved` the pairs (2r, 2r + 1); both read the same table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig, RotaryConfig, StreamConfig
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.transformer.identity_rope import with_identity_rows

Span = tuple[float, float]


@dataclass(frozen=True)
class RotaryTable:
    """Turns positions into rotations for one attention: its width, heads and horizons per axis."""

    config: RotaryConfig
    stream: StreamConfig
    horizons: tuple[float, ...]

    def rotation(self, spans: Tensor, identity_rows: int = 0) -> Rotation:
        """The rotation of tokens after `identity_rows` sinks.

        Args:
            spans: start and end of each token along each axis, (tokens, axes, 2), float64.
            identity_rows: sinks in front, which do not turn.
        """
        start, end = spans.to(self._phases).unbind(-1)
        middle = (start + end) / 2
        horizons = torch.tensor(self.horizons, dtype=middle.dtype)
        fractions = middle / to_device(horizons, middle.device) * 2 - 1
        return self._rotation(fractions, identity_rows)

    def time_shift(self, seconds: float, tokens: int, device: torch.device) -> Rotation:
        """The extra rotation that moves `tokens` already rotated tokens `seconds` later."""
        fractions = torch.zeros(tokens, len(self.horizons), dtype=self._phases, device=device)
        fractions[:, 0] = 2 * seconds / self.horizons[0]
        return self._rotation(fractions, identity_rows=0)

    @property
    def _phases(self) -> torch.dtype:
        return torch.float64 if self.config.phases == "float64" else torch.float32

    def _rotation(self, fractions: Tensor, identity_rows: int) -> Rotation:
        axes = len(self.horizons)
        exact = torch.float64 if self.config.frequencies == "float64" else torch.float32
        steps = torch.linspace(0, 1, self.stream.width // (2 * axes), dtype=exact)
        # LTX-2 rounds its frequencies to float32 whatever it computed them in.
        frequencies = (self.config.theta**steps * math.pi / 2).float().to(fractions.dtype)
        frequencies = to_device(frequencies, fractions.device)
        angles = (fractions[:, None, :] * frequencies[None, :, None]).flatten(1)
        pad = self.stream.width // 2 - angles.shape[1]
        angles = torch.nn.functional.pad(angles, (pad, 0))
        angles = with_identity_rows(angles, identity_rows)
        return Rotation.of(angles.unflatten(1, (self.stream.heads, -1)), self.config.pairs)


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


def video_spans(
    times_s: Sequence[Span], grid: tuple[int, int], stride: int, device: torch.device
) -> Tensor:
    """Spans (latents * height * width, 3, 2) in (seconds, pixels, pixels), frame-major.

    Args:
        times_s: start and end of each latent, in seconds.
        grid: latent (height, width).
        stride: pixels per latent.
        device: where the spans are computed.
    """
    times = to_device(torch.tensor(times_s, dtype=torch.float64), device)
    bounds = [times, *(_cells(count, stride, device) for count in grid)]
    where = torch.meshgrid(*(torch.arange(len(b), device=device) for b in bounds), indexing="ij")
    axes = [bound[index.flatten()] for bound, index in zip(bounds, where, strict=True)]
    return torch.stack(axes, dim=1)


def _cells(count: int, stride: int, device: torch.device) -> Tensor:
    start = torch.arange(count, dtype=torch.float64, device=device) * stride
    return torch.stack([start, start + stride], dim=-1)


def audio_spans(times_s: Sequence[Span], device: torch.device) -> Tensor:
    """Spans (latents, 1, 2) in seconds."""
    return to_device(torch.tensor(times_s, dtype=torch.float64), device)[:, None]
