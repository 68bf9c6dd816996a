"""Copies of files: one fetch for what is done in a row, a bounded number, and none left behind."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.storage.fetched_files import MOST_BYTES, MOST_COPIES, FetchedFiles
from infra.storage.object_store import ObjectStore
from tests.worlds.s3_server import credentials, fetches, make_bucket, s3_server
from tests.worlds.small_machine import scratch_below

ROOT = Path(__file__).resolve().parents[4]
WORKER = """
import sys, time
from infra.storage.fetched_files import FetchedFiles
from infra.storage.object_store import ObjectStore
files = FetchedFiles(ObjectStore(sys.argv[1]))
print(files.get("pack.tar/a.mp4", 0, 4).path, flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    return scratch_below(tmp_path, monkeypatch)


@pytest.fixture
def pack(tmp_path):
    """A folder with the archive `pack.tar`, in which any four bytes are a member."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "pack.tar").write_bytes(bytes(range(200)))
    return ObjectStore(tmp_path / "clips")


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def copies(scratch):
    return sorted(path.stat().st_size for path in scratch.rglob("clip*") if path.is_file())


def test_an_object_is_fetched_once_and_anew_when_it_has_changed(scratch, tmp_path, monkeypatch):
    log = tmp_path / "requests"
    with s3_server(log=log) as endpoint:
        credentials(monkeypatch, endpoint)
        store = ObjectStore(make_bucket(endpoint))
        store.write("a.mp4", b"first")
        files = FetchedFiles(store)
        for _ in range(14):
            path, found = files.get("a.mp4", size=5)
            assert (path.read_bytes(), found, path.suffix) == (b"first", digest(b"first"), ".mp4")
        assert fetches(log, "clips/a.mp4") == 1
        store.write("a.mp4", b"other")  # in the same second, of the same size
        path, found = files.get("a.mp4", size=5)
        assert (path.read_bytes(), found) == (b"other", digest(b"other"))
        assert fetches(log, "clips/a.mp4") == 2
        store.delete("a.mp4")
        with pytest.raises(FileNotFoundError):
            files.get("a.mp4", size=5)


def test_a_file_of_this_machine_is_not_copied_and_read_only_if_it_is_not_as_listed(scratch, pack):
    path = Path(pack.uri) / "a.mp4"
    path.write_bytes(b"first")
    os.utime(path, ns=(7, 7))
    files = FetchedFiles(pack)
    assert files.get("a.mp4", size=5, modified_ns=7) == (path, None)
    assert files.get("a.mp4", size=5, modified_ns=6) == (path, digest(b"first"))
    assert files.get("a.mp4", size=4, modified_ns=7) == (path, digest(b"first"))
    path.write_bytes(b"later")
    assert files.get("a.mp4", size=5, modified_ns=7) == (path, digest(b"later"))
    assert not list(scratch.iterdir())


def test_the_last_copies_are_kept_and_no_more(scratch, pack):
    files = FetchedFiles(pack)
    assert (MOST_COPIES, MOST_BYTES) == (2, 2**31)
    paths = [files.get("pack.tar/a.mp4", offset, 4).path for offset in (0, 4, 0, 8)]
    assert paths[0] == paths[2]
    assert [path.exists() for path in paths] == [True, False, True, True]
    assert files.get("pack.tar/a.mp4", 0, 4).path == paths[0]
    assert paths[3].read_bytes() == bytes(range(8, 12))


@pytest.mark.parametrize(("second", "kept"), [(60, [40, 60]), (61, [61]), (150, [150])])
def test_copies_are_bounded_in_bytes_but_for_a_single_one(scratch, pack, second, kept):
    files = FetchedFiles(pack, most_bytes=100)
    files.get("pack.tar/a.mp4", 0, 40)
    files.get("pack.tar/b.mp4", 40, second)
    assert copies(scratch) == kept


def test_a_fetch_that_fails_leaves_nothing(scratch, pack):
    files = FetchedFiles(pack)
    with pytest.raises(OSError, match="expected 100 bytes of pack"):
        files.get("pack.tar/a.mp4", 150, 100)
    assert copies(scratch) == []
    assert files.get("pack.tar/a.mp4", 150, 50).path.stat().st_size == 50


def test_a_copy_that_somebody_has_removed_is_fetched_anew(scratch, pack):
    files = FetchedFiles(pack)
    path = files.get("pack.tar/a.mp4", 0, 4).path
    for gone in (path, *path.parent.iterdir()):
        gone.unlink(missing_ok=True)
    path.parent.rmdir()
    assert files.get("pack.tar/a.mp4", 0, 4).path.read_bytes() == bytes(range(4))


def run_worker(pack, seconds):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, pack.uri, str(seconds)]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return worker, Path(worker.stdout.readline().strip())


def test_copies_go_with_their_worker(scratch, pack):
    files = FetchedFiles(pack)
    files.get("pack.tar/a.mp4", 0, 4)
    del files
    assert not list(scratch.iterdir())
    worker, _ = run_worker(pack, 0)
    with worker:
        assert worker.wait(timeout=60) == 0
    assert not list(scratch.iterdir())


def test_copies_of_a_killed_worker_go_with_the_next_and_those_of_a_living_one_stay(scratch, pack):
    worker, path = run_worker(pack, 100)
    with worker:
        mine = FetchedFiles(pack)
        mine.get("pack.tar/a.mp4", 0, 4)
        assert path.read_bytes() == bytes(range(4)), "it still lives"
        worker.send_signal(signal.SIGKILL)
        worker.wait(timeout=60)
    assert path.exists()
    FetchedFiles(pack).get("pack.tar/a.mp4", 4, 4)
    assert not path.parent.exists()
    assert copies(scratch) == [4], "the one of this process, which is still in use"
