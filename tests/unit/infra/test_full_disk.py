"""A program that waits for others hears of a full disk, and of nothing else."""

import resource
import signal
import threading
import time

import pytest

from infra.errors import MachineError
from infra.full_disk import interrupted_by_full_disk

LOOKS_S = 0.05


@pytest.fixture
def full(tmp_path):
    """A folder in which the file that is tried finds no room."""
    (tmp_path / "is_there_room").symlink_to("/dev/full")
    return tmp_path


def test_whoever_waits_is_interrupted_when_the_disk_is_full(full):
    began = time.monotonic()
    with pytest.raises(MachineError, match=rf"room to write at {full}.*No space left"):  # noqa: SIM117
        with interrupted_by_full_disk(full, LOOKS_S):
            threading.Event().wait(60)
    assert time.monotonic() - began < 10


def test_a_program_in_the_background_hears_of_it_and_of_no_ctrl_c(full, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupted_by_full_disk(tmp_path / "gone", LOOKS_S):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(MachineError), interrupted_by_full_disk(full, LOOKS_S):
            threading.Event().wait(60)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_room_and_a_folder_that_is_gone_interrupt_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with interrupted_by_full_disk(folder, LOOKS_S):
            time.sleep(2.5 * LOOKS_S)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stays_what_it_is(tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), interrupted_by_full_disk(tmp_path, LOOKS_S):
        signal.raise_signal(signal.SIGINT)
    assert not [t for t in set(threading.enumerate()) - before if t.name == "full-disk"]


def test_a_limit_of_this_process_is_no_full_disk(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with interrupted_by_full_disk(tmp_path, LOOKS_S):
            time.sleep(20 * LOOKS_S)
            looked = [path.stat().st_size for path in tmp_path.iterdir()]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert looked == [0]


def test_a_thread_beside_the_main_one_looks_after_nothing(full):
    def use():
        with interrupted_by_full_disk(full, LOOKS_S):
            time.sleep(1.5 * LOOKS_S)
        ended.set()

    ended = threading.Event()
    other = threading.Thread(target=use)
    other.start()
    other.join()
    assert ended.is_set()
