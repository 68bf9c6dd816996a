"""The log has the outcome of every key once, whatever order parts came in and who was killed."""

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


def outcomes(store):
    return {row["key"]: row["outcome"] for row in read_log(store, "windows").to_pylist()}


def files(store):
    return [file.name for file in store.list("log/windows")]


def test_parts_add_up_and_an_empty_log_is_no_error(store):
    assert outcomes(store) == {}
    write(store, entry("a"), entry("b", "filtered"))
    write(store, entry("c"))
    assert outcomes(store) == {"a": "ok", "b": "filtered", "c": "ok"}


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


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_one_attempt_the_best_outcome_counts(store, order):
    entries = [entry("a", "ok"), entry("a", "filtered"), entry("a", "quarantined")]
    for number in order:
        write(store, entries[number])
    assert outcomes(store) == {"a": "ok"}
    # As when the shard was lost and the clip is broken now, or a gate lets a window pass at last.
    write(store, entry("b", "quarantined", attempts=2), entry("b", "ok"))
    assert outcomes(store) == {"a": "ok", "b": "quarantined"}


def test_of_a_clip_the_deepest_look_counts(store):
    looks = [("ok", 2, "header"), ("quarantined", 3, "packets"), ("filtered", 1, "file")]
    rows = [
        {"key": "a", "outcome": outcome, "looks": depth, "reason": reason, "error": ""}
        for outcome, depth, reason in looks
    ]
    for row in rows:
        append(store, "clips", pa.Table.from_pylist([row], schema=SCHEMAS["clips"]))
    assert read_log(store, "clips")["reason"].to_pylist() == ["packets"]


def test_two_parts_become_one(store):
    write(store, entry("a"))
    write(store, entry("b"))
    compact(store, "windows")
    assert len(files(store)) == 1


def test_clips_are_logged_without_attempts(store):
    clip = {"key": "a", "outcome": "ok", "clip_digest": "d", "starts_s": [0.0, 5.0]}
    for _ in range(2):
        append(store, "clips", pa.Table.from_pylist([clip], schema=SCHEMAS["clips"]))
    (row,) = read_log(store, "clips").to_pylist()
    assert (row["key"], row["starts_s"]) == ("a", [0.0, 5.0])
    assert [file.name.rpartition("/")[0] for file in store.list("log/clips")] == ["log/clips"]


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
    assert len(outcomes(store)) == 1
