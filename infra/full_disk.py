"""A disk that fills up under Ray: its workers cannot write their logs, die, and are started again.

That goes on for minutes, in many lines that do not say why. So this process looks, too.
"""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import MachineError
from infra.machine_faults import machine_fault
from infra.signals import ignore_signals, in_main_thread

SECONDS_BETWEEN_LOOKS = 1.0
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_PROBE = "is_there_room"
_PROBE_BYTES = 4096


@contextmanager
def interrupted_by_full_disk(
    folder: Path, seconds_between_looks: float = SECONDS_BETWEEN_LOOKS
) -> Iterator[None]:
    """Raise MachineError in the main thread as soon as nothing can be written into `folder`."""
    if not in_main_thread():
        yield
        return
    watch = _Watch(folder, seconds_between_looks)
    watch.start()
    try:
        with _interruptible(watch):
            yield
    except (KeyboardInterrupt, SystemExit):  # what the program makes of SIGINT
        if watch.fault is None:
            raise
        raise watch.fault from None
    finally:
        with ignore_signals():
            watch.end()


@contextmanager
def _interruptible(watch: "_Watch") -> Iterator[None]:
    """Let the watch interrupt a program that was started without Ctrl-C, as in the background."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    def interrupt(*_: object) -> None:
        if watch.fault is not None:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Watch(threading.Thread):
    """Interrupts the main thread once, as Ctrl-C would."""

    def __init__(self, folder: Path, seconds_between_looks: float) -> None:
        super().__init__(name="full-disk", daemon=True)
        self._seconds_between_looks = seconds_between_looks
        self.fault: MachineError | None = None
        self._probe = folder / _PROBE
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(self._seconds_between_looks):
            try:
                self._probe.write_bytes(bytes(_PROBE_BYTES))
                self._probe.unlink()
            except OSError as error:
                # A limit of this process alone says nothing about the disk.
                if error.errno in _OF_THE_DISK:
                    self.fault = machine_fault(error, self._probe.parent)
                    main = threading.main_thread().ident
                    assert main is not None, "it has started us"
                    signal.pthread_kill(main, signal.SIGINT)
                    return

    def end(self) -> None:
        self._is_over.set()
        self.join()
