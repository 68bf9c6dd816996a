"""What a shape costs before anything runs: parameters, operations, memory, and floors of time.

The model is built on PyTorch's meta device, so the 19B shape takes a second and no memory. A floor
is what the work would take at a GPU's full rate, a bound that nothing real reaches.
"""

from typing import NamedTuple

import torch

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.config import ModelConfig
from omniforcing_model.flop_count import (
    PassFlops,
    VisibleKeys,
    block_flops,
    block_tokens,
    text_flops,
    visible_keys,
)
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.benchmarks.machine.device import DTYPES, MIB, DtypeName

# Read once per prompt or per noise level, and kept.
NOT_IN_A_PASS = ("text_keys.", "caption_", "_embed.", "sinks.")


class Accelerator(NamedTuple):
    """Published rates: dense bfloat16 products, and memory."""

    name: str
    flops_per_second: float
    bytes_per_second: float


H200 = Accelerator("NVIDIA H200 SXM", 989e12, 4.8e12)


class ShapeReport(Record):
    """Counts of one stream; a steady block ("settled" in the keys) is one whose window is full.

    `floor_*`: at the accelerator's full rates, the longer of computing and of reading weights and
    caches from its memory.
    """

    config: str
    dtype: str
    parameters: int
    weights_gb: float
    cache_mb: float
    text_mb: float
    tokens_of_first_block: int
    tokens_per_block: int
    keys_of_settled_block: dict[str, int]
    passes_per_block: int
    text_flops: int
    pass_flops_first_block: dict[str, int]
    pass_flops_second_block: dict[str, int]
    pass_flops_settled: dict[str, int]
    block_flops_settled: int
    flops_per_byte: float
    accelerator: str
    floor_pass_s: float
    floor_block_s: float
    floor_first_chunk_s: float
    floor_frames_per_second: float


def report_shape(
    config: RunConfig, dtype: DtypeName, accelerator: Accelerator = H200
) -> ShapeReport:
    """Count the run's shape in `dtype`."""
    model, text = config.model, config.codec.text_tokens
    grid = latent_grid(config.data.height, config.data.width, model.spatial_stride)
    size = DTYPES[dtype].itemsize
    with torch.device("meta"):
        named = dict(DualStreamTransformer(model).named_parameters())
    parameters = sum(p.numel() for p in named.values())
    read = sum(p.numel() for n, p in named.items() if not any(part in n for part in NOT_IN_A_PASS))
    steady = model.layout.window_blocks + 2
    keys = visible_keys(model, steady, grid)
    cached, texts = _cached_values(model, keys), _text_values(model, text)
    read_bytes = size * (read + cached + texts)
    passes = len(config.sampling.student_sigmas) + 1
    flops = [block_flops(model, index, grid, text) for index in range(steady + 1)]

    def floor_s(work: PassFlops) -> float:
        computing = work.total / accelerator.flops_per_second
        return max(computing, read_bytes / accelerator.bytes_per_second)

    first_blocks = BlockLayout(model.layout).blocks_for_seconds(1)
    # The pass that commits the last of them can wait until it is decoded.
    first_passes = [(k, passes - (k + 1 == first_blocks)) for k in range(first_blocks)]
    return ShapeReport(
        config=config.name,
        dtype=dtype,
        parameters=parameters,
        weights_gb=parameters * size / 1e9,
        cache_mb=size * cached / MIB,
        text_mb=size * texts / MIB,
        tokens_of_first_block=sum(block_tokens(model, 0, grid)),
        tokens_per_block=sum(block_tokens(model, 1, grid)),
        keys_of_settled_block=keys._asdict(),
        passes_per_block=passes,
        text_flops=text_flops(model, text),
        pass_flops_first_block=_flops_by_part(flops[0]),
        pass_flops_second_block=_flops_by_part(flops[1]),
        pass_flops_settled=_flops_by_part(flops[steady]),
        block_flops_settled=passes * flops[steady].total,
        flops_per_byte=flops[steady].total / read_bytes,
        accelerator=accelerator.name,
        floor_pass_s=floor_s(flops[steady]),
        floor_block_s=passes * floor_s(flops[steady]),
        floor_first_chunk_s=text_flops(model, text) / accelerator.flops_per_second
        + sum(count * floor_s(flops[k]) for k, count in first_passes),
        floor_frames_per_second=VIDEO_FPS / (passes * floor_s(flops[steady])),
    )


def _flops_by_part(flops: PassFlops) -> dict[str, int]:
    return flops._asdict() | {"total": flops.total}


def _cached_values(config: ModelConfig, keys: VisibleKeys) -> int:
    """Numbers that the four caches hold when the window is full: keys and values."""
    video, audio = config.video.width, config.audio.width
    per_layer = keys.video_self * video + audio * (
        keys.audio_self + keys.audio_to_video + keys.video_to_audio
    )
    return 2 * config.layers * per_layer


def _text_values(config: ModelConfig, tokens: int) -> int:
    return 2 * config.layers * tokens * (config.video.width + config.audio.width)
