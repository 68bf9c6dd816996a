"""Signals while processes start and stop."""

import signal
import threading

import pytest

from infra.signals import ignore_signals, in_main_thread, noted_signals, raise_system_exit


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_noted_signal_lets_the_block_end_and_then_does_what_it_does(number: int) -> None:
    before = signal.signal(number, raise_system_exit)
    done = []
    try:
        with pytest.raises(SystemExit) as leaving, noted_signals() as has_signal:
            done.append(has_signal())
            signal.raise_signal(number)
            done.append(has_signal())
        assert signal.getsignal(number) is raise_system_exit
    finally:
        signal.signal(number, before)
    assert done == [False, True]
    assert leaving.value.code == 128 + number


def test_a_second_signal_does_not_wait_for_the_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), noted_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done = True
    assert not done


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noted_signals() as has_signal:
            signal.raise_signal(signal.SIGINT)
            assert not has_signal()
    finally:
        signal.signal(signal.SIGINT, before)
