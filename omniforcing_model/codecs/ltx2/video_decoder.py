"""LTX-2's video decoder, chunk by chunk, with the weights and layers of diffusers' class.

Source: the structure of `AutoencoderKLLTX2Video.decoder`. Its norms look at one position, so only
the convolutions and the first frames of the temporal upsamplers tie a chunk to the one before.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.ltx2.streaming_convolutions import ConvolutionMemory
from omniforcing_model.errors import WeightsError
from omniforcing_model.latent_clock import VIDEO_TEMPORAL_STRIDE


class VideoStrides(NamedTuple):
    """Frames, and pixels in height and width, per latent."""

    temporal: int
    spatial: int


def strides_of(decoder: Any) -> VideoStrides:
    """Strides of a diffusers decoder, from its layers; its config may leave them out.

    WeightsError for a decoder that cannot be streamed: noise between the layers, frames in patches,
    or another stride in time than the clock's.
    """
    # A module list where a block has one, None where it has not.
    steps = [up.stride for block in decoder.up_blocks for up in block.upsamplers or ()]
    strides = VideoStrides(
        prod(s[0] for s in steps), decoder.patch_size * prod(s[1] for s in steps)
    )
    noisy = any(name.endswith("per_channel_scale1") for name, _ in decoder.named_parameters())
    if noisy or decoder.patch_size_t != 1 or strides.temporal != VIDEO_TEMPORAL_STRIDE:
        raise WeightsError(
            f"expected a video decoder with {VIDEO_TEMPORAL_STRIDE} frames per latent, without"
            f" noise between its layers and patches in time, got {strides.temporal} frames, noise"
            f" {noisy}, patches of {decoder.patch_size_t}; take the VAE of LTX-2.0 or 2.3"
        )
    return strides


def video_reach(decoder: Any, causal: bool) -> int:
    """Latents before one that its frames depend on."""

    def rows(*convolutions: Any) -> int:
        return sum(_rows(convolution, causal) for convolution in convolutions)

    reach, scale = Fraction(rows(decoder.conv_in)), 1
    for block in (decoder.mid_block, *decoder.up_blocks):
        first = getattr(block, "conv_in", None)
        if first is not None:
            reach += Fraction(rows(first.conv1, first.conv2), scale)
        for upsampler in getattr(block, "upsamplers", None) or ():
            reach += Fraction(rows(upsampler.conv), scale)
            scale *= upsampler.stride[0]
        for resnet in block.resnets:
            reach += Fraction(rows(resnet.conv1, resnet.conv2), scale)
    return math.ceil(reach + Fraction(rows(decoder.conv_out), scale))


def _rows(convolution: Any, causal: bool) -> int:
    """Rows before one that a convolution reads."""
    around = int(convolution.kernel_size[0]) - 1
    return around if causal else around // 2


class VideoChunkDecoder:
    """Decodes one stream.

    Causal: every convolution reads the past alone, and chunks of any length give what the whole
    gives. Otherwise, as LTX-2 ships, convolutions read one row ahead, and the last row of a chunk
    stands in for the row that is not there yet.
    """

    def __init__(
        self, decoder: Any, causal: bool, timestep: float | None, started: bool = False
    ) -> None:
        """Of a diffusers decoder; `timestep` is for those that are conditioned on one. `started`
        says that the latents before the first one are left out."""
        self._decoder = decoder
        self._causal = causal
        self._timestep = timestep
        self._memory = ConvolutionMemory()
        self._started = started
        self._ready = 0

    def decode(self, latents: Tensor, ready: int) -> Tensor:
        """Decode the next latents; only the first `ready` of them, at least one, come out.

        The next call starts with the first of the others.

        latents: (batch, channels, n, h, w), with the statistics of the VAE. Returns (batch, 3,
        frames, height, width); frames is 8 * ready, or 7 less in the first call.
        """
        decoder, self._ready = self._decoder, ready
        time = None
        if decoder.timestep_scale_multiplier is not None:
            time = latents.new_full((latents.shape[0],), self._timestep or 0.0)
            time = time * decoder.timestep_scale_multiplier
        hidden = self._convolve(decoder.conv_in, latents)
        for block in (decoder.mid_block, *decoder.up_blocks):
            hidden = self._block(block, hidden, time)
        hidden = decoder.norm_out(hidden)
        if time is not None:
            embedded = _embed(decoder.time_embedder, time, hidden)
            shift, scale = _modulation(embedded, decoder.scale_shift_table)
            hidden = hidden * (1 + scale) + shift
        hidden = self._convolve(decoder.conv_out, decoder.conv_act(hidden))
        self._started = True
        return _join_patches(hidden[:, :, : self._ready], decoder.patch_size)

    def _block(self, block: Any, hidden: Tensor, time: Tensor | None) -> Tensor:
        embedded = None if time is None else _embed(block.time_embedder, time, hidden)
        if getattr(block, "conv_in", None) is not None:  # the middle block has no such layer
            hidden = self._resnet(block.conv_in, hidden, embedded)
        for upsampler in getattr(block, "upsamplers", None) or ():
            hidden = self._upsample(upsampler, hidden)
        for resnet in block.resnets:
            hidden = self._resnet(resnet, hidden, embedded)
        return hidden

    def _resnet(self, resnet: Any, hidden: Tensor, embedded: Tensor | None) -> Tensor:
        inner = hidden
        modulation: Sequence[Tensor | None] = (None,) * 4
        if resnet.scale_shift_table is not None and embedded is not None:
            modulation = _modulation(embedded, resnet.scale_shift_table)
        layers = ((resnet.norm1, resnet.conv1), (resnet.norm2, resnet.conv2))
        for (norm, convolution), (shift, scale) in zip(
            layers, (modulation[:2], modulation[2:]), strict=True
        ):
            inner = norm(inner)
            if shift is not None and scale is not None:
                inner = inner * (1 + scale) + shift
            inner = self._convolve(convolution, resnet.nonlinearity(inner))
        if resnet.norm3 is not None:
            hidden = resnet.norm3(hidden.movedim(1, -1)).movedim(-1, 1)
        if resnet.conv_shortcut is not None:
            hidden = resnet.conv_shortcut(hidden)
        return inner + hidden

    def _upsample(self, upsampler: Any, hidden: Tensor) -> Tensor:
        larger = _depth_to_space(self._convolve(upsampler.conv, hidden), upsampler.stride)
        if upsampler.residual:
            skip = _depth_to_space(hidden, upsampler.stride)
            larger = larger + skip.repeat(1, larger.shape[1] // skip.shape[1], 1, 1, 1)
        # The first latent holds one frame: what it upsamples to beyond that precedes the clip.
        surplus = 0 if self._started else upsampler.stride[0] - 1
        self._ready = self._ready * upsampler.stride[0] - surplus
        return larger[:, :, surplus:]

    def _convolve(self, module: Any, hidden: Tensor) -> Tensor:
        around, before = module.kernel_size[0] - 1, _rows(module, self._causal)
        first, last = hidden[:, :, :1], hidden[:, :, -1:]
        start = first.expand(-1, -1, before, -1, -1)
        extended = self._memory.extend(module, hidden, start, self._ready)
        if before < around:
            extended = torch.cat((extended, last.expand(-1, -1, around - before, -1, -1)), 2)
        convolved: Tensor = module.conv(extended)
        return convolved


def _embed(embedder: nn.Module, time: Tensor, hidden: Tensor) -> Tensor:
    """Timesteps (batch,) to (batch, width, 1, 1, 1)."""
    embedded: Tensor = embedder(
        timestep=time,
        resolution=None,
        aspect_ratio=None,
        batch_size=hidden.shape[0],
        hidden_dtype=hidden.dtype,
    )
    return embedded[..., None, None, None]


def _modulation(embedded: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """The rows of `table` (rows, channels), each (batch, channels, 1, 1, 1)."""
    rows = embedded.unflatten(1, table.shape) + table[..., None, None, None]
    return tuple(rows.unbind(1))


def _depth_to_space(hidden: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(batch, channels * st * sh * sw, t, h, w) to (batch, channels, t * st, h * sh, w * sw)."""
    split = hidden.unflatten(1, (-1, *stride))  # batch, channels, st, sh, sw, t, h, w
    interleaved: Tensor = split.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return interleaved.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _join_patches(hidden: Tensor, side: int) -> Tensor:
    """(batch, 3 * side * side, t, h, w) to (batch, 3, t, h * side, w * side).

    LTX-2 orders a patch by colour, then column, then row.
    """
    split: Tensor = hidden.unflatten(1, (-1, side, side))  # batch, colours, columns, rows, t, h, w
    return split.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)
