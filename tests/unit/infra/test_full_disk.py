"""A program that waits for others hears of a full disk, and of nothing else."""

import resource
import signal
import threading
import time

import pytest

from infra.errors import MachineError
from infra.full_disk import SECONDS_BETWEEN_LOOKS, interrupted_by_full_disk


@pytest.fixture
def full(tmp_path):
    """A folder in which the file that is tried finds no room."""
    (tmp_path / "is_there_room").symlink_to("/dev/full")
    return tmp_path


def test_whoever_waits_is_interrupted_when_the_disk_is_full(full):
    began = time.monotonic()
    with pytest.raises(MachineError, match=rf"room to write at {full}.*No space left"):  # noqa: SIM117
        with interrupted_by_full_disk(full):
            threading.Event().wait(60)
    assert time.monotonic() - began < 10 * SECONDS_BETWEEN_LOOKS


def test_room_and_a_folder_that_is_gone_interrupt_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with interrupted_by_full_disk(folder):
            time.sleep(2.5 * SECONDS_BETWEEN_LOOKS)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stays_what_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt), interrupted_by_full_disk(tmp_path):
        signal.raise_signal(signal.SIGINT)
    assert not [thread for thread in threading.enumerate() if thread.name == "full-disk"]


def test_a_limit_of_this_process_is_no_full_disk(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with interrupted_by_full_disk(tmp_path):
            time.sleep(1.5 * SECONDS_BETWEEN_LOOKS)
            looked = [path.stat().st_size for path in tmp_path.iterdir()]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert looked == [0]


def test_a_thread_beside_the_main_one_looks_after_nothing(full):
    def use():
        with interrupted_by_full_disk(full):
            time.sleep(1.5 * SECONDS_BETWEEN_LOOKS)
        ended.set()

    ended = threading.Event()
    other = threading.Thread(target=use)
    other.start()
    other.join()
    assert ended.is_set()
