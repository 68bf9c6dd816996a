"""The one place that asks what kind of device a measurement runs on: time and memory.

Work on a GPU is queued: a host clock would time the queueing. There, marks are events in the queue,
and reading them waits for the work before them.
"""

import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from infra.errors import ConfigError
from infra.machine import GIB, available_memory_gib

DeviceName = Literal["auto", "cpu", "cuda", "meta"]
DtypeName = Literal["float32", "bfloat16", "float8"]
# From the most exact on. Float8 is of the layers' projections; everything else is bfloat16 then.
DTYPES: dict[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float8": torch.bfloat16,
}
MIB = 2**20


class Stopwatch(Protocol):
    """Marks moments of the work on a device, and tells the time between two of them."""

    def mark(self) -> Any:
        """This moment."""
        ...

    def seconds(self, since: Any, until: Any) -> float:
        """Seconds that the device took from one moment to another."""
        ...


class HostStopwatch:
    """For devices that have done the work when the call returns."""

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, since: float, until: float) -> float:
        """Seconds between two marks."""
        return until - since


class CudaStopwatch:
    """For GPUs: marks are events in the current queue."""

    def mark(self) -> torch.cuda.Event:
        """An event after what is queued now."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, since: torch.cuda.Event, until: torch.cuda.Event) -> float:
        """Seconds between two events; waits for the later one."""
        until.synchronize()
        return float(since.elapsed_time(until)) / 1e3


def chosen_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one. ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "expected a GPU that PyTorch can use, got none; choose --device cpu, or meta for counts"
            " alone"
        )
    return torch.device(name)


def stopwatch_of(device: torch.device) -> Stopwatch:
    """The stopwatch for work on `device`."""
    return CudaStopwatch() if device.type == "cuda" else HostStopwatch()


def synchronise(device: torch.device) -> None:
    """Wait until the work queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(watch: Stopwatch, work: Callable[[], object]) -> float:
    """Seconds that the device takes for `work`."""
    began = watch.mark()
    work()
    return watch.seconds(began, watch.mark())


def peak_memory_mb(device: torch.device) -> float:
    """Most that was allocated on a GPU so far, or held by this process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` start again on a GPU; a process cannot forget its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_memory_bytes(device: torch.device) -> float:
    """What could be allocated now; without bound where nothing is allocated."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return available_memory_gib() * GIB if device.type == "cpu" else math.inf


def held_memory_mb(device: torch.device) -> float:
    """What is allocated on a GPU now, or resident of this process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MIB
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / MIB
