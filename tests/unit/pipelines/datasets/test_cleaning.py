"""Cleaning removes what nobody needs, and never what the dataset or a run at work does."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from infra.dataset.commit_log import SCHEMAS, read_log
from infra.dataset.manifest import commit
from infra.dataset.shards import write_shard
from infra.errors import DatasetError, OwnershipError
from infra.leases.output_lease import hold_output
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.datasets.cleaning import clean
from pipelines.datasets.verification import verify_dataset
from pipelines.preprocessing.row_tables import commit_rows, plan_rows
from tests.worlds.datasets import (
    RECIPES,
    RULES,
    THREE,
    make_old,
    names,
    preprocessed,
    surveyed,
    work_on_rows,
)

UNFINISHED = f".manifest.json.{'0a' * 16}.unfinished"


def cleaned(out, **options):
    return clean(str(out), SilentProgress(), lease_s=60.0, **options)


def removed(done):
    return {size.folder: size.files for size in done.files}


def rows_to_make(out):
    """How many rows a run with the first configuration would work on."""
    return plan_rows(surveyed(out), redrive=False).rows


def bytes_in(out):
    return sum(file.size for file in ObjectStore(out).list(recursive=True))


def is_whole(out):
    return not verify_dataset(str(out), SilentProgress()).problems


@pytest.fixture
def two_versions(tmp_path):
    """A dataset whose latents were made twice, by two configurations."""
    preprocessed(tmp_path)
    preprocessed(tmp_path, recipes=RECIPES._replace(latents="larger"))
    return tmp_path


def test_a_fresh_dataset_has_nothing_to_remove(tmp_path):
    preprocessed(tmp_path)
    before = names(tmp_path)
    done = cleaned(tmp_path)
    assert (done.files, done.freed_files, done.freed_bytes) == ((), 0, 0)
    assert names(tmp_path) == before


def test_files_of_an_older_version_go_and_the_dataset_stays_whole(two_versions):
    before = bytes_in(two_versions)
    done = cleaned(two_versions)
    assert removed(done) == {"latents": 1, "rows": 1}
    assert done.freed_bytes == before - bytes_in(two_versions) > 0
    assert is_whole(two_versions)


def test_results_that_can_be_used_again_stay_with_keep_cache(two_versions):
    kept = cleaned(two_versions, keep_cache=True)
    assert (removed(kept), kept.results) == ({"rows": 1}, 0)
    assert rows_to_make(two_versions) == 0
    cleaned(two_versions, force=True)
    assert rows_to_make(two_versions) == 3


def test_results_that_a_loosened_gate_would_bring_back_are_counted(tmp_path):
    preprocessed(tmp_path)
    loud = RULES._replace(limits=RULES.limits | {"silence_dbfs": 0.0})
    tightened = surveyed(tmp_path, rules=loud)
    assert plan_rows(tightened, redrive=False).rows == 0
    commit_rows(tightened, {})
    assert cleaned(tmp_path, dry_run=True, keep_cache=True, force=True).results == 0
    done = cleaned(tmp_path, dry_run=True, force=True)
    assert (done.results, removed(done)) == (6, {"latents": 1, "rows": 1, "text": 1})
    assert cleaned(tmp_path, force=True).results == 6
    assert rows_to_make(tmp_path) == 3


def test_a_dry_run_tells_the_same_and_removes_nothing(two_versions):
    before = names(two_versions)
    plan = cleaned(two_versions, dry_run=True)
    assert plan.dry_run
    assert names(two_versions) == before
    done = cleaned(two_versions)
    assert plan.files == done.files
    assert plan.freed_bytes == done.freed_bytes


def test_a_shard_that_no_log_names_goes_even_with_keep_cache(two_versions):
    orphan = write_shard(
        two_versions, {"row_id": np.array(["k"], dtype=object), "video": np.ones((1, 2))}, "latents"
    )
    cleaned(two_versions, keep_cache=True)
    assert orphan.name not in names(two_versions)
    assert len(names(two_versions, "latents")) == 2


def test_the_log_becomes_one_part_and_says_the_same(tmp_path):
    preprocessed(tmp_path)
    work_on_rows(surveyed(tmp_path, THREE | {"d.mp4": "a cat"}))
    make_old(tmp_path)
    store = ObjectStore(tmp_path)
    before = {log: read_log(store, log).to_pylist() for log in SCHEMAS}
    done = cleaned(tmp_path)
    assert done.log_parts == 6
    assert [len(names(tmp_path, f"log/{log}")) for log in SCHEMAS] == [1, 1, 1]
    assert {log: read_log(store, log).to_pylist() for log in SCHEMAS} == before


def test_a_run_at_work_is_not_disturbed_until_it_has_been_silent_for_an_hour(tmp_path):
    preprocessed(tmp_path)
    job = surveyed(tmp_path, THREE | {"d.mp4": "a cat"})
    before = names(tmp_path)
    with pytest.raises(DatasetError, match="expected no run at work"):
        cleaned(tmp_path)
    with pytest.raises(DatasetError, match="expected no run at work"):
        cleaned(tmp_path, dry_run=True)
    assert names(tmp_path) == before
    make_old(tmp_path)
    work_on_rows(job, {"d.mp4": ("filtered", "silence")})
    make_old(tmp_path / "work")  # the plan of a long run is old, but its log is not
    with pytest.raises(DatasetError, match="expected no run at work"):
        cleaned(tmp_path)
    make_old(tmp_path)
    assert removed(cleaned(tmp_path))["work/000000/listing"] == 1
    assert names(tmp_path, "work") == []
    assert is_whole(tmp_path)


def test_a_run_that_holds_the_dataset_is_not_disturbed_by_force_either(two_versions):
    with hold_output(two_versions, "preprocess", 60.0), ThreadPoolExecutor(1) as pool:
        dry = pool.submit(cleaned, two_versions, dry_run=True).result()
        assert dry.freed_files == 2
        before = names(two_versions)
        with pytest.raises(OwnershipError, match="expected no other run"):
            pool.submit(cleaned, two_versions, force=True).result()
        assert names(two_versions) == before


def test_force_is_for_a_run_that_is_known_to_have_stopped(tmp_path):
    preprocessed(tmp_path)
    surveyed(tmp_path, THREE | {"d.mp4": "a cat"})
    assert removed(cleaned(tmp_path, force=True))["work/000000/listing"] == 1
    assert is_whole(tmp_path)


def test_shards_of_trajectories_that_are_being_made_stay(tmp_path):
    def shard(name):
        columns = {"row_id": np.array([name], dtype=object), "states": np.ones((1, 2))}
        return write_shard(tmp_path, columns)

    commit(tmp_path, "trajectories", [shard("x")], {})
    new = shard("y")
    with pytest.raises(DatasetError, match="expected no run at work"):
        cleaned(tmp_path)
    make_old(tmp_path)
    assert removed(cleaned(tmp_path)) == {"shards": 1}
    assert new.name not in names(tmp_path)
    assert is_whole(tmp_path)


def test_what_a_killed_writer_left_goes_when_it_is_old(tmp_path):
    preprocessed(tmp_path)
    left = tmp_path / "latents" / UNFINISHED
    left.write_bytes(b"half")
    assert removed(cleaned(tmp_path)) == {}
    make_old(tmp_path)
    assert removed(cleaned(tmp_path)) == {"latents": 1}
    assert not left.exists()


def test_files_of_others_stay(two_versions):
    others = ["notes.txt", "latents/mine.parquet", "work/plan.md", "latents/.draft.unfinished"]
    for name in others:
        (two_versions / name).parent.mkdir(exist_ok=True)
        (two_versions / name).write_text("mine")
        os.utime(two_versions / name, (0, 0))
    cleaned(two_versions)
    assert all((two_versions / name).is_file() for name in others)


def test_without_a_manifest_nothing_is_garbage(tmp_path):
    surveyed(tmp_path)
    make_old(tmp_path)
    before = names(tmp_path)
    with pytest.raises(DatasetError, match="whose run has not finished"):
        cleaned(tmp_path, force=True)
    with pytest.raises(DatasetError, match="got no manifest"):
        cleaned(tmp_path / "elsewhere", force=True)
    assert names(tmp_path) == before
