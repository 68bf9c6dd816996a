"""Memory of this process and of those it has started, sampled while something runs."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from infra.processes import proportional_memory_mib

SECONDS_BETWEEN = 1.0


class PeakMemory(NamedTuple):
    """Most that was held at a time, in MiB: by the driver, and by all its processes together
    (shared pages divided among those that share them)."""

    driver_mb: float
    all_mb: float


class _Peak:
    def __init__(self) -> None:
        self.value = PeakMemory(0.0, 0.0)

    def sample(self) -> None:
        memory = proportional_memory_mib()
        driver, together = memory.get(os.getpid(), 0.0), sum(memory.values())
        self.value = PeakMemory(max(self.value.driver_mb, driver), max(self.value.all_mb, together))


@contextmanager
def peak_memory() -> Iterator[_Peak]:
    """Sample meanwhile; the result's `value` is the peak so far."""
    peak, is_over = _Peak(), threading.Event()

    def sample_every_second() -> None:
        while not is_over.wait(SECONDS_BETWEEN):
            peak.sample()

    sampler = threading.Thread(target=sample_every_second, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        is_over.set()
        sampler.join()
        peak.sample()
