"""`omniforcing serve` as a child process: started, ready, and gone at the end."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from infra.errors import ClusterError
from infra.signals import ignore_signals

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 45.0
POLL_S = 0.2
SHOWN_LINES = 3


class Server(NamedTuple):
    """A server that accepts streams: its URL, and the model it serves with the digest."""

    url: str
    model: str


@contextmanager
def run_server(arguments: Sequence[str], log: Path) -> Iterator[Server]:
    """Run `omniforcing serve` with `arguments` within the block; its log goes to the file `log`.

    At the end the child is asked to stop everything it has started, and killed with all its
    processes if it does not. ClusterError if it does not come up; the message quotes the end of its
    log.
    """
    # By module, so that it also works from a checkout that is not installed.
    command = [sys.executable, "-m", "serve.cli", "serve", "--json", *arguments]
    with log.open("wb") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            yield _wait_until_ready(child, log)
        finally:
            with ignore_signals():
                _stop(child)


def _wait_until_ready(child: subprocess.Popen[bytes], log: Path) -> Server:
    assert child.stdout is not None
    line = _read_line(child.stdout, START_TIMEOUT_S)
    try:
        answer = json.loads(line)
        return Server(answer["url"], answer["model"])
    except (ValueError, KeyError, TypeError) as error:
        lines = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
        last = " / ".join(lines[-SHOWN_LINES:]) or "nothing"
        raise ClusterError(
            f"expected the server to say that it is ready, got: {last}; {log} has all of it"
        ) from error


def _read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """The first line of a pipe; what there is of it if the pipe closes or time runs out."""
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n") and time.monotonic() < deadline:
        readable, _, _ = select.select([stream], [], [], POLL_S)
        if readable:
            part = os.read(stream.fileno(), 1 << 16)
            if not part:
                break
            line += part
    return line


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.stdout is not None:
        child.stdout.close()
