"""What a shape costs before anything runs: parameters, operations, memory, and floors of time.

The model is built on PyTorch's meta device, so the 19B shape takes a second and no memory. A floor
is what the work would take at a GPU's full rate, a bound that nothing real reaches.
"""

from typing import NamedTuple

import torch

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.flop_count import (
    PassFlops,
    block_flops,
    block_tokens,
    text_flops,
    visible_keys,
)
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.benchmarks.kernels.steady_stream import steady_block
from pipelines.benchmarks.machine.device import MIB, DtypeName
from pipelines.benchmarks.model.pass_work import pass_bytes


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
    with torch.device("meta"):
        parameters = sum(p.numel() for p in DualStreamTransformer(model).parameters())
    steady = steady_block(model.layout)
    keys = visible_keys(model, steady, grid)
    read = pass_bytes(config, dtype)
    passes = len(config.sampling.student_sigmas) + 1
    flops = [block_flops(model, index, grid, text) for index in range(steady + 1)]

    def floor_s(work: PassFlops) -> float:
        computing = work.total / accelerator.flops_per_second
        return max(computing, read.total / accelerator.bytes_per_second)

    first_blocks = BlockLayout(model.layout).blocks_for_seconds(1)
    # The pass that commits the last of them can wait until it is decoded.
    first_passes = [(k, passes - (k + 1 == first_blocks)) for k in range(first_blocks)]
    return ShapeReport(
        config=config.name,
        dtype=dtype,
        parameters=parameters,
        weights_gb=read.all_weights / 1e9,
        cache_mb=read.caches / MIB,
        text_mb=read.text / MIB,
        tokens_of_first_block=sum(block_tokens(model, 0, grid)),
        tokens_per_block=sum(block_tokens(model, 1, grid)),
        keys_of_settled_block=keys._asdict(),
        passes_per_block=passes,
        text_flops=text_flops(model, text),
        pass_flops_first_block=_flops_by_part(flops[0]),
        pass_flops_second_block=_flops_by_part(flops[1]),
        pass_flops_settled=_flops_by_part(flops[steady]),
        block_flops_settled=passes * flops[steady].total,
        flops_per_byte=flops[steady].total / read.total,
        accelerator=accelerator.name,
        floor_pass_s=floor_s(flops[steady]),
        floor_block_s=passes * floor_s(flops[steady]),
        floor_first_chunk_s=text_flops(model, text) / accelerator.flops_per_second
        + sum(count * floor_s(flops[k]) for k, count in first_passes),
        floor_frames_per_second=VIDEO_FPS / (passes * floor_s(flops[steady])),
    )


def _flops_by_part(flops: PassFlops) -> dict[str, int]:
    return flops._asdict() | {"total": flops.total}
