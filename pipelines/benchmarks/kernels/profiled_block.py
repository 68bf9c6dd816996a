"""The kernels of one steady block as a profiler sees them on a GPU, beside the count.

The passes are CUDA graphs there, as where streams are served.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from infra.config import RunConfig
from infra.records import Record
from pipelines.benchmarks.kernels.steady_stream import steady_stream
from pipelines.benchmarks.machine.device import DtypeName, synchronise
from pipelines.benchmarks.stand_ins.subject import random_subject

UPLOAD, DOWNLOAD = "Memcpy HtoD", "Memcpy DtoH"
# What libraries add where they cut a product or an attention with few rows in several.
SUMS_OF_PARTS = ("splitkreduce", "splitkv_combine")


class ProfiledBlock(Record):
    """What ran on the GPU in one block.

    kernels: with copies and fills on the device. sums_of_parts: those among them that the count
    does not know of. difference: how many more kernels ran than were counted, as a share of those.
    """

    kernels: int
    counted: int
    difference: float
    sums_of_parts: int
    uploads: int
    downloads: int
    by_name: dict[str, int]


@torch.inference_mode()
def profile_block(
    config: RunConfig, dtype: DtypeName, device: torch.device, counted: int
) -> ProfiledBlock:
    """Run a stream on `device`, a GPU, up to a steady block, and profile that."""
    steady = steady_stream(random_subject(config, dtype, device))
    synchronise(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        steady.next_block()
        synchronise(device)
    events = profiler.events() or ()
    return compared((e.name for e in events if e.device_type.name == "CUDA"), counted)


def compared(names: Iterable[str], counted: int) -> ProfiledBlock:
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
        uploads=uploads,
        downloads=downloads,
        by_name=dict(by_name.most_common()),
    )


def _starting_with(by_name: Counter[str], start: str) -> int:
    return sum(count for name, count in by_name.items() if name.startswith(start))
