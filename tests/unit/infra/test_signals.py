"""Signals while processes start and stop."""

import signal
import threading

import pytest

from infra.signals import ignore_signals, in_main_thread, raise_system_exit


def test_a_second_interrupt_is_held_back_and_then_heard_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ignore_signals():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_has_no_handlers_to_hold_back() -> None:
    seen: list[tuple[bool, object]] = []

    def look() -> None:
        with ignore_signals():
            seen.append((in_main_thread(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]
    assert in_main_thread()


def test_the_exit_status_names_the_signal() -> None:
    with pytest.raises(SystemExit) as leaving:
        raise_system_exit(signal.SIGTERM, None)
    assert leaving.value.code == 143
