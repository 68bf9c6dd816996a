"""Folders for copies: gone with their process, or soon after it was killed."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.storage.object_store import ObjectStore
from infra.storage.scratch import (
    remove_abandoned,
    scratch_folder,
    without_abandoned_copies,
    write_scratch,
)
from tests.worlds.small_machine import scratch_below

ROOT = Path(__file__).resolve().parents[4]
HOLDER = """
import sys, time
from infra.storage.object_store import ObjectStore
with ObjectStore(sys.argv[1]).local_file("pack.tar/a.mp4", 0, 4) as path:
    print(path, flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    return scratch_below(tmp_path, monkeypatch)


@pytest.fixture
def holder(tmp_path):
    """A process that has a copy of a member of an archive, and where that is."""
    (tmp_path / "pack.tar").write_bytes(bytes(4))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, ObjectStore(tmp_path).uri]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    with process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_copy_has_the_bytes_and_their_digest(scratch):
    with scratch_folder() as folder:
        written = write_scratch(folder / "a", iter([b"one", b"two"]))
        assert written == (6, f"sha256:{hashlib.sha256(b'onetwo').hexdigest()}")
        assert (folder / "a").read_bytes() == b"onetwo"
        remove_abandoned()
        assert (folder / "a").exists()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_has_left_is_removed_and_not_what_a_living_one_has(
    scratch, holder, end
):
    process, path = holder
    remove_abandoned()
    assert path.stat().st_size == 4
    process.send_signal(end)
    process.wait(timeout=60)
    assert path.exists()
    remove_abandoned()
    assert not list(scratch.iterdir())


def test_a_run_removes_what_others_have_left_before_and_what_its_own_workers_leave(scratch, holder):
    process, path = holder
    with pytest.raises(KeyError), without_abandoned_copies():
        process.kill()
        process.wait(timeout=60)
        assert path.exists()
        raise KeyError
    assert not list(scratch.iterdir())


def test_a_folder_that_is_no_workers_is_left_alone(scratch):
    (scratch / "omniforcing-copies-mine").mkdir()
    (scratch / "omniforcing-copies-mine" / "notes").touch()
    with without_abandoned_copies():
        assert (scratch / "omniforcing-copies-mine" / "notes").exists()
    assert (scratch / "omniforcing-copies-mine" / "notes").exists()
