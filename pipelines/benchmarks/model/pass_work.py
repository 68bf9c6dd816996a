"""Operations and bytes of a pass and of a block, counted from the shape of a run.

Weights are read once a pass, and so are the text's keys and values and the caches of a full window.
What is computed once per prompt or per noise level is part of no pass.
"""

from typing import NamedTuple

import torch
from torch import nn

from infra.config import RunConfig
from omniforcing_model.config import ModelConfig
from omniforcing_model.flop_count import VisibleKeys, block_flops, visible_keys
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.float8 import is_projection_of_a_layer
from pipelines.benchmarks.kernels.steady_stream import steady_block
from pipelines.benchmarks.machine.device import DTYPES, DtypeName
from pipelines.benchmarks.machine.roofline import BlockWork

NOT_IN_A_PASS = ("text_keys.", "caption_", "_embed.", "sinks.")


class PassBytes(NamedTuple):
    """What one pass of a steady block reads, and all weights, in bytes."""

    weights: int
    caches: int
    text: int
    all_weights: int

    @property
    def total(self) -> int:
        """Read by a pass."""
        return self.weights + self.caches + self.text


def pass_bytes(config: RunConfig, dtype: DtypeName) -> PassBytes:
    """Counted on the meta device."""
    model = config.model
    grid = latent_grid(config.data.height, config.data.width, model.spatial_stride)
    size = DTYPES[dtype].itemsize
    with torch.device("meta"):
        sizes = _weight_bytes(DualStreamTransformer(model), dtype)
    keys = visible_keys(model, steady_block(model.layout), grid)
    return PassBytes(
        weights=sum(n for name, n in sizes.items() if not any(p in name for p in NOT_IN_A_PASS)),
        caches=size * cached_values(model, keys),
        text=size * text_values(model, config.codec.text_tokens),
        all_weights=sum(sizes.values()),
    )


def block_work(config: RunConfig, dtype: DtypeName) -> BlockWork:
    """A steady block: its denoising passes and the one that commits it."""
    model = config.model
    grid = latent_grid(config.data.height, config.data.width, model.spatial_stride)
    flops = block_flops(model, steady_block(model.layout), grid, config.codec.text_tokens)
    products = flops.video_products + flops.audio_products
    passes = len(config.sampling.student_sigmas) + 1
    return BlockWork(
        products=passes * products,
        attention=passes * (flops.total - products),
        bytes=passes * pass_bytes(config, dtype).total,
    )


def cached_values(config: ModelConfig, keys: VisibleKeys) -> int:
    """Numbers that the four caches hold when the window is full: keys and values."""
    video, audio = config.video.width, config.audio.width
    per_layer = keys.video_self * video + audio * (
        keys.audio_self + keys.audio_to_video + keys.video_to_audio
    )
    return 2 * config.layers * per_layer


def text_values(config: ModelConfig, tokens: int) -> int:
    """Numbers of the text's keys and values."""
    return 2 * config.layers * tokens * (config.video.width + config.audio.width)


def _weight_bytes(model: nn.Module, dtype: DtypeName) -> dict[str, int]:
    """Bytes of every parameter; in float8 a converted layer's weight takes one each."""
    plain = DTYPES[dtype].itemsize
    converted = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if dtype == "float8" and is_projection_of_a_layer(module, path)
    }
    return {
        name: parameter.numel() * (1 if name in converted else plain)
        for name, parameter in model.named_parameters()
    }
