"""Results of a batch: shards by shape, log entries by key, and a report of a few numbers."""

import numpy as np
import pytest

from infra.dataset.commit_log import read_log
from infra.dataset.shards import read_columns
from infra.errors import MachineError
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.shard_writing import log_clips, write_rows
from tests.worlds.datasets import CLIP, WINDOW, texts


def batch_of(outcomes, text_outcomes, widths=None):
    """One row per outcome, called a, b, ..., with latents of its width."""
    rows = len(outcomes)
    names = [chr(ord("a") + row) for row in range(rows)]
    widths = widths or [2] * rows
    return {
        "outcome": texts(outcomes),
        "reason": texts("" if outcome == "ok" else "why" for outcome in outcomes),
        "error": texts("" for _ in names),
        "window_key": texts(f"window {name}" for name in names),
        "caption_key": texts(f"caption {name}" for name in names),
        "window_attempts": np.arange(rows),
        "caption_attempts": 10 * np.arange(rows),
        "needs_latents": np.ones(rows, bool),
        "video": texts(np.full((2, width), 3.0, np.float32) for width in widths),
        "audio": np.full((rows, 4), 5.0, np.float32),
        **{name: np.full(rows, value) for name, value in WINDOW.items()},
        "av_lag_ms": np.arange(rows) / 2,
        "text_outcome": texts(text_outcomes),
        "text_reason": texts("" for _ in names),
        "text_error": texts("" for _ in names),
        "caption": texts(f"{name}." for name in names),
        "rewritten": np.ones(rows, bool),
        "video_text": np.full((rows, 2), 7.0, np.float32),
        "audio_text": np.full((rows, 2), 9.0, np.float32),
    }


def log_of(out, log):
    return {row["key"]: row for row in read_log(ObjectStore(out), log).to_pylist()}


def shard_columns(out, name):
    return read_columns(ObjectStore(out), name, None).to_pydict()


def test_latents_and_text_get_shards_of_their_own_and_the_log_says_where(tmp_path):
    write_rows(batch_of(["ok", "ok"], ["ok", "ok"]), str(tmp_path))
    windows, captions = log_of(tmp_path, "windows"), log_of(tmp_path, "captions")
    assert set(windows) == {"window a", "window b"}
    assert set(captions) == {"caption a", "caption b"}
    (shard,) = {row["shard"] for row in windows.values()}
    assert shard.startswith("latents/")
    columns = shard_columns(tmp_path, shard)
    assert set(columns) == {"row_id", "row_digest", "video", "audio"}
    digests = dict(zip(columns["row_id"], columns["row_digest"], strict=True))
    assert {key: row["digest"] for key, row in windows.items()} == digests
    (shard,) = {row["shard"] for row in captions.values()}
    assert shard.startswith("text/")
    assert set(shard_columns(tmp_path, shard)) == {
        "row_id",
        "row_digest",
        "video_text",
        "audio_text",
    }


def test_the_log_has_scores_words_and_one_more_attempt(tmp_path):
    write_rows(batch_of(["ok", "ok"], ["ok", "ok"]), str(tmp_path))
    window, caption = log_of(tmp_path, "windows")["window b"], log_of(tmp_path, "captions")
    assert (window["attempts"], window["av_lag_ms"], window["loudness_lufs"]) == (2, 0.5, -20)
    caption = caption["caption b"]
    assert (caption["attempts"], caption["caption"], caption["rewritten"]) == (11, "b.", True)


def test_a_refused_row_is_in_the_log_without_a_shard(tmp_path):
    write_rows(batch_of(["filtered", "ok"], ["", "quarantined"]), str(tmp_path))
    windows, captions = log_of(tmp_path, "windows"), log_of(tmp_path, "captions")
    refused = windows["window a"]
    assert [refused[name] for name in ("outcome", "reason", "shard", "digest")] == [
        "filtered",
        "why",
        "",
        "",
    ]
    assert windows["window b"]["shard"] != ""
    assert list(captions) == ["caption b"]
    assert (captions["caption b"]["outcome"], captions["caption b"]["shard"]) == ("quarantined", "")
    assert not (tmp_path / "text").exists()


def test_what_needs_no_latents_is_not_written_again(tmp_path):
    batch = batch_of(["ok", "ok"], ["ok", ""])
    batch["needs_latents"] = np.array([False, True])
    write_rows(batch, str(tmp_path))
    assert list(log_of(tmp_path, "windows")) == ["window b"]
    assert list(log_of(tmp_path, "captions")) == ["caption a"]


def test_rows_of_other_shapes_are_shards_of_their_own(tmp_path):
    write_rows(batch_of(["ok"] * 3, [""] * 3, widths=[2, 3, 2]), str(tmp_path))
    windows = log_of(tmp_path, "windows")
    shards = [windows[f"window {name}"]["shard"] for name in "abc"]
    assert shards[0] == shards[2] != shards[1]
    assert shard_columns(tmp_path, shards[1])["row_id"] == ["window b"]


def test_a_report_counts_the_caption_of_a_good_window_and_else_the_window(tmp_path):
    outcomes = ["ok", "ok", "ok", "filtered", "filtered"]
    text_outcomes = ["ok", "quarantined", "", "", "quarantined"]
    batch = batch_of(outcomes, text_outcomes) | {"seconds_of_Stage": np.arange(5.0)}
    report = write_rows(batch, str(tmp_path))
    counts = dict(zip(report["outcome"].tolist(), report["rows"].tolist(), strict=True))
    assert counts == {"ok": 2, "quarantined": 1, "filtered": 2}
    assert report["seconds_of_Stage"].tolist() == pytest.approx([10 / 3] * 3)
    assert set(report) == {"outcome", "rows", "seconds_of_Stage"}


def test_surveyed_clips_are_logged_and_counted(tmp_path):
    batch = {
        "key": texts("ab"),
        "outcome": texts(["ok", "filtered"]),
        "reason": texts(["", "too_short"]),
        "error": texts(["", "expected"]),
        "clip_digest": texts(["sha256:a", ""]),
        "starts_s": texts([[0.0, 5.0], []]),
        "looks": np.array([4, 3]),
        **{name: np.array([value, np.nan]) for name, value in CLIP.items()},
    }
    report = log_clips(batch, str(tmp_path))
    assert report["outcome"].tolist() == ["filtered", "ok"]
    assert report["rows"].tolist() == [1, 1]
    clips = log_of(tmp_path, "clips")
    assert (clips["a"]["starts_s"], clips["a"]["source_width"]) == ([0.0, 5.0], 64)
    assert clips["b"]["reason"] == "too_short"


@pytest.mark.parametrize("write", [log_clips, write_rows])
def test_nothing_is_written_where_the_plan_of_the_run_is_gone(tmp_path, write):
    out = tmp_path / "dataset"
    survey = {"key": texts("a"), "clip_digest": texts("b"), "starts_s": texts([[0.0]])}
    sizes = {name: np.full(1, value) for name, value in CLIP.items()}
    batch = batch_of(["ok"], ["ok"]) | sizes | survey | {"looks": np.array([3])}
    for _ in ("the folder is gone", "the mount point is there"):
        with pytest.raises(MachineError, match=rf"work/rows/a in {out}.*a mount is lost"):
            write(batch, str(out), plan="work/rows/a")
        assert not out.exists() or not list(out.iterdir())
        out.mkdir(exist_ok=True)
    ObjectStore(out).write("work/rows/a", b"rows")
    assert write(batch, str(out), plan="work/rows/a")["outcome"].tolist() == ["ok"]
