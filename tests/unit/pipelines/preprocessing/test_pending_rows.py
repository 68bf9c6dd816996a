"""What is done again, and what is not, when clips, captions or the configuration change."""

import pyarrow as pa
import pytest

from infra.config import GatesConfig
from infra.dataset.commit_log import SCHEMAS
from infra.presets import load_preset
from pipelines.preprocessing.keys import RecipeDigests
from pipelines.preprocessing.pending_rows import (
    LISTING_SCHEMA,
    Logs,
    all_rows,
    clips_to_survey,
    rules_of,
)
from tests.worlds.datasets import CLIP, WINDOW


def rules(*overrides):
    return rules_of(load_preset("tiny", ["data.seconds=1", *overrides]).data)


RECIPES = RecipeDigests("survey", "latents", "text")
ATTEMPTS = ["attempts", "window_attempts", "caption_attempts"]
RULES = rules("data.gates.max_caption_chars=20")
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
    new = clips_to_survey(clips, logs, RECIPES, RULES)
    rows = []
    for key, name in zip(new["key"].to_pylist(), new["clip_uri"].to_pylist(), strict=True):
        row = {"key": key, "outcome": "ok", "reason": "", "error": ""}
        row |= {"clip_digest": f"digest {name[0]}", "looks": 4, "starts_s": list(starts), **CLIP}
        rows.append(row | fields.get(name[0], {}))
    log = pa.Table.from_pylist(rows, schema=SCHEMAS["clips"])
    return logs._replace(clips=pa.concat_tables([log, logs.clips]))


def planned(clips, logs, recipes=RECIPES, redrive=False, rules=RULES):
    return all_rows(clips, logs, recipes, rules, redrive)


def to_survey(clips, logs, rules=RULES, redrive=False):
    return clips_to_survey(clips, logs, RECIPES, rules, redrive)["clip_uri"].to_pylist()


def worked(clips, logs, windows=(), captions=(), shards=SHARDS):
    """The logs after the rows that wait have been worked on; refused ones by clip's letter."""
    windows, captions = dict(windows), dict(captions)
    rows = planned(clips, logs).to_pylist()
    place = {"shard": "latents/a.parquet", "digest": "d", "attempts": 1}
    new_windows = [
        {"key": row["window_key"], **place, **WINDOW, **outcome_of(windows, row)}
        for row in rows
        if row["needs_latents"]
    ]
    place = place | {"shard": "text/a.parquet"}
    new_captions = [
        {"key": row["caption_key"], **place, "caption": "words", **outcome_of(captions, row)}
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
    """Of a window or a caption; one that is not good has no tensors."""
    outcome, reason = outcomes.get(row["clip_uri"][0], ("ok", ""))
    result = {"outcome": outcome, "reason": reason, "error": reason}
    if outcome != "ok":
        result["shard"] = ""
    return result | ({"rms_dbfs": -90.0} if reason == "silence" else {})


def added(log, rows):
    """Of several entries for a key the last one counts."""
    return pa.concat_tables([pa.Table.from_pylist(rows, schema=log.schema), log])


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
    assert to_survey(clips, NOTHING) == list(FOUR)
    assert to_do(planned(clips, surveyed(clips))) == dict.fromkeys("abcd", "LT")


def test_finished_rows_are_not_done_again(finished):
    clips, logs = finished
    rows = planned(clips, logs)
    assert to_survey(clips, logs) == []
    assert to_do(rows) == {}
    assert set(outcomes_of(rows).values()) == {("ok", "")}
    assert rows["caption"].to_pylist() == ["words"] * 4
    assert rows["latents_shard"].to_pylist() == ["latents/a.parquet"] * 4


def test_a_changed_caption_redoes_the_text_alone(finished):
    _, logs = finished
    clips = listing(FOUR | {"b.mp4": "other words"})
    assert to_survey(clips, logs) == []
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
    assert to_survey(clips, logs) == ["b.mp4"]
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
        {
            "key": first["window_key"][0].as_py(),
            "outcome": "filtered",
            "shard": "",
            "rms_dbfs": -90.0,
        }
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
    assert to_survey(clips, logs) == []
    assert to_survey(clips, logs, redrive=True) == ["a.mp4"]


def test_a_redrive_tries_rows_again_as_if_they_were_good():
    clips = listing(FOUR)
    logs = worked(
        clips,
        surveyed(clips),
        windows={"a": ("quarantined", "unreadable")},
        captions={"b": ("quarantined", "caption_rejected")},
    )
    again = planned(clips, logs, redrive=True)
    assert outcomes_of(again) == dict.fromkeys(FOUR, ("ok", ""))


# Of each gate: a limit that refuses the clips and windows of these tests, and one that does not.
# The listing says 9 bytes.
TIGHTER = {
    "max_seconds": (50, "too_long"),
    "max_file_mb": (0.000008, "too_large"),
    "max_source_pixels": (4000, "too_many_pixels"),
    "min_height": (65, "low_resolution"),
    "min_width": (65, "low_resolution"),
    "max_frame_jitter": (0.01, "variable_frame_rate"),
    "max_missing_sound_s": (0.01, "sound_missing"),
    "max_caption_chars": (5, "caption_too_long"),
    "silence_dbfs": (-10, "silence"),
    "max_clipped_share": (0.01, "clipping"),
    "max_frozen_share": (0.01, "frozen_picture"),
}
OF_CLIPS = list(TIGHTER)[:6]
MEASURED = {
    "picture_jitter": 0.02,
    "sound_begins_s": 0.02,
    "clipped_share": 0.02,
    "frozen_share": 0.02,
}


def test_every_gate_has_a_limit_here():
    assert TIGHTER.keys() == GatesConfig.model_fields.keys()


@pytest.mark.parametrize("setting", TIGHTER)
def test_a_tightened_gate_takes_rows_out_and_a_loosened_one_brings_them_back(setting, monkeypatch):
    for name, value in MEASURED.items():
        monkeypatch.setitem(CLIP if name in CLIP else WINDOW, name, value)
    clips = listing(FOUR)
    logs = worked(clips, surveyed(clips))
    before = planned(clips, logs)
    limit, reason = TIGHTER[setting]
    tighter = rules(f"data.gates.{setting}={limit}")
    rows = planned(clips, logs, rules=tighter)
    assert set(outcomes_of(rows).values()) == {("filtered", reason)}
    assert all(error.startswith("expected ") for error in rows["error"].to_pylist())
    for chosen in (tighter, RULES):
        assert to_survey(clips, logs, chosen) == []
        assert to_do(planned(clips, logs, rules=chosen)) == {}
    assert planned(clips, logs).equals(before)


@pytest.mark.parametrize("setting", TIGHTER)
def test_a_loosened_gate_asks_for_the_rows_that_it_admits_and_no_others(setting, monkeypatch):
    for name, value in MEASURED.items():
        monkeypatch.setitem(CLIP if name in CLIP else WINDOW, name, value)
    limit, reason = TIGHTER[setting]
    tighter = rules(f"data.gates.{setting}={limit}")
    clips = listing(FOUR)
    logs = worked(clips, surveyed(clips))
    # A fifth clip came when the gate was tight, and its survey or its work ended there.
    clips = listing(FOUR | {"e.mp4": "clip e"}, e={"clip_bytes": 10})
    if setting == "max_file_mb":
        assert to_survey(clips, logs, tighter) == []
    elif setting in OF_CLIPS:
        ended = {"outcome": "filtered", "reason": reason, "looks": 3, "starts_s": []}
        logs = surveyed(clips, logs, e=ended)
    else:
        logs = surveyed(clips, logs)
        if to_do(planned(clips, logs, rules=tighter)):  # it is decoded to be refused
            logs = worked(clips, logs, windows={"e": ("filtered", reason)})
    assert outcomes_of(planned(clips, logs, rules=tighter))["e.mp4"] == ("filtered", reason)
    assert to_survey(clips, logs, tighter) == []
    assert to_do(planned(clips, logs, rules=tighter)) == {}
    if setting in OF_CLIPS:
        assert to_survey(clips, logs) == ["e.mp4"]
        logs = surveyed(clips, logs)
    looser = rules("data.gates.silence_dbfs=-95", "data.gates.max_caption_chars=20")
    assert to_do(planned(clips, logs, rules=looser)) == {"e": "LT"}


def test_a_clip_that_is_too_large_is_not_opened_nor_known_by_its_content():
    clips = listing(FOUR)
    tighter = rules("data.gates.max_file_mb=0.000008")
    assert to_survey(clips, NOTHING, tighter) == []
    never = planned(clips, NOTHING, rules=tighter)
    assert set(outcomes_of(never).values()) == {("filtered", "too_large")}
    # However it was before.
    logs = worked(clips, surveyed(clips))
    assert (
        planned(clips, logs, rules=tighter)
        .drop_columns(ATTEMPTS)
        .equals(never.drop_columns(ATTEMPTS))
    )


def test_only_windows_without_sound_are_refused_for_it(monkeypatch):
    monkeypatch.setitem(CLIP, "sound_ends_s", 2.5)
    monkeypatch.setitem(CLIP, "sound_begins_s", 0.25)
    clips = listing({"a.mp4": "clip a"})
    rows = planned(clips, surveyed(clips, starts=(0.0, 1.0, 2.0))).to_pylist()
    assert [row["reason"] for row in rows] == ["sound_missing", "", "sound_missing"]
    assert "got 0.25 s without" in rows[0]["error"]
    assert "got 0.5 s without" in rows[2]["error"]
    assert [row["needs_latents"] for row in rows] == [False, True, False]


def test_fewer_windows_of_a_clip_cost_nothing_and_more_only_themselves():
    clips = listing({"a.mp4": "clip a"})
    starts = (0.0, 1.0, 2.0)
    few = rules("data.split.max_windows=1")
    logs = surveyed(clips, starts=starts)
    assert planned(clips, logs, rules=few)["start_s"].to_pylist() == [0.0]
    logs = worked(clips, logs)
    assert to_survey(clips, logs, few) == []
    assert to_do(planned(clips, logs, rules=few)) == {}
    more = rules("data.split.max_windows=2")
    assert to_do(planned(clips, logs, rules=more)) == {}


def test_another_size_surveys_no_clip_again_and_encodes_the_clips_that_get_it(monkeypatch):
    monkeypatch.setitem(CLIP, "aspect", 1.5)
    clips = listing(FOUR)
    logs = surveyed(clips)
    logs = logs._replace(clips=with_square(logs.clips, "a"))
    logs = worked(clips, logs)
    wide = rules("data.buckets=[{height: 64, width: 96}]")
    assert to_survey(clips, logs, wide) == []
    rows = planned(clips, logs, rules=wide)
    assert to_do(rows) == dict.fromkeys("bcd", "L")
    assert rows["width"].to_pylist() == [64, 96, 96, 96]


def with_square(log, letter):
    rows = log.to_pylist()
    for row in rows:
        row["aspect"] = 1.0 if row["clip_digest"] == f"digest {letter}" else row["aspect"]
    return pa.Table.from_pylist(rows, schema=log.schema)


def test_a_shard_that_was_lost_and_cannot_be_made_again_does_not_wait_for_ever(finished):
    clips, logs = finished
    lost = logs._replace(shards=frozenset({"text/a.parquet"}))
    row = planned(clips, lost).to_pylist()[0]
    assert (row["needs_latents"], row["window_attempts"]) == (True, 1)


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
    assert to_survey(clips, NOTHING) == ["b.mp4"]
    rows = planned(clips, surveyed(clips))
    assert outcomes_of(rows)["a.mp4"] == ("quarantined", "missing_file")
    assert rows.filter(rows["needs_latents"])["clip_uri"].to_pylist() == ["b.mp4"]
