"""What is done again, and what is not, when clips, captions or the configuration change."""

import pyarrow as pa
import pytest

from infra.dataset.commit_log import SCHEMAS
from pipelines.preprocessing.keys import RecipeDigests
from pipelines.preprocessing.pending_rows import LISTING_SCHEMA, Logs, all_rows, clips_to_survey

RECIPES = RecipeDigests("survey", "latents", "text")
MAX_CHARS = 20
SHARDS = frozenset({"latents/a.parquet", "text/a.parquet"})


def listing(captions, **changes):
    """Files whose content is their name's first letter."""
    rows = [
        {
            "clip_uri": name,
            "clip_bytes": 9,
            "clip_modified_ns": 1,
            "archive_offset": -1,
            "caption_raw": caption,
            "problem": "",
            "error": "",
        }
        | changes.get(name.partition(".")[0], {})
        for name, caption in captions.items()
    ]
    return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)


FOUR = {f"{name}.mp4": f"clip {name}" for name in "abcd"}
NOTHING = Logs(*(schema.empty_table() for schema in SCHEMAS.values()), frozenset())


def surveyed(clips, logs=NOTHING, starts=(0.0,), **fields):
    """The logs after a survey that found a window at each of `starts`."""
    new = clips_to_survey(clips, logs, RECIPES)
    rows = []
    for key, name in zip(new["key"].to_pylist(), new["clip_uri"].to_pylist(), strict=True):
        row = {"key": key, "outcome": "ok", "reason": "", "error": ""}
        row |= {"clip_digest": f"digest {name[0]}", "starts_s": list(starts)}
        rows.append(row | fields.get(name[0], {}))
    log = pa.Table.from_pylist(rows, schema=SCHEMAS["clips"])
    return logs._replace(clips=pa.concat_tables([logs.clips, log]))


def planned(clips, logs, recipes=RECIPES, redrive=False):
    return all_rows(clips, logs, recipes, MAX_CHARS, redrive)


def worked(clips, logs, windows=(), captions=(), shards=SHARDS):
    """The logs after the rows that wait have been worked on; refused ones by clip's letter."""
    windows, captions = dict(windows), dict(captions)
    rows = planned(clips, logs).to_pylist()
    place = {"shard": "latents/a.parquet", "digest": "d", "attempts": 1}
    new_windows = [
        {"key": row["window_key"], **outcome_of(windows, row), **place, "av_lag_ms": 8.0}
        for row in rows
        if row["needs_latents"]
    ]
    place = place | {"shard": "text/a.parquet"}
    new_captions = [
        {"key": row["caption_key"], **outcome_of(captions, row), **place, "caption": "words"}
        for row in rows
        if row["needs_text"] and outcome_of(windows, row)["outcome"] == "ok"
    ]
    return Logs(
        logs.clips,
        added(logs.windows, new_windows),
        added(logs.captions, new_captions),
        shards,
    )


def outcome_of(outcomes, row):
    outcome, reason = outcomes.get(row["clip_uri"][0], ("ok", ""))
    return {"outcome": outcome, "reason": reason, "error": reason}


def added(log, rows):
    return pa.concat_tables([log, pa.Table.from_pylist(rows, schema=log.schema)])


def to_do(rows):
    """What waits: clip's letter and L for latents, T for text."""
    return {
        row["clip_uri"][0]: "L" * row["needs_latents"] + "T" * row["needs_text"]
        for row in rows.to_pylist()
        if row["needs_latents"] or row["needs_text"]
    }


def outcomes_of(rows):
    return {row["clip_uri"]: (row["outcome"], row["reason"]) for row in rows.to_pylist()}


@pytest.fixture
def finished():
    clips = listing(FOUR)
    return clips, worked(clips, surveyed(clips))


def test_at_first_every_clip_is_surveyed_and_every_row_worked_on():
    clips = listing(FOUR)
    assert clips_to_survey(clips, NOTHING, RECIPES)["clip_uri"].to_pylist() == list(FOUR)
    assert to_do(planned(clips, surveyed(clips))) == dict.fromkeys("abcd", "LT")


def test_finished_rows_are_not_done_again(finished):
    clips, logs = finished
    rows = planned(clips, logs)
    assert clips_to_survey(clips, logs, RECIPES).num_rows == 0
    assert to_do(rows) == {}
    assert set(outcomes_of(rows).values()) == {("ok", "")}
    assert rows["caption"].to_pylist() == ["words"] * 4
    assert rows["latents_shard"].to_pylist() == ["latents/a.parquet"] * 4


def test_a_changed_caption_redoes_the_text_alone(finished):
    _, logs = finished
    clips = listing(FOUR | {"b.mp4": "other words"})
    assert clips_to_survey(clips, logs, RECIPES).num_rows == 0
    assert to_do(planned(clips, logs)) == {"b": "T"}


def test_a_changed_vae_redoes_the_latents_alone(finished):
    clips, logs = finished
    other = RECIPES._replace(latents="another VAE")
    assert to_do(planned(clips, logs, other)) == dict.fromkeys("abcd", "L")


def test_a_changed_rewriter_redoes_the_text_alone(finished):
    clips, logs = finished
    other = RECIPES._replace(text="another rewriter")
    assert to_do(planned(clips, logs, other)) == dict.fromkeys("abcd", "T")


def test_changed_content_is_noticed_by_the_file_and_redone(finished):
    _, logs = finished
    clips = listing(FOUR, b={"clip_modified_ns": 2})
    assert clips_to_survey(clips, logs, RECIPES)["clip_uri"].to_pylist() == ["b.mp4"]
    changed = surveyed(clips, logs, b={"clip_digest": "new content"})
    assert to_do(planned(clips, changed)) == {"b": "LT"}


def test_a_touched_file_with_the_same_content_is_read_and_not_redone(finished):
    _, logs = finished
    clips = listing(FOUR, b={"clip_modified_ns": 2})
    assert to_do(planned(clips, surveyed(clips, logs))) == {}


def test_an_added_clip_is_the_only_work_and_a_removed_one_is_gone(finished):
    _, logs = finished
    captions = {name: text for name, text in FOUR.items() if name != "a.mp4"}
    clips = listing(captions | {"e.mp4": "clip e"})
    rows = planned(clips, surveyed(clips, logs))
    assert to_do(rows) == {"e": "LT"}
    assert "a.mp4" not in outcomes_of(rows)


def test_a_renamed_clip_is_the_same_row(finished):
    before, logs = finished
    names = ["apple.mp4", *list(FOUR)[1:]]
    clips = listing(dict(zip(names, FOUR.values(), strict=True)))
    rows = planned(clips, surveyed(clips, logs))
    assert to_do(rows) == {}
    assert set(rows["row_id"].to_pylist()) == set(planned(before, logs)["row_id"].to_pylist())


def test_every_window_of_a_clip_is_a_row_and_they_share_the_text():
    clips = listing({"a.mp4": "clip a"})
    rows = planned(clips, surveyed(clips, starts=(0.0, 5.0, 10.0))).to_pylist()
    assert [row["start_s"] for row in rows] == [0.0, 5.0, 10.0]
    assert [row["needs_latents"] for row in rows] == [True] * 3
    assert [row["needs_text"] for row in rows] == [True, False, False]
    assert len({row["row_id"] for row in rows}) == 3


def test_text_waits_for_another_window_when_the_first_is_refused():
    clips = listing({"a.mp4": "clip a"})
    logs = surveyed(clips, starts=(0.0, 5.0))
    first = planned(clips, logs).slice(0, 1)
    windows_log = [
        {"key": first["window_key"][0].as_py(), "outcome": "filtered", "reason": "silence"}
    ]
    rows = planned(clips, logs._replace(windows=added(logs.windows, windows_log))).to_pylist()
    assert [(row["needs_latents"], row["needs_text"]) for row in rows] == [
        (False, False),
        (True, True),
    ]


def test_a_lost_shard_redoes_what_it_held(finished):
    clips, logs = finished
    without = logs._replace(shards=frozenset({"text/a.parquet"}))
    assert to_do(planned(clips, without)) == dict.fromkeys("abcd", "L")


def test_refused_rows_stay_refused_and_their_captions_are_not_rewritten():
    clips = listing(FOUR)
    logs = worked(clips, surveyed(clips), windows={"a": ("filtered", "silence")})
    rows = planned(clips, logs)
    assert to_do(rows) == {}
    assert outcomes_of(rows)["a.mp4"] == ("filtered", "silence")
    assert outcomes_of(rows)["b.mp4"] == ("ok", "")


def test_quarantined_rows_wait_for_a_redrive():
    clips = listing(FOUR)
    logs = worked(
        clips,
        surveyed(clips),
        windows={"a": ("quarantined", "unreadable")},
        captions={"b": ("quarantined", "caption_rejected")},
    )
    rows = planned(clips, logs)
    assert to_do(rows) == {}
    assert outcomes_of(rows)["a.mp4"] == ("quarantined", "unreadable")
    assert outcomes_of(rows)["b.mp4"] == ("quarantined", "caption_rejected")
    again = planned(clips, logs, redrive=True)
    assert to_do(again) == {"a": "LT", "b": "T"}
    assert again.filter(again["needs_latents"])["window_attempts"].to_pylist() == [1]


def test_quarantined_clips_are_surveyed_again_by_a_redrive():
    clips = listing(FOUR)
    broken = {"outcome": "quarantined", "reason": "unreadable", "clip_digest": "", "starts_s": []}
    logs = surveyed(clips, a=broken)
    assert outcomes_of(planned(clips, logs))["a.mp4"] == ("quarantined", "unreadable")
    assert clips_to_survey(clips, logs, RECIPES).num_rows == 0
    assert clips_to_survey(clips, logs, RECIPES, redrive=True)["clip_uri"].to_pylist() == ["a.mp4"]


def test_the_same_content_counts_once_under_the_first_name():
    clips = listing({"a.mp4": "one", "a_copy.mp4": "two", "b.mp4": "three"})
    rows = planned(clips, surveyed(clips))
    assert outcomes_of(rows)["a_copy.mp4"] == ("filtered", "duplicate")
    errors = {row["clip_uri"]: row["error"] for row in rows.to_pylist()}
    assert errors["a_copy.mp4"] == "expected each clip once, got the content of a.mp4"
    assert to_do(rows) == {"a": "LT", "b": "LT"}


def test_a_caption_over_the_limit_is_refused():
    clips = listing({"a.mp4": "x" * 21, "b.mp4": "é" * 20})
    rows = planned(clips, surveyed(clips))
    assert outcomes_of(rows)["a.mp4"] == ("filtered", "caption_too_long")
    assert to_do(rows) == {"b": "LT"}
    error = rows.to_pylist()[0]["error"]
    assert error == "expected at most 20 characters of caption, got 21"


def test_a_problem_of_the_listing_is_a_row_that_nobody_opens():
    problem = {"problem": "missing_file", "error": "got no such clip"}
    clips = listing({"a.mp4": "one", "b.mp4": "two"}, a=problem)
    assert clips_to_survey(clips, NOTHING, RECIPES)["clip_uri"].to_pylist() == ["b.mp4"]
    rows = planned(clips, surveyed(clips))
    assert outcomes_of(rows)["a.mp4"] == ("quarantined", "missing_file")
    assert rows.filter(rows["needs_latents"])["clip_uri"].to_pylist() == ["b.mp4"]
