"""Which files of a folder are a dataset's, and how far an unfinished run has come."""

import os
import time

import pytest

from infra.dataset.manifest import commit
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore, StoredFile
from pipelines.datasets.files import (
    content_files,
    finished_manifest,
    folder_sizes,
    idle_s,
    log_parts,
    scratch_files,
    unfinished_files,
    unfinished_run,
)
from tests.worlds.datasets import preprocessed, surveyed, work_on_rows

DIGEST = "0123456789abcdef" * 4


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"xyz")
    return ObjectStore(folder)


def names_of(files):
    return [file.name for file in files]


def test_content_is_what_is_named_after_a_digest_in_a_folder_of_content(tmp_path):
    own = [f"{folder}/{DIGEST}.parquet" for folder in ("rows", "latents", "text", "shards")]
    others = [
        f"rows/{DIGEST}.parquet.bak",
        f"rows/{DIGEST}xparquet",
        f"rows/{DIGEST[1:]}.parquet",
        f"rows/{DIGEST.upper()}.parquet",
        f"rows/below/{DIGEST}.parquet",
        f"log/clips/{DIGEST}.parquet",
        f"{DIGEST}.parquet",
    ]
    assert names_of(content_files(write(tmp_path, *own, *others))) == own


def test_scratch_is_at_any_depth_of_work_and_parts_are_by_log(tmp_path):
    scratch = [f"work/listing/{DIGEST}.parquet", f"work/rows/a/{DIGEST}.parquet"]
    part = f"log/windows/{DIGEST}.parquet"
    store = write(tmp_path, *scratch, "work/listing/readme", part, "log/windows/readme")
    assert sorted(names_of(scratch_files(store))) == scratch
    parts = {log: names_of(files) for log, files in log_parts(store).items()}
    assert parts == {"clips": [], "windows": [part], "captions": []}


def test_what_a_killed_writer_left_is_old_enough_and_has_its_form_of_name(tmp_path):
    left = f"rows/.a.parquet.{DIGEST[:32]}.unfinished"
    others = [
        f"rows/a.parquet.{DIGEST[:32]}.unfinished",
        f"rows/.a.parquet.{DIGEST[:31]}.unfinished",
        f"rows/.a.parquet.{DIGEST[:33]}.unfinished",
    ]
    store = write(tmp_path, left, *others)
    before = time.time() - 100
    for name in (left, *others):
        os.utime(tmp_path / name, (before, before))
    (file,) = unfinished_files(store, 90)
    assert (file.name, file.size) == (left, 3)
    assert file.modified_ns == (tmp_path / left).stat().st_mtime_ns
    assert unfinished_files(store, 200) == []


def test_sizes_add_up_by_folder():
    files = [StoredFile("b/c/x", 5, 0), StoredFile("top", 1, 0), StoredFile("b/c/y", 7, 0)]
    sizes = [(size.folder, size.files, size.bytes) for size in folder_sizes(files)]
    assert sizes == [("", 1, 1), ("b/c", 2, 12)]


def test_idle_time_counts_from_the_last_file():
    now_ns = time.time_ns()
    files = [StoredFile("a", 1, now_ns - 90 * 10**9), StoredFile("b", 1, now_ns - 60 * 10**9)]
    assert idle_s(files) == pytest.approx(60, abs=5)
    assert idle_s([StoredFile("a", 1, now_ns + 90 * 10**9)]) == 0
    assert idle_s([]) == float("inf")


def test_a_run_is_unfinished_from_its_listing_to_its_manifest(tmp_path):
    store = ObjectStore(tmp_path)
    assert unfinished_run(store) is None
    job = surveyed(tmp_path)
    run = unfinished_run(store)
    assert run is not None
    assert (run.listed, run.clips.ok, run.windows.rows, run.captions.rows) == (3, 3, 0, 0)
    work_on_rows(job, bad={"b.mp4": ("filtered", "silence")})
    run = unfinished_run(store)
    assert run is not None
    assert (run.windows.rows, run.windows.filtered, run.captions.ok) == (3, {"silence": 1}, 2)
    preprocessed(tmp_path, bad={"b.mp4": ("filtered", "silence")})
    assert unfinished_run(store) is None
    store.delete("manifest.json")
    run = unfinished_run(store)
    assert run is not None
    assert (run.listed, run.clips.ok) == (0, 3)


def test_a_dataset_without_a_manifest_is_unfinished_if_a_run_left_work_or_log(tmp_path):
    with pytest.raises(DatasetError, match=r"got no manifest\.json; name the folder or URI"):
        finished_manifest(ObjectStore(tmp_path))
    for folder in ("work", "log"):
        store = write(tmp_path / folder, f"{folder}/x")
        with pytest.raises(DatasetError, match="got one whose run has not finished; run the same"):
            finished_manifest(store)
    manifest = commit(tmp_path, "latents", [], {})
    assert finished_manifest(ObjectStore(tmp_path)) == manifest
