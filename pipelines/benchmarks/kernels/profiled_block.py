"""The kernels of one steady block as a profiler sees them on a GPU, beside the count.

The passes are CUDA graphs there, as where streams are served.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from infra.config import RunConfig
from infra.records import Record
from pipelines.benchmarks.kernels.steady_stream import steady_stream
from pipelines.benchmarks.machine.device import DtypeName, synchronise
from pipelines.benchmarks.stand_ins.subject import random_subject

WAIT = "called a synchronizing CUDA operation"
UPLOAD, DOWNLOAD = "Memcpy HtoD", "Memcpy DtoH"
# What libraries add where they cut a product or an attention with few rows in several.
SUMS_OF_PARTS = ("splitkreduce", "splitkv_combine")


class ProfiledBlock(Record):
    """What ran on the GPU in one block.

    kernels: with copies and fills on the device. sums_of_parts: those among them that the count
    does not know of. difference: how many more kernels ran than were counted, as a share of those.
    host_syncs: how often PyTorch says that the host waited.
    """

    kernels: int
    counted: int
    difference: float
    sums_of_parts: int
    host_syncs: int
    uploads: int
    downloads: int
    by_name: dict[str, int]


@torch.no_grad()
def profile_block(
    config: RunConfig, dtype: DtypeName, device: torch.device, counted: int
) -> ProfiledBlock:
    """Run a stream on `device`, a GPU, up to a steady block, and profile that."""
    steady = steady_stream(random_subject(config, dtype, device))
    synchronise(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        with waits_told() as waits:
            steady.next_block()
        synchronise(device)
    names = (e.name for e in profiler.events() or () if e.device_type.name == "CUDA")
    return compared(names, counted, len(waits))


@contextmanager
def waits_told() -> Iterator[list[str]]:
    """Let PyTorch say each time that an operator waits for a GPU; its messages, when it is over."""
    told: list[str] = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield told
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told += [str(w.message) for w in caught if WAIT in str(w.message)]


def compared(names: Iterable[str], counted: int, host_syncs: int) -> ProfiledBlock:
    """What the profiler names, a name for each time, beside the `counted` kernels."""
    by_name = Counter(names)
    uploads = _starting_with(by_name, UPLOAD)
    downloads = _starting_with(by_name, DOWNLOAD)
    kernels = by_name.total() - uploads - downloads
    return ProfiledBlock(
        kernels=kernels,
        counted=counted,
        difference=kernels / counted - 1,
        sums_of_parts=sum(
            count
            for name, count in by_name.items()
            if any(part in name.lower() for part in SUMS_OF_PARTS)
        ),
        host_syncs=host_syncs,
        uploads=uploads,
        downloads=downloads,
        by_name=dict(by_name.most_common()),
    )


def _starting_with(by_name: Counter[str], start: str) -> int:
    return sum(count for name, count in by_name.items() if name.startswith(start))
