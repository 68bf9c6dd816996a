"""Copies of files on this machine's temporary disk; what keeps us from writing is its fault."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import MachineError
from infra.machine_faults import machine_fault


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that goes when the block ends; MachineError if there cannot be one."""
    with scratch_faults("the folder for temporary files"):
        folder = tempfile.TemporaryDirectory(prefix="clip-", ignore_cleanup_errors=True)
    with folder as path:
        yield Path(path)


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
