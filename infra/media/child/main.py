"""What the child does: one job, whose records go to standard output.

A record is a letter, the length of what follows in eight bytes, and that. Letters: H (it has
started; empty), J (facts, as JSON), P (a picture), S (sound), R (forget the pictures so far).
The last one is E: what went wrong, or `{"done": true}`.
"""

import errno
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import av
from av.error import FFmpegError

from infra.fault_numbers import CERTAIN_FROM_FFMPEG, OF_THE_MACHINE
from infra.media.child.damage import Damage
from infra.media.child.opening import ClipError
from infra.media.child.survey import survey
from infra.media.child.window import window

_PIECE_BYTES = 1 << 22
_LEAST_FREE_KB = 64 << 10

Send = Callable[[str, Any], None]
Job = Callable[[dict[str, Any], Send, Damage], None]
_JOBS: dict[str, Job] = {"survey": survey, "window": window}


def send(kind: str, content: Any) -> None:
    """Write a record; what is neither bytes nor a view of some is written as JSON."""
    if not isinstance(content, (bytes, bytearray, memoryview)):
        content = json.dumps(content).encode()
    output = sys.stdout.buffer
    output.write(struct.pack(">cQ", kind.encode(), len(content)))
    output.write(content)
    if kind == "J":  # somebody waits for it to decide
        output.flush()


def main() -> None:
    """Do the job that the first argument describes, as JSON."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    send("H", b"")
    request = json.loads(sys.argv[1])
    with av.logging.Capture(local=False) as logs:
        end = ending(request, _JOBS[request["job"]], Damage(logs))
    send("E", end)
    sys.stdout.buffer.flush()
    # Nothing is left to be done that could still crash.
    os._exit(0)


def ending(request: dict[str, Any], job: Job, damage: Damage) -> dict[str, Any]:
    """Do a job; the content of its last record."""
    path = str(request["path"])
    try:
        job(request, send, damage)
    except ClipError as error:
        return {"wrong": str(error).format(path=path)}
    except (FFmpegError, OSError, MemoryError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EPIPE and not isinstance(error, FFmpegError):  # nobody listens any more
            return {"done": True}
        return _wrong(error, number, path)
    except (ValueError, ArithmeticError, LookupError, UnicodeError) as error:
        return {"wrong": _unreadable(f"{type(error).__name__}: {error}", path)}
    return {"damage": damage.sentence} if damage.sentence else {"done": True}


def _wrong(error: BaseException, number: int | None, path: str) -> dict[str, Any]:
    """The fault of the machine, or that of the clip."""
    text = str(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        if _is_memory_short():
            return {"errno": errno.ENOMEM, "message": os.strerror(errno.ENOMEM)}
        return {"wrong": _unreadable("needs more memory than a clip may have", path)}
    if number in OF_THE_MACHINE:
        # FFmpeg also calls data that end too early an error of reading.
        if isinstance(error, FFmpegError) and number not in CERTAIN_FROM_FFMPEG:
            number = _error_of_reading(path)
        if number in OF_THE_MACHINE:
            return {"errno": number, "message": os.strerror(number)}
    return {"wrong": _unreadable(text, path)}


def _error_of_reading(path: str) -> int:
    """The number of the error with which the system refuses to read a file; 0 if it does not."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            while file.read(_PIECE_BYTES):
                pass
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _is_memory_short() -> bool:
    with open("/proc/meminfo", encoding="ascii") as facts:  # noqa: PTH123
        available = [line.split()[1] for line in facts if line.startswith("MemAvailable")]
    return bool(available) and int(available[0]) < _LEAST_FREE_KB


def _unreadable(text: str, path: str) -> str:
    return (
        f"expected a readable clip, got {' '.join(text.split())[:300]!r} for {path}; check the file"
    )
