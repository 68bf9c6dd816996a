"""What is this machine's fault and no file's: it is full, out of files or memory, or a disk fails.

The operating system says so by number; Python, torch and SQLite have exceptions of their own for
memory and full disks. Such an error ends a run: what a file is blamed for on a bad day would stay.
"""

import errno
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import ClusterError, MachineError, RewriterError, ServerError, StoreError
from infra.fault_numbers import CERTAIN_FROM_FFMPEG, FILES, MEMORY, OF_THE_MACHINE, ROOM
from omniforcing_model.errors import OmniForcingError

# These say already whose fault it is, whatever number is below them.
_OTHERS = (StoreError, RewriterError, ServerError, ClusterError)
_FFMPEG = "av."
_SQLITE_NUMBERS = {7: errno.ENOMEM, 10: errno.EIO, 13: errno.ENOSPC}
# Exceptions without a number, by what their message holds.
_WORDS = {
    "can't start new thread": errno.ENOMEM,
    "can't allocate memory": errno.ENOMEM,  # torch on a CPU
}
# Libraries in Rust tell the number in their message.
_RUST = re.compile(r"\(os error (\d+)\)")
_TORCH_MEMORY = "OutOfMemoryError"
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
_PROBE_BYTES = 4096
_LONGEST = 300
_AGAIN = "then run the same command again: what is done stays done"


def machine_fault(error: BaseException | None, place: object = "") -> MachineError | None:
    """The machine's fault that `error` is, or comes from; None if it is something else.

    place: the file or folder that was at work, where the error does not name it.
    """
    said: BaseException | None = None
    while error is not None and not isinstance(error, _OTHERS):
        if isinstance(error, MachineError):
            return error
        if said is None and isinstance(error, OmniForcingError):
            said = error
        number = _number(error)
        if number is not None:
            named = _named(error) or str(place)
            # An error of ours says which file it was.
            return MachineError(_sentence(error if named else said or error, number, named))
        error = error.__cause__
    return None


@contextmanager
def machine_faults(place: object = "") -> Iterator[None]:
    """Raise what is the machine's fault as MachineError, and other errors as they are."""
    try:
        yield
    except Exception as error:
        fault = machine_fault(error, place)
        if fault is None or fault is error:
            raise
        raise fault from error


def require_room(folder: Path) -> None:
    """MachineError if nothing can be written into `folder`: for libraries that try for minutes."""
    with machine_faults(folder), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(_PROBE_BYTES))
        probe.flush()


def _number(error: BaseException) -> int | None:
    """The number of a fault of the machine; None if the error is none by itself."""
    number: int | None = None
    if isinstance(error, OSError) and error.errno is not None:
        number = error.errno
        if str(error.strerror).startswith(_NO_TEMPORARY_FOLDER):
            number = errno.ENOSPC
    elif isinstance(error, MemoryError) or type(error).__name__ == _TORCH_MEMORY:
        number = errno.ENOMEM
    elif hasattr(error, "sqlite_errorcode"):
        number = _SQLITE_NUMBERS.get(error.sqlite_errorcode & 0xFF)
    elif isinstance(error, RuntimeError):
        number = next((n for words, n in _WORDS.items() if words in str(error)), None)
    elif found := _RUST.search(str(error)):
        number = int(found[1])
    is_ffmpeg = type(error).__module__.startswith(_FFMPEG)
    known = CERTAIN_FROM_FFMPEG if is_ffmpeg else OF_THE_MACHINE
    return number if number in known else None


def _named(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def _sentence(error: BaseException, number: int, place: str) -> str:
    where = f" at {place}" if place else ""
    got = " ".join(str(error).split()) or type(error).__name__
    if len(got) > _LONGEST:  # as with the name of a file in it, before what is wrong
        got = f"{os.strerror(number)}: {got[:_LONGEST]}"
    if number in ROOM:
        expected, do = f"room to write{where}", "free space there, or raise the quota"
    elif number in FILES:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        expected = f"one more file to open{where} (ulimit -n is {limit})"
        do = "raise the limit, as by ulimit -n 65536"
    elif number in MEMORY:
        expected = f"enough memory and processes{where}"
        do = "free some, or lower the claims under cluster.*"
    else:
        expected, do = f"a disk or a mount that works{where}", "look after it"
    return f"expected {expected}, got: {got}; {do}, {_AGAIN}"
