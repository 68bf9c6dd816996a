"""Memory of this process and of those it has started, sampled while something runs."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SECONDS_BETWEEN = 1.0
KIB_PER_MIB = 1024


class PeakMemory(NamedTuple):
    """Most that was held at a time, in MiB: by the driver, and by all its processes together
    (shared pages divided among those that share them)."""

    driver_mb: float
    all_mb: float


class _Peak:
    def __init__(self) -> None:
        self.value = PeakMemory(0.0, 0.0)

    def look(self) -> None:
        own = os.getpid()
        held = {process: _proportional_mb(process) for process in _descendants(own)}
        driver, everything = held.get(own, 0.0), sum(held.values())
        self.value = PeakMemory(
            max(self.value.driver_mb, driver), max(self.value.all_mb, everything)
        )


@contextmanager
def peak_memory() -> Iterator[_Peak]:
    """Sample meanwhile; the result's `value` is the peak so far."""
    peak, ended = _Peak(), threading.Event()

    def sample() -> None:
        while not ended.wait(SECONDS_BETWEEN):
            peak.look()

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        ended.set()
        sampler.join()
        peak.look()


def _descendants(process: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parent = int(status.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [process]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def _proportional_mb(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / KIB_PER_MIB
    return 0.0
