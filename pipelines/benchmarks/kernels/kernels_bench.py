"""What a steady block of a stream launches on a GPU: kernels, calls, waits, bytes, operations.

Counted on the meta device, for any shape. A steady block is one whose window is full and for which
block 0 moves: its denoising passes, and the one that commits it.
"""

from collections import Counter

import torch

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.flop_count import block_flops
from omniforcing_model.streaming.cached_view import CachedView
from pipelines.benchmarks.kernels.kernel_counter import META, KernelCounter
from pipelines.benchmarks.kernels.known_shapes import EachCaseOnce, KnownShapes
from pipelines.benchmarks.kernels.profiled_block import ProfiledBlock, profile_block
from pipelines.benchmarks.kernels.steady_stream import steady_block, steady_rollout
from pipelines.benchmarks.machine.device import DtypeName
from pipelines.benchmarks.stand_ins.subject import random_subject


class KernelsBench(Record):
    """One block, everything in it; `view_and_anchor_kernels` are those of its view and of moving
    block 0.

    `calls_per_block`: operators that PyTorch dispatches, those without a kernel included.
    `host_syncs`: how often the host waits for the GPU; where, in `host_sync_places`. `uploads`,
    `downloads`: copies from and to the host. `bytes_*`: what kernels read and write, a tensor once
    for each kernel. `unknown`: operators that were taken for one kernel each. `profile`: of a GPU,
    where one was asked.
    """

    config: str
    dtype: str
    passes_per_block: int
    kernels_per_block: int
    view_and_anchor_kernels: int
    kernels_per_layer_and_pass: float
    calls_per_block: int
    view_and_anchor_calls: int
    host_syncs: int
    host_sync_places: dict[str, int]
    uploads: int
    downloads: int
    by_kind: dict[str, int]
    by_place: dict[str, int]
    view_and_anchor_by_place: dict[str, int]
    bytes_read: int
    bytes_written: int
    bytes_read_by_kind: dict[str, int]
    bytes_written_by_kind: dict[str, int]
    block_flops: int
    unknown: dict[str, int]
    profile: ProfiledBlock | None = None


def bench_kernels(config: RunConfig, dtype: DtypeName, device: torch.device) -> KernelsBench:
    """Count a steady block; where `device` is a GPU, also run one there and compare."""
    counted = count_kernels(config, dtype)
    if device.type != "cuda":
        return counted
    profiled = profile_block(config, dtype, device, counted.kernels_per_block)
    return counted.model_copy(update={"profile": profiled})


@torch.no_grad()
def count_kernels(config: RunConfig, dtype: DtypeName) -> KernelsBench:
    """Count a steady block of the run's shape in `dtype`."""
    known = KnownShapes()
    with EachCaseOnce(known):
        subject = random_subject(config, dtype, META)
        rollout = steady_rollout(subject)
    with KernelCounter(subject.model, known=known) as block:
        rollout.next_block()
        rollout.commit()
    with KernelCounter(subject.model, known=known) as view:
        CachedView(rollout.cache, rollout.block_index)
    model, passes = config.model, len(subject.sigmas) + 1
    flops = block_flops(
        model, steady_block(model.layout.window_blocks), subject.grid, config.codec.text_tokens
    )
    in_layers = block.kernels - view.kernels
    return KernelsBench(
        config=config.name,
        dtype=dtype,
        passes_per_block=passes,
        kernels_per_block=block.kernels,
        view_and_anchor_kernels=view.kernels,
        kernels_per_layer_and_pass=in_layers / (passes * model.layers),
        calls_per_block=block.calls,
        view_and_anchor_calls=view.calls,
        host_syncs=len(block.host_waits),
        host_sync_places=_most_first(Counter(map(" in ".join, block.host_waits))),
        uploads=block.uploads,
        downloads=block.downloads,
        by_kind=_most_first(block.by_kind),
        by_place=_most_first(block.by_place),
        view_and_anchor_by_place=_most_first(view.by_place),
        bytes_read=block.read_by_kind.total(),
        bytes_written=block.written_by_kind.total(),
        bytes_read_by_kind=_most_first(block.read_by_kind),
        bytes_written_by_kind=_most_first(block.written_by_kind),
        block_flops=passes * flops.total,
        unknown=_most_first(block.unknown),
    )


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
