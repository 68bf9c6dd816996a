"""What a steady block of a stream launches on a GPU: kernels, calls, waits, bytes, operations.

Counted on the meta device, for any shape, along the path of a served stream: the only row of a
batch, whose passes are graphs. A steady block is one whose window is full and for which the pinned
blocks move: its denoising passes, and the one that commits it.
"""

from collections import Counter
from collections.abc import Hashable

import torch
from torch import Tensor

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.flop_count import block_flops
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.passes import PassInputs, PassKind, denoise
from omniforcing_model.streaming.rows_view import RowPlaces, RowsView
from pipelines.benchmarks.kernels.kernel_counter import META, KernelCounter, KernelCounts
from pipelines.benchmarks.kernels.known_shapes import EachCaseOnce, KnownShapes
from pipelines.benchmarks.kernels.profiled_block import ProfiledBlock, profile_block
from pipelines.benchmarks.kernels.steady_stream import steady_block, steady_stream
from pipelines.benchmarks.machine.device import DtypeName
from pipelines.benchmarks.stand_ins.subject import random_subject


class KernelsBench(Record):
    """One block, everything in it; `view_and_anchor_kernels` are those of its view and of moving
    the pinned blocks.

    `calls_per_block`: operators that PyTorch dispatches, those without a kernel included.
    `calls_beside_graphs`: those that are left of them where passes are replayed.
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
    calls_beside_graphs: int
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
    known, passes = KnownShapes(), _PassesInBuffers()
    with EachCaseOnce(known):
        subject = random_subject(config, dtype, META)
        steady = steady_stream(subject, passes)
        places = RowPlaces(steady.batch.cache)
    with KernelCounter(subject.model, known=known) as block:
        passes.begin(block)
        steady.next_block()
    count = len(subject.sigmas) + 1
    with KernelCounter(subject.model, known=known) as view:
        places.move(0, steady.stream.block_index)
        for _ in range(count):
            RowsView(places, slice(0, 1), masked=False)
    model = config.model
    flops = block_flops(model, steady_block(model.layout), subject.grid, config.codec.text_tokens)
    in_layers = block.kernels - view.kernels
    return KernelsBench(
        config=config.name,
        dtype=dtype,
        passes_per_block=count,
        kernels_per_block=block.kernels,
        view_and_anchor_kernels=view.kernels,
        kernels_per_layer_and_pass=in_layers / (count * model.layers),
        calls_per_block=block.calls,
        calls_beside_graphs=block.calls - passes.calls,
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
        block_flops=count * flops.total,
        unknown=_most_first(block.unknown),
    )


class _PassesInBuffers:
    """Passes that read what changes from buffers, as captured ones do; their calls are counted, for
    a replay makes none of them."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, PassInputs] = {}
        self._counts = KernelCounts()
        self.calls = 0

    def begin(self, counts: KernelCounts) -> None:
        """Tell the calls of passes from all that are counted in `counts`."""
        self._counts, self.calls = counts, 0

    def __call__(self, kind: PassKind, inputs: PassInputs) -> PerStream[Tensor]:
        """`denoise(kind, inputs)`."""
        if kind.name not in self._kept:
            self._kept[kind.name] = inputs.kept()
        self._kept[kind.name].take(inputs)
        before = self._counts.calls
        clean = denoise(kind, self._kept[kind.name])
        self.calls += self._counts.calls - before
        return clean


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
