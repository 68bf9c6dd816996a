"""LTX-2's strides with a linear code per patch: a video codec of a megabyte.

A latent is a patch of 8 frames x 32 x 32 pixels on a fitted basis. Nothing looks across patches, so
the codec is causal and streams exactly.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.tiny.whitened_pca import WhitenedPca
from omniforcing_model.errors import ShapeError, WeightsError
from omniforcing_model.latent_clock import VIDEO_TEMPORAL_STRIDE, video_latents
from omniforcing_model.latent_grid import latent_grid

SPATIAL_STRIDE = 32
LATENT_CHANNELS = 24
_COLOURS = 3
_KIND = "tiny_video_codec"


def _mirror(patches: Tensor) -> Tensor:
    """Flip odd rows top to bottom and odd columns left to right; its own inverse.

    Mirrored, the four quarters of a centred disc are one and the same patch, and neighbours meet
    at equal borders: the basis spends no channel on where a patch lies.

    patches: (batch, latents, rows, columns, frames, 3, patch height, patch width).
    """
    patches = patches.clone()
    patches[:, :, 1::2] = patches[:, :, 1::2].flip(-2)
    patches[:, :, :, 1::2] = patches[:, :, :, 1::2].flip(-1)
    return patches


def _cut_patches(frames: Tensor) -> Tensor:
    """(batch, 8k + 1, 3, height, width) to (batch, k + 1, rows, columns, patch values)."""
    latents = video_latents(frames.shape[1])
    height, width = frames.shape[-2:]
    if frames.shape[2] != _COLOURS or height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
        raise ShapeError(
            f"expected 3 colours and sides that are multiples of {SPATIAL_STRIDE} px, got "
            f"{tuple(frames.shape[2:])}; scale or crop the clip"
        )
    first = frames[:, :1].expand(-1, VIDEO_TEMPORAL_STRIDE, -1, -1, -1)
    rows, columns = latent_grid(height, width, SPATIAL_STRIDE)
    grid = (rows, SPATIAL_STRIDE, columns, SPATIAL_STRIDE)
    patches = torch.cat((first, frames[:, 1:]), 1)
    patches = patches.reshape(-1, latents, VIDEO_TEMPORAL_STRIDE, _COLOURS, *grid)
    return _mirror(patches.permute(0, 1, 4, 6, 2, 3, 5, 7)).flatten(4)


def _join_patches(patches: Tensor) -> Tensor:
    """(batch, latents, rows, columns, patch values) to (batch, 8 latents, 3, height, width)."""
    shape = (VIDEO_TEMPORAL_STRIDE, _COLOURS, SPATIAL_STRIDE, SPATIAL_STRIDE)
    patches = _mirror(patches.reshape(*patches.shape[:-1], *shape)).permute(0, 1, 4, 5, 2, 6, 3, 7)
    return patches.flatten(-2).flatten(-3, -2).flatten(1, 2)


class TinyVideoCodec(nn.Module):
    """A `VideoCodec` with 24 channels, 8 frames and 32 x 32 pixels per latent."""

    def __init__(self, pca: WhitenedPca) -> None:
        super().__init__()
        width = VIDEO_TEMPORAL_STRIDE * _COLOURS * SPATIAL_STRIDE**2
        if pca.mean.shape != (width,):
            raise WeightsError(
                f"expected patches of {width} values, got {tuple(pca.mean.shape)}; "
                "fit the codec again"
            )
        self.pca = pca

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.pca.channels

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent, in height and in width."""
        return SPATIAL_STRIDE

    @property
    def temporal_stride(self) -> int:
        """Frames per latent, from the second latent on."""
        return VIDEO_TEMPORAL_STRIDE

    @classmethod
    def fit(
        cls, batches: Iterable[Tensor], channels: int = LATENT_CHANNELS, patches_per_clip: int = 24
    ) -> Self:
        """Fit on batches of clips, (batch, 8k + 1, 3, height, width) in [-1, 1]; deterministic.

        Holds `patches_per_clip` randomly drawn patches of each clip (0.1 MB each) in memory.
        """
        generator = torch.Generator().manual_seed(0)
        samples = []
        for frames in batches:
            patches = _cut_patches(frames.float()).flatten(1, 3)
            drawn = torch.rand(patches.shape[:2], generator=generator).argsort(1)
            for clip, order in zip(patches, drawn, strict=True):
                samples.append(clip[order[:patches_per_clip]])
        return cls(WhitenedPca.fit(torch.cat(samples), channels))

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode (batch, 8k + 1, 3, height, width) to k + 1 latents; LayoutError for other counts.

        Latents are (batch, k + 1, channels, height / 32, width / 32).
        """
        patches = _cut_patches(frames.to(self.pca.mean))
        return self.pca.encode(patches).permute(0, 1, 4, 2, 3).contiguous()

    @property
    def context(self) -> int:
        """Latents before one that what it decodes to depends on."""
        return 0

    def decoder(self, first: int = 0) -> "TinyVideoDecoder":
        """A decoder for one new stream, whose first latent has the number `first`."""
        return TinyVideoDecoder(self.pca, first)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode k + 1 latents to (batch, 8k + 1, 3, height, width) in [-1, 1]."""
        return self.decoder().decode(latents, final=True)

    def explained_variance(self, frames: Tensor) -> float:
        """Share of the variance of (batch, 8k + 1, 3, height, width) that the latents keep."""
        patches = _cut_patches(frames.to(self.pca.mean))
        return self.pca.explained_variance(patches.flatten(0, 3))

    def save(self, path: Path) -> None:
        """Write the codec as one safetensors file."""
        self.pca.save(path, _KIND, {"channels": self.latent_channels})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved codec; WeightsError if the file holds something else."""
        pca, _ = WhitenedPca.load(path, _KIND)
        return cls(pca)


class TinyVideoDecoder:
    """Decodes one stream; its only state is whether the first latent is decoded."""

    def __init__(self, pca: WhitenedPca, first: int) -> None:
        self._pca = pca
        self._started = first > 0

    @torch.no_grad()
    def decode(self, latents: Tensor, final: bool) -> Tensor:
        """Decode the next (batch, n, channels, h, w) to (batch, m, 3, 32 h, 32 w) in [-1, 1].

        m is 8 n, or 8 n - 7 in the first block. Nothing is held back, so `final` changes nothing.
        """
        del final
        codes = latents.to(self._pca.mean).permute(0, 1, 3, 4, 2)
        blocks = []
        # Latent by latent: a product over more rows may round otherwise, and then a stream in
        # blocks would not be bit for bit the whole.
        for place in range(codes.shape[1]):
            frames = _join_patches(self._pca.decode(codes[:, place : place + 1]))
            blocks.append(frames if self._started else frames.mean(1, keepdim=True))
            self._started = True
        side = SPATIAL_STRIDE
        if not blocks:
            size = (latents.shape[-2] * side, latents.shape[-1] * side)
            return latents.new_zeros((latents.shape[0], 0, _COLOURS, *size))
        return torch.cat(blocks, 1).clamp(-1, 1)
