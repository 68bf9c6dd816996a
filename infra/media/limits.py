"""A child process that decodes untrusted files: its time, memory and output are limited.

The limits are set by the shell that becomes the child (`ulimit`, then `exec`), not by code between
fork and exec, which is unsafe in a process with threads.
"""

import errno
import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from infra.errors import DecoderEndedError, MediaError

# Also of CPU seconds, so that a child whose parent was killed ends by itself.
_LIMIT = 'ulimit -c 0 && ulimit -v "$1" && ulimit -t "$2" && shift 2 && exec "$@"'
_PIECE_BYTES = 1 << 18
_ERROR_BYTES = 1 << 14


class ChildLimits(NamedTuple):
    """What one decode may use. `memory_mb` is address space, which is more than what is resident.

    4 GiB hold sixteen reference pictures of 64 megapixels, and the largest frame to be filtered.
    """

    timeout_s: float
    max_output_bytes: int
    memory_mb: int = 4096


def one_line(error: object) -> str:
    """The last line of a message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def decoded_pieces(command: Sequence[str], path: Path, limits: ChildLimits) -> Iterator[bytes]:
    """Run `command`, which decodes `path`, and give what it writes piece by piece.

    The child is stopped once it has written `limits.max_output_bytes`, which is no error, or when
    the caller stops asking. DecoderEndedError when it fails, MediaError when it takes longer than
    `limits.timeout_s`, OSError when the machine cannot start it or ends it for want of memory.
    """
    deadline = time.monotonic() + limits.timeout_s
    cpu_s = math.ceil(limits.timeout_s) + 1
    limited = ["/bin/sh", "-c", _LIMIT, "sh", str(limits.memory_mb << 10), str(cpu_s), *command]
    pipe = subprocess.PIPE
    with subprocess.Popen(limited, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:
        try:
            yield from _output(child, path, limits, deadline)
        finally:
            child.kill()


def _output(
    child: subprocess.Popen[bytes], path: Path, limits: ChildLimits, deadline: float
) -> Iterator[bytes]:
    assert child.stdout is not None
    assert child.stderr is not None
    left, errors = limits.max_output_bytes, b""
    with selectors.DefaultSelector() as pipes:
        pipes.register(child.stdout, selectors.EVENT_READ)
        pipes.register(child.stderr, selectors.EVENT_READ)
        while pipes.get_map():
            ready = pipes.select(timeout=max(0.0, deadline - time.monotonic()))
            if time.monotonic() > deadline:
                raise _timeout_error(path, limits)
            for key, _ in ready:
                source: IO[bytes] = key.fileobj  # type: ignore[assignment]
                piece = source.read1(_PIECE_BYTES)  # type: ignore[attr-defined]
                if not piece:
                    pipes.unregister(source)
                elif source is child.stderr:
                    errors = (errors + piece)[-_ERROR_BYTES:]
                else:
                    yield piece[:left]
                    left -= len(piece)
            if left <= 0:
                return
    _check_end(child, path, limits, deadline, errors)


def _check_end(
    child: subprocess.Popen[bytes], path: Path, limits: ChildLimits, deadline: float, errors: bytes
) -> None:
    try:
        status = child.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _timeout_error(path, limits) from None
    if status == -signal.SIGKILL:  # nobody here did it: the system does when memory is short
        raise OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)}: {path}")
    if status != 0:
        message = one_line(errors.decode(errors="replace"))
        if status < 0:
            message = f"signal {-status}"
        raise DecoderEndedError(
            f"expected a readable clip, got {message!r} for {path}; check the file"
        )


def _timeout_error(path: Path, limits: ChildLimits) -> MediaError:
    return MediaError(
        f"expected {path} to decode within {limits.timeout_s:g} s, got a timeout; "
        "raise the limit or drop the clip"
    )
