"""LTX-2's audio VAE decoder, chunk by chunk, with the weights and layers of diffusers' class.

Source: the structure of `AutoencoderKLLTX2Audio.decoder`. It is causal in time, so a stream is
exact as soon as its convolutions remember two rows each.
"""

import math
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from omniforcing_model.codecs.ltx2.streaming_convolutions import ConvolutionMemory
from omniforcing_model.errors import WeightsError


def require_causal(config: Any) -> None:
    """WeightsError for an audio VAE that reads more than the past, by its diffusers config."""
    attends = bool(config.mid_block_add_attention or config.attn_resolutions)
    if config.causality_axis != "height" or config.norm_type != "pixel" or attends:
        raise WeightsError(
            "expected an audio VAE that is causal in time (axis height, norm pixel, no attention),"
            f" got axis {config.causality_axis}, norm {config.norm_type}, attention {attends};"
            " take the one of LTX-2.0 or 2.3"
        )


def mel_reach(decoder: Any) -> int:
    """Latents before one that its mel frames depend on."""
    rows, scale = Fraction(_rows(decoder.conv_in)), 1
    rows += _rows_of_resnet(decoder.mid.block_1) + _rows_of_resnet(decoder.mid.block_2)
    for stage in reversed(decoder.up):
        rows += Fraction(sum(map(_rows_of_resnet, stage.block)), scale)
        if hasattr(stage, "upsample"):
            scale *= 2
            rows += Fraction(_rows(stage.upsample.conv), scale)
    return math.ceil(rows + Fraction(_rows(decoder.conv_out), scale))


def _rows_of_resnet(block: Any) -> int:
    return _rows(block.conv1) + _rows(block.conv2)


def _rows(convolution: Any) -> int:
    """Rows before one that a causal convolution reads."""
    return int(convolution.padding[2])


class MelChunkDecoder:
    """Decodes one stream of latents to log-mel frames."""

    def __init__(self, decoder: Any, started: bool = False) -> None:
        """Of a diffusers decoder that `require_causal` accepts; `started` says that the latents
        before the first one are left out."""
        self._decoder = decoder
        self._memory = ConvolutionMemory()
        self._started = started

    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next n >= 1 latents, with the statistics of the VAE.

        latents: (batch, channels, n, bins). Returns (batch, 2, frames, mel bands); frames is 4 n,
        or 3 less in the first call.
        """
        decoder = self._decoder
        hidden = self._convolve(decoder.conv_in, latents)
        hidden = self._resnet(decoder.mid.block_1, hidden)
        hidden = self._resnet(decoder.mid.block_2, hidden)
        for stage in reversed(decoder.up):
            for block in stage.block:
                hidden = self._resnet(block, hidden)
            if hasattr(stage, "upsample"):  # the last stage has none
                hidden = self._upsample(stage.upsample, hidden)
        hidden = decoder.non_linearity(decoder.norm_out(hidden))
        self._started = True
        return self._convolve(decoder.conv_out, hidden)[..., : decoder.mel_bins]

    def _resnet(self, block: Any, hidden: Tensor) -> Tensor:
        inner = self._convolve(block.conv1, block.non_linearity(block.norm1(hidden)))
        inner = self._convolve(block.conv2, block.non_linearity(block.norm2(inner)))
        if block.in_channels != block.out_channels:
            name = "conv_shortcut" if block.use_conv_shortcut else "nin_shortcut"
            hidden = self._convolve(getattr(block, name), hidden)
        return hidden + inner

    def _upsample(self, upsampler: Any, hidden: Tensor) -> Tensor:
        larger = nn.functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
        convolved = self._convolve(upsampler.conv, larger)
        # The first latent holds one frame: the row before it precedes the clip.
        return convolved if self._started else convolved[:, :, 1:]

    def _convolve(self, module: Any, hidden: Tensor) -> Tensor:
        low, high, before, _ = module.padding
        start = hidden.new_zeros((*hidden.shape[:2], before, hidden.shape[3]))
        extended = self._memory.extend(module, hidden, start, hidden.shape[2])
        convolved: Tensor = module.conv(nn.functional.pad(extended, (low, high)))
        return convolved
