"""LTX-2's video VAE behind the codec protocol: diffusers' class, decoded as a stream.

The encoder is causal. The decoder as it ships is not: a frame depends on 22 latents to either
side (14 in LTX-2.3). So a stream either waits for `right` latents and accepts a small error, or
runs the decoder causally, which is exact in chunks but not what the weights were trained for.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.ltx2.pretrained import load_pretrained
from omniforcing_model.codecs.ltx2.single_file import read_part
from omniforcing_model.codecs.ltx2.video_decoder import VideoChunkDecoder, strides_of, video_reach
from omniforcing_model.errors import ShapeError
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.latent_clock import video_latents

_COLOURS = 3
# Of decoders that are conditioned on a timestep; the values of LTX's own pipelines.
_DECODE_TIMESTEP = 0.05
_DECODE_NOISE = 0.025


class VideoDecoding(NamedTuple):
    """How a stream is decoded.

    mode: `shipped` as the checkpoint says, `causal` without looking ahead.
    left: latents of context that each block decodes again; None carries the convolutions' rows over
        instead, at no cost.
    right: latents that are held back until their successors are known.

    `left` and `right` are of the `shipped` mode alone.
    """

    mode: Literal["shipped", "causal"] = "shipped"
    left: int | None = None
    right: int = 1


class Ltx2VideoCodec(nn.Module):
    """A `VideoCodec` of diffusers' `AutoencoderKLLTX2Video`, of LTX-2.0 or 2.3.

    `decode` is the whole clip as the checkpoint says, or causally. In blocks the causal mode gives
    the same frames; the shipped one comes as close as `decoding` allows.
    """

    def __init__(self, vae: Any, decoding: VideoDecoding | None = None) -> None:
        """Wrap a VAE; WeightsError if its decoder cannot be streamed."""
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.decoding = decoding or VideoDecoding()
        self._strides = strides_of(vae.decoder)

    @classmethod
    def load(
        cls,
        path: Path,
        decoding: VideoDecoding | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Read a diffusers folder, or LTX-2's single file.

        WeightsError if it does not hold exactly such a VAE.
        """
        if path.is_file():
            return cls(read_part("vae", path, dtype), decoding)
        # Here, because diffusers is an optional dependency and takes seconds to import.
        from diffusers import AutoencoderKLLTX2Video  # noqa: PLC0415

        return cls(load_pretrained(AutoencoderKLLTX2Video, path, dtype), decoding)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return len(self.vae.latents_mean)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent, in height and in width."""
        return self._strides.spatial

    @property
    def temporal_stride(self) -> int:
        """Frames per latent, from the second latent on."""
        return self._strides.temporal

    @property
    def causal(self) -> bool:
        """Whether a stream is decoded without looking ahead."""
        return self.decoding.mode == "causal" or bool(self.vae.decoder.is_causal)

    @property
    def timestep(self) -> float | None:
        """What the decoder is conditioned on; None for one that is not."""
        return None if self.vae.decoder.timestep_scale_multiplier is None else _DECODE_TIMESTEP

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode (batch, 8k + 1, 3, height, width) in [-1, 1] to k + 1 normalised latents.

        Latents are (batch, k + 1, channels, height / 32, width / 32), float32. LayoutError for
        another count of frames, ShapeError for sides that 32 does not divide.
        """
        video_latents(frames.shape[1])
        side = self.spatial_stride
        if frames.shape[2] != _COLOURS or frames.shape[3] % side or frames.shape[4] % side:
            raise ShapeError(
                f"expected {_COLOURS} colours and sides that are multiples of {side} px, got "
                f"{tuple(frames.shape[2:])}; scale or crop the clip"
            )
        pictures = frames.to(self.vae.device, self.vae.dtype).transpose(1, 2)
        mean: Tensor = self.vae.encode(pictures).latent_dist.mode().transpose(1, 2).float()
        return (mean - self._statistic("latents_mean")) * self._scaling / self._std

    @property
    def context(self) -> int:
        """Latents before one that what a stream decodes to depends on: those of the convolutions,
        or those that each block decodes again, and those that it holds back."""
        right = 0 if self.causal else self.decoding.right
        if not self.causal and self.decoding.left is not None:
            return self.decoding.left + right
        return video_reach(self.vae.decoder, self.causal) + right

    def decoder(self, first: int = 0) -> "Ltx2VideoDecoder":
        """A decoder for one new stream, whose first latent has the number `first`."""
        return Ltx2VideoDecoder(self, first)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode k + 1 latents to (batch, 8k + 1, 3, height, width) in [-1, 1], float32."""
        time = None
        if self.timestep is not None:
            time = torch.full((latents.shape[0],), self.timestep, device=self.vae.device)
        prepared = self.prepare(latents, 0)
        pictures = self.vae.decoder(prepared, time, causal=self.causal)
        return to_frames(pictures)

    def prepare(self, latents: Tensor, first: int) -> Tensor:
        """Normalised latents to what the decoder reads, (batch, channels, n, h, w).

        A decoder that is conditioned on a timestep expects a little noise. `first` is the number of
        the first latent in its stream: a latent gets the same noise in every chunking.
        """
        values = latents.to(self.vae.device, torch.float32)
        if self.timestep is not None:
            noise = [_noise(first + place, latents.shape[2:]) for place in range(latents.shape[1])]
            stacked = to_device(torch.stack(noise), values.device)
            values = (1 - _DECODE_NOISE) * values + _DECODE_NOISE * stacked
        values = values * self._std / self._scaling + self._statistic("latents_mean")
        return values.to(self.vae.dtype).transpose(1, 2)

    @property
    def _std(self) -> Tensor:
        return self._statistic("latents_std")

    @property
    def _scaling(self) -> float:
        return float(self.vae.config.scaling_factor)

    def _statistic(self, name: str) -> Tensor:
        values: Tensor = getattr(self.vae, name).float()
        return values[:, None, None]


class Ltx2VideoDecoder:
    """Decodes one stream; made by `Ltx2VideoCodec.decoder`."""

    def __init__(self, codec: Ltx2VideoCodec, first: int) -> None:
        self._codec = codec
        self._left = codec.decoding.left
        self._right = 0 if codec.causal else codec.decoding.right
        # Causally nothing is ever decoded again.
        self._carries = codec.causal or self._left is None
        self._chunks = self._new_chunks(started=first > 0)
        self._received: Tensor | None = None  # latents that are still needed
        # Number of the first of them in the stream, and of those whose frames are out.
        self._first = self._emitted = first

    def _new_chunks(self, started: bool = False) -> VideoChunkDecoder:
        vae = self._codec.vae
        return VideoChunkDecoder(vae.decoder, self._codec.causal, self._codec.timestep, started)

    @torch.no_grad()
    def decode(self, latents: Tensor, final: bool) -> Tensor:
        """Decode the next (batch, n, channels, h, w) to (batch, m, 3, height, width) in [-1, 1].

        `right` latents are held back until more come, or until `final`. float32.
        """
        received = latents if self._received is None else torch.cat((self._received, latents), 1)
        ready = received.shape[1] - (0 if final else self._right) - (self._emitted - self._first)
        if ready <= 0:
            self._received = received
            side = self._codec.spatial_stride
            size = (latents.shape[-2] * side, latents.shape[-1] * side)
            return torch.zeros((latents.shape[0], 0, _COLOURS, *size), device=latents.device)
        frames = (
            self._decode_carried(received, ready)
            if self._carries
            else self._decode_again(received, ready)
        )
        self._emitted += ready
        start = self._emitted if self._carries else max(0, self._emitted - (self._left or 0))
        # A copy: a view would keep what is no longer needed.
        self._received = received[:, start - self._first :].clone()
        self._first = start
        return frames

    def _decode_carried(self, received: Tensor, ready: int) -> Tensor:
        prepared = self._codec.prepare(received, self._first)
        return to_frames(self._chunks.decode(prepared, ready))

    def _decode_again(self, received: Tensor, ready: int) -> Tensor:
        """Decode the context again, and keep the frames of the `ready` latents after it."""
        prepared = self._codec.prepare(received, self._first)
        context = self._emitted - self._first
        if self._emitted and not context:
            # The first latent of a window gives one frame; without context it stands in for it.
            prepared = torch.cat((prepared[:, :, :1], prepared), 2)
            context = 1
        pictures = self._new_chunks().decode(prepared, context + ready)
        stride = self._codec.temporal_stride
        return to_frames(pictures[:, :, (context - 1) * stride + 1 :] if context else pictures)


def to_frames(pictures: Tensor) -> Tensor:
    """(batch, 3, frames, height, width) to (batch, frames, 3, height, width), within [-1, 1]."""
    return pictures.transpose(1, 2).float().clamp(-1, 1)


def _noise(index: int, shape: torch.Size) -> Tensor:
    """The noise of latent `index` of every stream, (channels, h, w)."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(index))
