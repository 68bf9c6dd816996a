"""Files of this machine, or of a share that it has mounted: written whole, and read in parts."""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.machine_faults import machine_fault, machine_faults
from infra.storage.s3_bucket import PART_BYTES

# What file systems without hard links answer.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


@contextmanager
def unfinished_file(target: Path, content: bytes) -> Iterator[Path]:
    """`content` in a hidden file beside `target`, gone when the block ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
    try:
        unfinished.write_bytes(content)
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def size_and_time(path: Path) -> tuple[int, int]:
    """Of a file, or of a link to nowhere; 0 where even that may not be known."""
    for look in (path.stat, path.lstat):
        try:
            status = look()
        except OSError as error:
            if (fault := machine_fault(error, path)) is not None:
                raise fault from error
        else:
            return status.st_size, status.st_mtime_ns
    return 0, 0


def link_if_absent(unfinished: Path, path: Path, content: bytes) -> bool:
    """Give a written file its name unless it is taken, as also NFS does in one step."""
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:  # here readers may meet it half written
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    return True


def local_parts(path: str, offset: int, size: int | None) -> Iterator[bytes]:
    """`size` bytes of a file from `offset`, or all up to its end, part by part."""
    with machine_faults(path), Path(path).open("rb") as source:
        source.seek(offset)
        while part := source.read(PART_BYTES if size is None else min(PART_BYTES, size)):
            size = None if size is None else size - len(part)
            yield part
