"""A child process that decodes untrusted files: its time, memory and output are limited.

A clip is blamed for the processor time that it takes, which another load, a slow disk or a machine
that stands still do not change. That a child waits for ever is the machine's fault.

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

from infra.errors import DecoderEndedError, MachineError, MediaError
from infra.processes import processor_s

# Also of processor time, so that a child whose parent was killed ends by itself. The first limit
# ends it with a signal that says why, the second one by force.
_LIMIT = (
    'ulimit -c 0 && ulimit -v "$1" && ulimit -S -t "$2" && ulimit -H -t "$3" && shift 3'
    ' && exec "$@"'
)
_PIECE_BYTES = 1 << 18
_ERROR_BYTES = 1 << 14
# How often a child's processor time is looked at, in seconds by the clock. Where that takes twice
# as long, this process was stopped too, as by Ctrl-Z or with its container: that does not count.
_LOOK_S = 0.5
# A child that is one of so many on a processor may still take all of its processor time.
_SHARES = 10


class ChildLimits(NamedTuple):
    """What one decode may use.

    processor_s: of processor time. memory_mb: of address space, which is more than what is
    resident; 4 GiB hold sixteen reference pictures of 64 megapixels, and the largest frame to be
    filtered. least_wait_s: how long it is waited for by the clock, at least.
    """

    processor_s: float
    max_output_bytes: int
    memory_mb: int = 4096
    least_wait_s: float = 600.0

    @property
    def wait_s(self) -> float:
        """How long it is waited for a child, by the clock."""
        return self.least_wait_s + _SHARES * self.processor_s


def one_line(error: object) -> str:
    """The last line of a message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def decoded_pieces(command: Sequence[str], path: Path, limits: ChildLimits) -> Iterator[bytes]:
    """Run `command`, which decodes `path`, and give what it writes piece by piece.

    The child is stopped once it has written `limits.max_output_bytes`, which is no error, or when
    the caller stops asking. DecoderEndedError when it fails, MediaError when it takes more than
    `limits.processor_s`, MachineError when it does not get on at all, OSError when the machine
    cannot start it or ends it for want of memory.
    """
    ends_at = max(1, math.ceil(limits.processor_s))
    numbers = [str(number) for number in (limits.memory_mb << 10, ends_at, ends_at + 1)]
    limited = ["/bin/sh", "-c", _LIMIT, "sh", *numbers, *command]
    pipe = subprocess.PIPE
    with subprocess.Popen(limited, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:
        try:
            yield from _output(child, path, limits)
        finally:
            child.kill()


class _Watch:
    """Looks at what a child takes while it is waited for."""

    def __init__(self, pid: int, path: Path, limits: ChildLimits) -> None:
        self._pid, self._path, self._limits = pid, path, limits
        self._waited_s = 0.0
        self._looked_at = time.monotonic()

    def waited(self, seconds: float) -> None:
        """Add time by the clock, and look if it is time to."""
        self._waited_s += min(seconds, 2 * _LOOK_S)
        if time.monotonic() - self._looked_at >= _LOOK_S:
            self.look()

    def look(self) -> None:
        """MediaError if the child has taken too much time, MachineError if it does not get on."""
        self._looked_at = time.monotonic()
        path, limits, taken_s = self._path, self._limits, processor_s(self._pid)
        if taken_s > limits.processor_s:
            raise _timeout_error(path, limits)
        if self._waited_s > limits.wait_s:
            raise MachineError(
                f"expected a decoder of {path} to get on, got {taken_s:.1f} s of processor time in"
                f" {self._waited_s:.0f} s: it waits for a disk or a mount, is stopped, or has too"
                " many others beside it; look after the machine, then run the same command again:"
                " what is done stays done"
            )


def _output(child: subprocess.Popen[bytes], path: Path, limits: ChildLimits) -> Iterator[bytes]:
    assert child.stdout is not None
    assert child.stderr is not None
    left, errors = limits.max_output_bytes, b""
    watch = _Watch(child.pid, path, limits)
    with selectors.DefaultSelector() as pipes:
        pipes.register(child.stdout, selectors.EVENT_READ)
        pipes.register(child.stderr, selectors.EVENT_READ)
        while pipes.get_map():
            began = time.monotonic()
            ready = pipes.select(timeout=_LOOK_S)
            watch.waited(time.monotonic() - began)
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
    watch.look()
    _check_end(_status(child, watch), path, limits, errors)


def _status(child: subprocess.Popen[bytes], watch: _Watch) -> int:
    while True:
        try:
            return child.wait(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            watch.waited(_LOOK_S)


def _check_end(status: int, path: Path, limits: ChildLimits, errors: bytes) -> None:
    if status == -signal.SIGXCPU:
        raise _timeout_error(path, limits)
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
        f"expected {path} to decode within {limits.processor_s:g} s of processor time, got a"
        " timeout; raise the limit or drop the clip"
    )
