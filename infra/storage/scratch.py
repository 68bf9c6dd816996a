"""Copies of files on this machine's temporary disk; what keeps us from writing is its fault.

Each worker that makes some holds a lock in their folder. Copies of one that was killed are known by
it, and go with the next worker or at the end of the run.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import MachineError
from infra.machine_faults import machine_fault

_PREFIX = "omniforcing-copies-"
_LOCK = "lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that goes when the block ends; MachineError if there cannot be one."""
    with scratch_faults("the folder for temporary files"):
        folder, lock = locked_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def write_scratch(copy: Path, parts: Iterator[bytes]) -> tuple[int, str]:
    """Write a copy; its bytes and `sha256:...`. Errors of `parts`, or MachineError."""
    sha256, written = hashlib.sha256(), 0
    with scratch_faults(copy):
        sink = copy.open("wb")
    with sink:
        for part in parts:
            sha256.update(part)
            with scratch_faults(copy):
                written += sink.write(part)
                sink.flush()
    return written, f"sha256:{sha256.hexdigest()}"


@contextmanager
def scratch_faults(place: object) -> Iterator[None]:
    """Whatever keeps us from writing a copy is no fault of the file that is copied."""
    try:
        yield
    except OSError as error:
        raise machine_fault(error, place) or MachineError(
            f"expected to write a temporary file, got: {error}; set TMPDIR to a folder with room,"
            " then run the same command again: what is done stays done"
        ) from error


@contextmanager
def without_abandoned_copies() -> Iterator[None]:
    """Remove, before and at the end, what workers have left that were killed, as at the end of a
    cluster."""
    remove_abandoned()
    try:
        yield
    finally:
        remove_abandoned()


def remove_abandoned() -> None:
    """Remove what workers of this user that were killed have left on this machine."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            held = os.open(lock, os.O_RDWR)
            try:
                # A worker holds it for as long as it lives, whatever ends it.
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(held)


def locked_folder() -> tuple[Path, int]:
    """A new folder, and a lock in it that holds until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # It gets its name when it is locked: nobody takes the folder for abandoned before.
    unlocked = folder / f"{_LOCK}.new"
    try:
        lock = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # Some disks over the network have no locks: nobody else removes a folder there.
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(folder / _LOCK)
    return folder, lock
