"""SIGINT and SIGTERM while processes start and stop; the main thread alone has handlers."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
