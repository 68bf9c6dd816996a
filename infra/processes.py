"""Processes below this one: found by what they belong to, and ended; nobody else's are touched."""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

POLL_S = 0.05
MIB = 2**20


def processes_of(folder: Path) -> set[psutil.Process]:
    """Every process below this one that names `folder` in its command line, or comes from one that
    does: daemons carry their folder there, what they start may rename itself."""
    processes: set[psutil.Process] = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if str(folder) in " ".join(process.cmdline()):
                processes |= {process, *process.children(recursive=True)}
    return processes


def is_running(process: psutil.Process) -> bool:
    """Whether it lives; one that has ended may wait for its parent to notice, and counts as gone.

    A process knows when it began: another one that got its id later is not taken for it.
    """
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_processes(processes: Iterable[psutil.Process], patience_s: float) -> None:
    """Return when all `processes` are gone; kill those that stay longer than `patience_s`."""
    # Not psutil.wait_procs: it would wait for ever for an ended process that nobody collects.
    kill_at = time.monotonic() + patience_s
    remaining = list(processes)
    while remaining := [process for process in remaining if is_running(process)]:
        if time.monotonic() > kill_at:
            for process in remaining:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(POLL_S)


def proportional_memory_mib() -> dict[int, float]:
    """Memory of this process and of all below it by id, shared pages divided among who shares
    them."""
    own = psutil.Process()
    memory: dict[int, float] = {}
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory[process.pid] = process.memory_full_info().pss / MIB
    return memory
