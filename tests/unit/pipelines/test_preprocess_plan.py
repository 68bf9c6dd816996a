"""What is done again, and what is not, when clips, captions or the configuration change."""

from pathlib import Path

import numpy as np
import pytest

from infra.errors import DatasetError
from infra.latent_shards import commit, write_shard
from infra.object_store import ObjectStore
from infra.outcome_table import write_outcomes
from infra.presets import load_preset
from pipelines.clip_listing import list_clips
from pipelines.preprocess_plan import finished_before, identify, plan_preprocessing
from tests.beacon_clips import write_captions

CAPTIONS = {f"{name}.mp4": f"clip {name}" for name in "abcd"}


@pytest.fixture
def stores(tmp_path):
    """A folder of four "clips" (nothing here decodes), and where the dataset goes."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in CAPTIONS:
        (clips / name).write_text(f"pictures of {name}")
    write_captions(clips, CAPTIONS)
    return ObjectStore(clips), ObjectStore(tmp_path / "dataset")


def given(stores, *overrides):
    source, target = stores
    return identify(load_preset("tiny", overrides), list_clips(source), source, target)


def write_captions_for(stores, captions):
    write_captions(Path(stores[0].uri), captions)


def finish(stores, refused=(), manifest=True):
    """Leave what a run leaves: two rows per shard, outcomes, and the manifest."""
    _, target = stores
    seen = given(stores)
    outcomes = [
        row._replace(outcome=refused[row.clip_uri][0], reason=refused[row.clip_uri][1])
        if row.clip_uri in refused
        else row
        for row in seen.rows
    ]
    ok = [row for row in outcomes if row.outcome == "ok"]
    shards = []
    for part in filter(None, (ok[:2], ok[2:])):
        columns = ("row_id", "clip_uri", "clip_digest", "caption_raw", "caption")
        plain = {n: np.array([getattr(row, n) for row in part], dtype=object) for n in columns}
        tensors = {"rewritten": np.zeros(len(part), bool), "video": np.zeros((len(part), 2))}
        shards.append(write_shard(target.uri, plain | tensors))
    if manifest:
        write_outcomes(target, outcomes)
        commit(target.uri, "latents", shards, {"input_digest": seen.digest})
    return [shard.name for shard in shards]


def missing(stores, *overrides):
    plan = plan_preprocessing(given(stores, *overrides), stores[1])
    return [row.clip_uri for row in plan.missing]


def test_nothing_is_done_before_the_first_run(stores):
    assert finished_before(given(stores), stores[1]) is None
    assert missing(stores) == list(CAPTIONS)


def test_the_same_clips_and_configuration_are_finished(stores):
    finish(stores)
    assert finished_before(given(stores), stores[1]) is not None


@pytest.mark.parametrize("irrelevant", ["data.rows_per_shard=3", "name=other", "serve.port=1"])
def test_what_changes_no_row_changes_nothing(stores, irrelevant):
    finish(stores)
    assert finished_before(given(stores, irrelevant), stores[1]) is not None


@pytest.mark.parametrize(
    "relevant", ["data.seconds=1", "data.silence_dbfs=-50", "codec.text_tokens=9"]
)
def test_what_changes_a_row_does_all_again(stores, relevant):
    finish(stores)
    assert finished_before(given(stores, relevant), stores[1]) is None
    assert missing(stores, relevant) == list(CAPTIONS)


def test_only_an_added_clip_is_missing(stores):
    kept = finish(stores)
    stores[0].write("e.mp4", b"new")
    write_captions_for(stores, CAPTIONS | {"e.mp4": "new"})
    plan = plan_preprocessing(given(stores), stores[1])
    assert [row.clip_uri for row in plan.missing] == ["e.mp4"]
    assert {shard.name for shard in plan.kept} == set(kept)
    assert not plan.stale


def test_a_changed_caption_is_a_new_row_and_takes_the_old_one_out(stores):
    kept = finish(stores)
    write_captions_for(stores, CAPTIONS | {"a.mp4": "other words"})
    plan = plan_preprocessing(given(stores), stores[1])
    assert [row.clip_uri for row in plan.missing] == ["a.mp4"]
    assert list(plan.narrowed) == plan.stale == [kept[0]]
    assert len(plan.narrowed[kept[0]]) == 1


def test_changed_content_is_noticed(stores):
    finish(stores)
    stores[0].write("b.mp4", b"other pictures")
    assert missing(stores) == ["b.mp4"]


def test_a_renamed_clip_is_the_same_row(stores):
    finish(stores)
    Path(stores[0].uri, "a.mp4").rename(Path(stores[0].uri, "z.mp4"))
    write_captions_for(stores, {"z.mp4": CAPTIONS["a.mp4"]} | CAPTIONS)
    plan = plan_preprocessing(given(stores), stores[1])
    assert plan.missing == []
    assert [(row.clip_uri, row.reason) for row in plan.ended if row.outcome != "ok"] == [
        ("a.mp4", "missing_file")
    ]


def test_a_shard_that_is_gone_is_made_again(stores):
    kept = finish(stores)
    stores[1].delete(kept[1])
    assert finished_before(given(stores), stores[1]) is None
    assert missing(stores) == ["c.mp4", "d.mp4"]


def test_shards_of_a_run_that_was_killed_are_used(stores):
    finish(stores, manifest=False)
    assert finished_before(given(stores), stores[1]) is None
    assert missing(stores) == []


def test_a_damaged_manifest_or_shard_is_no_obstacle(stores):
    kept = finish(stores)
    stores[1].write("manifest.json", b"{")
    stores[1].write(kept[0], b"not parquet")
    assert finished_before(given(stores), stores[1]) is None
    plan = plan_preprocessing(given(stores), stores[1])
    assert [row.clip_uri for row in plan.missing] == ["a.mp4", "b.mp4"]
    assert plan.stale == [kept[0]]


def test_refused_rows_stay_refused_and_quarantined_ones_are_tried_again(stores):
    ends = {"a.mp4": ("filtered", "silence"), "b.mp4": ("quarantined", "unreadable")}
    finish(stores, refused=ends)
    stores[0].write("e.mp4", b"new")
    write_captions_for(stores, CAPTIONS | {"e.mp4": "new"})
    plan = plan_preprocessing(given(stores), stores[1])
    assert [(row.clip_uri, row.attempts) for row in plan.missing] == [("b.mp4", 2), ("e.mp4", 1)]
    assert [row.reason for row in plan.ended if row.outcome == "filtered"] == ["silence"]


def test_more_patience_tries_quarantined_rows_again_and_no_others(stores):
    finish(stores, refused={"b.mp4": ("quarantined", "unreadable")})
    patience = "data.decode_timeout_s=99"
    assert finished_before(given(stores, patience), stores[1]) is None
    assert missing(stores, patience) == ["b.mp4"]


def test_the_same_clip_with_the_same_caption_counts_once(stores):
    stores[0].write("copy.mp4", stores[0].read("a.mp4"))
    write_captions_for(stores, CAPTIONS | {"copy.mp4": CAPTIONS["a.mp4"]})
    ends = {row.clip_uri: (row.outcome, row.reason) for row in given(stores).rows}
    assert ends["a.mp4"] == ("ok", "")
    assert ends["copy.mp4"] == ("filtered", "duplicate")


def test_a_caption_over_the_limit_is_refused(stores):
    rows = given(stores, "data.max_caption_chars=5").rows
    assert {row.reason for row in rows} == {"caption_too_long"}
    assert rows[0].error == "expected at most 5 characters of caption, got 6"


def test_a_dataset_of_another_kind_is_not_touched(stores):
    commit(stores[1].uri, "trajectories", [], {})
    with pytest.raises(DatasetError, match=r"expected a dataset of latents .*, got trajectories"):
        finished_before(given(stores), stores[1])


def test_files_of_others_beside_the_shards_are_left_alone(stores):
    finish(stores)
    stores[1].write("shards/notes.txt", b"mine")
    stores[0].write("e.mp4", b"new")
    assert plan_preprocessing(given(stores), stores[1]).stale == []
