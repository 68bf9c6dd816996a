"""SIGINT and SIGTERM while processes start, work and stop; the main thread alone has handlers."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


def in_main_thread() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()


def raise_system_exit(number: int, _frame: FrameType | None) -> None:
    """A handler that unwinds; the exit status names the signal, as shells do."""
    raise SystemExit(128 + number)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """A second Ctrl-C must not interrupt a clean-up, whose time the caller bounds."""
    if not in_main_thread():
        yield
        return
    previous = [signal.signal(number, signal.SIG_IGN) for number in STOPPING]
    try:
        yield
    finally:
        for number, handler in zip(STOPPING, previous, strict=True):
            signal.signal(number, handler)


@contextmanager
def noted_signals() -> Iterator[Callable[[], bool]]:
    """Note SIGINT or SIGTERM, so that the block may end in its own time; yields whether one came.

    It does at the end of the block what it does elsewhere at once, and so does a second one,
    wherever the block is. What is ignored stays ignored.
    """
    if not in_main_thread():
        yield lambda: False
        return
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    heard = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    noted: list[int] = []

    def restore() -> None:
        for number, handler in heard.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)
        restore()

    for number in heard:
        signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        restore()
    if noted:
        signal.raise_signal(noted[0])
