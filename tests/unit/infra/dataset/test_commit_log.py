"""The log says of every key once how it ended, whatever order parts came in and who was killed."""

import pyarrow as pa
import pytest

from infra.dataset.commit_log import SCHEMAS, append, compact, read_log
from infra.storage.object_store import ObjectStore


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path)


def entry(key, outcome="ok", **values):
    return {"key": key, "outcome": outcome, "reason": "", "error": "", "attempts": 1} | values


def write(store, *entries):
    append(store, "windows", pa.Table.from_pylist(list(entries), schema=SCHEMAS["windows"]))


def ends(store):
    return {row["key"]: row["outcome"] for row in read_log(store, "windows").to_pylist()}


def files(store):
    return [file.name for file in store.list("log/windows")]


def test_parts_add_up_and_an_empty_log_is_no_error(store):
    assert ends(store) == {}
    write(store, entry("a"), entry("b", "filtered"))
    write(store, entry("c"))
    assert ends(store) == {"a": "ok", "b": "filtered", "c": "ok"}


def test_the_same_part_twice_is_one_file(store):
    write(store, entry("a"))
    write(store, entry("a"))
    assert len(files(store)) == 1


def test_a_part_without_rows_is_not_written(store):
    write(store)
    assert files(store) == []


def test_a_success_counts_more_than_a_failure_and_the_last_failure_more_than_the_first(store):
    write(store, entry("a", "quarantined"), entry("b", "quarantined", error="first"))
    write(store, entry("a"), entry("b", "quarantined", error="second", attempts=2))
    rows = {row["key"]: row for row in read_log(store, "windows").to_pylist()}
    assert rows["a"]["outcome"] == "ok"
    assert (rows["b"]["error"], rows["b"]["attempts"]) == ("second", 2)


def test_two_results_of_one_key_count_once_and_always_the_same(store, tmp_path):
    write(store, entry("a", shard="latents/2.parquet"))
    write(store, entry("a", shard="latents/1.parquet"))
    other = ObjectStore(tmp_path / "other")
    write(other, entry("a", shard="latents/1.parquet"), entry("a", shard="latents/2.parquet"))
    assert read_log(store, "windows").equals(read_log(other, "windows"))
    assert read_log(store, "windows")["shard"].to_pylist() == ["latents/1.parquet"]


def test_compacting_leaves_one_part_that_says_the_same(store):
    for key in "abc":
        write(store, entry(key))
    before = read_log(store, "windows")
    compact(store, "windows")
    assert len(files(store)) == 1
    assert read_log(store, "windows").equals(before)
    compact(store, "windows")
    assert len(files(store)) == 1


def test_a_damaged_part_is_left_out(store):
    write(store, entry("a"))
    write(store, entry("b"))
    store.write(files(store)[0], b"half a fi")
    assert len(ends(store)) == 1
