"""Processes below this one: found by what they belong to, and ended; nobody else's are touched."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

POLL_S = 0.05
# In /proc/PID/stat: states of a process that has ended; what is counted from after the state.
_ENDED = ("Z", "X", "x")
_USER_TIME, _SYSTEM_TIME, _START_TIME = 10, 11, 18
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
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


def start_ticks(pid: int) -> int | None:
    """When a process began, in the kernel's ticks since the machine did: with its id it names it
    for good, whatever is done to the clock. None if there is none, or it has ended."""
    try:
        state, *fields = _status(pid)
    except OSError:
        return None
    return None if state in _ENDED else int(fields[_START_TIME])


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used; also of one that has ended, until its
    parent asks how. ProcessLookupError or FileNotFoundError if there is none."""
    _, *fields = _status(pid)
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS_PER_S


def is_process(pid: int, began: int) -> bool:
    """Whether the process `pid` that began at `began` (see `start_ticks`) lives, or may live:
    other users' processes can be hidden."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, there is one
        return start_ticks(pid) in (began, None)
    return start_ticks(pid) == began


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


def own_age_s() -> float:
    """Seconds since this process began."""
    return time.time() - float(psutil.Process().create_time())


def _status(pid: int) -> list[str]:
    """State of a process, and the numbers that follow it in /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def proportional_memory_mib() -> dict[int, float]:
    """Memory of this process and of all below it by id, shared pages divided among who shares
    them."""
    own = psutil.Process()
    memory: dict[int, float] = {}
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory[process.pid] = process.memory_full_info().pss / MIB
    return memory
