"""Every number and word of a dataset's page, from small values."""

import json
import math

import pytest

from infra.dataset.reasons import Reason
from pipelines.datasets.report.gallery import Gallery, KeptRow, RefusedRow
from pipelines.datasets.report.sections import MOST_CHARACTERS, dataset_page
from pipelines.datasets.report.shown_clips import ShownClip

WORDS = {"clip_uri": "a.mp4", "start_s": 2.5, "caption_raw": "raw", "caption": "long"}
NO_SCORE = {"rows": 0, "median": None, "edges": [], "counts": []}
CONFIG = {"name": "Ü", "data": {"gates": {"silence_dbfs": -55.0}}, "codec": {"kind": "tiny"}}


def page(gallery=None, histograms=None, **changes):
    values = {
        "name": "birds",
        "dataset": "out/birds",
        "digest": "sha256:1",
        "source": "clips",
        "preset": "tiny",
        "commit": "0123456789abcdef",
        "counts": {
            "rows": 2000,
            "ok": 1500,
            "filtered": {"silence": 100, "dark": 300},
            "quarantined": {"missing": 100},
        },
        "kept_seconds": 7500,
        "figures": {
            "seconds": 100.0,
            "stage_seconds": {"A": 30.0, "B": 10.0},
            "rows_worked": 12,
        },
        "scores": {"loudness_lufs": NO_SCORE, "av_lag_ms": NO_SCORE},
        "config": CONFIG,
        "codecs": {},
    }
    return dataset_page(values | changes, histograms or {}, gallery or Gallery([], {}))


def kept(lag=10.0, loudness=-20.04, rewritten=True, **words):
    values = {**WORDS, "av_lag_ms": lag, "loudness_lufs": loudness, "rewritten": rewritten, **words}
    row = KeptRow(values, ShownClip(b"1", "note"), ShownClip(None, "why"))
    (card,) = page(Gallery([row], {})).kept
    return card


def test_the_tiles_are_the_numbers_of_the_run():
    assert page().tiles == [
        ("Rows", "2,000", ""),
        ("Kept", "75", "%"),
        ("Length kept", "2.1", "h"),
        ("This run", "1:40", "min"),
        ("Worked on", "12", "rows"),
        ("Throughput", "0.12", "rows/s"),
    ]
    assert page(kept_seconds=3600).tiles[2] == ("Length kept", "1.0", "h")
    assert page(kept_seconds=3599).tiles[2] == ("Length kept", "59:59", "min")


def test_nothing_done_and_nothing_there_is_zero_everywhere():
    empty = page(
        counts={"rows": 0, "ok": 0, "filtered": {}, "quarantined": {}},
        figures={"seconds": 0.0, "stage_seconds": {"A": 0.0}, "rows_worked": 0},
    )
    assert [empty.tiles[place].number for place in (1, 5)] == ["0", "0"]
    assert empty.all_rows == ("", "all rows", "0", "0.0%", "")
    assert empty.stages == [("A", "0.00", "0.0%", "—")]


def test_outcomes_are_ordered_by_their_rows_and_add_up():
    shown = page()
    silence = f"{Reason.SILENCE.meaning} {Reason.SILENCE.advice}"
    assert shown.outcomes == [
        ("ok", "ok", "1,500", "75.0%", ""),
        ("filtered", "filtered: dark", "300", "15.0%", ""),
        ("filtered", "filtered: silence", "100", "5.0%", silence),
        ("quarantined", "quarantined: missing", "100", "5.0%", ""),
    ]
    assert shown.all_rows == ("", "all rows", "2,000", "100.0%", "")


def test_gates_stand_with_their_limits_and_the_rows_they_refused():
    (gate,) = page().gates
    assert (gate.setting, gate.limit, gate.refused) == ("silence_dbfs", -55, 100)


def test_it_is_said_beside_the_clips_that_the_codecs_of_tiny_know_one_thing_only():
    assert "Whatever else a clip shows comes out as a grey disc" in page().codec_note
    assert page(config=CONFIG | {"codec": {"kind": "ltx2"}}).codec_note == ""


def test_a_stage_has_its_share_and_its_time_per_row():
    assert page().stages == [("A", "30.00", "75.0%", "2,500"), ("B", "10.00", "25.0%", "833")]
    assert page().clock == "12 rows took 100.0 s by the clock"


def test_the_commit_is_short_or_unknown():
    assert page().commit == "0123456789"
    assert page(commit="").commit == "unknown"


def test_a_kept_row_has_two_clips_and_four_texts():
    card = kept()
    assert card.clips == [
        ("source window", b"1", "note"),
        ("decoded from its latents", None, "why"),
    ]
    assert card.words == [
        ("caption before", "raw"),
        ("after", "long"),
        ("scores", "-20.0 LUFS, sound about 10 ms after the picture, if they belong together"),
    ]
    assert card.place == "a.mp4 from 2.5 s"
    assert kept(rewritten=False).words[1] == ("after, unchanged", "long")


@pytest.mark.parametrize(
    ("lag", "loudness", "scores"),
    [
        (-10.0, -1.0, "-1.0 LUFS, sound about 10 ms before the picture, if they belong together"),
        (0.0, -1.0, "-1.0 LUFS, sound about 0 ms after the picture, if they belong together"),
        (None, None, "no LUFS, lag of the sound unknown"),
        (math.nan, -math.inf, "no LUFS, lag of the sound unknown"),
    ],
)
def test_a_score_that_was_not_measured_is_none(lag, loudness, scores):
    assert kept(lag, loudness).words[2] == ("scores", scores)


def test_a_long_text_is_cut():
    longest = "x" * MOST_CHARACTERS
    assert kept(caption=longest).words[1][1] == longest
    assert kept(caption=longest + "x").words[1][1] == "x" * (MOST_CHARACTERS - 1) + "…"


def test_a_refused_row_has_its_error_under_its_reason():
    row = RefusedRow({**WORDS, "reason": "silence", "error": "bad"}, ShownClip(None, "gone"))
    (group,) = page(Gallery([], {("filtered", "silence"): [row]})).refused
    assert (group.outcome, group.reason) == ("filtered", "silence")
    assert group.cards[0].words == [("why", "bad"), ("caption", "raw")]
    assert group.cards[0].clips == [("source window", None, "gone")]
    assert group.cards[0].place == "a.mp4 from 2.5 s"


def test_a_line_of_the_table_that_is_no_clip_has_no_window():
    values = {
        **WORDS,
        "clip_uri": "captions.csv line 3",
        "reason": "malformed_line",
        "error": "bad",
    }
    row = RefusedRow(values, ShownClip(None, "no clip was opened"))
    (group,) = page(Gallery([], {("quarantined", "malformed_line"): [row]})).refused
    assert group.cards[0].clips == [("", None, "no clip was opened")]
    assert group.cards[0].place == "captions.csv line 3"


def test_a_distribution_has_its_rows_and_its_median():
    lag = {"rows": 1234, "median": 12.34}
    scores = page(
        histograms={"av_lag_ms": b"png"}, scores={"loudness_lufs": NO_SCORE, "av_lag_ms": lag}
    ).scores
    assert scores == [
        ("Loudness", "measured in no row", None, "Loudness in LUFS: rows"),
        (
            "Sound after picture, estimated",
            "1,234 rows, median 12.3 ms",
            b"png",
            "Sound after picture, estimated in ms: rows",
        ),
    ]


def test_settings_are_readable_json():
    shown = [("Configuration", json.dumps(CONFIG, indent=2, ensure_ascii=False)), ("Codecs", "{}")]
    assert page().settings == shown
