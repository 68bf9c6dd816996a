"""Every limit of every gate: what passes at it, what does not beyond it, and what is said then."""

import math

import pyarrow as pa
import pytest

from actors.clips.gates import (
    CLIP_GATES,
    GATES,
    HEADER_GATES,
    PACKET_GATES,
    SIGNAL_GATES,
    limits_of,
    refusal,
    refused,
    sound_missing_s,
)
from infra.config import GatesConfig
from infra.presets import load_preset
from tests.worlds.datasets import CLIP, WINDOW

# Column, setting, the last value that passes, the first that does not, and the sentence.
LIMITS = [
    ("clip_bytes", "max_file_mb=1", 1_000_000, 1_060_000, "at most 1 MB, got 1.06 MB"),
    ("source_pixels", "max_source_pixels=3071", 3071, 3072, "at most 3071 pixels, got 3072"),
    ("source_height", "min_height=49", 49, 48, "pictures of a height of at least 49, got 48"),
    ("source_width", "min_width=65", 65, 64, "pictures of a width of at least 65, got 64"),
    ("header_s", "max_seconds=5", 0.99, 0.98, "at least 1 s, got 0.98 s"),
    ("header_s", "max_seconds=5", 5.0, 5.1, "at most 5 s, got 5.1 s"),
    ("picture_s", "max_seconds=5", 0.99, 0.98, "at least 1 s, got 0.98 s"),
    ("picture_s", "max_seconds=5", 5.0, 5.1, "at most 5 s, got 5.1 s"),
    ("sound_tracks", "min_width=1", 1, 0, "a sound track, got none"),
    (
        "picture_jitter",
        "max_frame_jitter=0.25",
        0.25,
        0.26,
        "frames of one spacing within 0.25 of it, got 0.26",
    ),
    ("window_count", "min_width=1", 1, 0, "a shot of data.seconds or more, got none"),
    (
        "caption_chars",
        "max_caption_chars=20",
        20,
        21,
        "at most 20 characters of caption, got 21",
    ),
    (
        "sound_missing_s",
        "max_missing_sound_s=0.125",
        0.125,
        0.5,
        "sound in the window but for 0.125 s, got 0.5 s without: the sound track begins later or"
        " ends before",
    ),
    ("decoded_frames", "min_width=1", 24, 23, "25 frames at 24 fps, got 23"),
    ("rms_dbfs", "silence_dbfs=-18.5", -18.5, -24, "sound above -18.5 dBFS, got -24 dBFS"),
    ("rms_dbfs", "silence_dbfs=-60", -60, -math.inf, "sound above -60 dBFS, got -inf dBFS"),
    (
        "clipped_share",
        "max_clipped_share=0.25",
        0.25,
        0.28125,
        "at most 0.25 of samples at full scale, got 0.281",
    ),
    (
        "frozen_share",
        "max_frozen_share=0.49",
        0.49,
        0.5,
        "at most 0.49 of frames to repeat the one before, got 0.5",
    ),
]


def limits(*overrides):
    return limits_of(load_preset("tiny", ["data.seconds=1", *overrides]).data)


@pytest.mark.parametrize(("column", "setting", "passes", "fails", "sentence"), LIMITS)
def test_a_gate_refuses_what_is_beyond_its_limit_and_says_what_it_got(
    column, setting, passes, fails, sentence
):
    gates = [gate for gate in GATES if gate.column == column]
    limited = limits(f"data.gates.{setting}")
    assert refusal({column: passes}, gates, limited) is None
    refused_for = refusal({column: fails}, gates, limited)
    assert refused_for is not None
    assert refused_for.sentence == f"expected {sentence}"


def test_every_gate_is_tried_here():
    assert {gate.column for gate in GATES} == {column for column, *_ in LIMITS}


def test_every_setting_belongs_to_a_gate_and_every_gate_has_a_limit():
    settings = {gate.setting for gate in GATES}
    assert settings - {"one", "seconds", "whole_window"} == GatesConfig.model_fields.keys()
    assert limits().keys() == settings


def test_what_was_not_measured_passes():
    for gates in (CLIP_GATES, SIGNAL_GATES):
        unknown = {gate.column: math.nan for gate in gates}
        assert refusal(unknown, gates, limits()) is None


def test_a_good_clip_and_a_good_window_pass_every_gate():
    assert refusal(CLIP, (*HEADER_GATES, *PACKET_GATES), limits()) is None
    assert refusal(WINDOW, SIGNAL_GATES, limits()) is None


def test_the_first_gate_that_refuses_counts():
    bad = WINDOW | {"rms_dbfs": -90.0, "frozen_share": 1.0}
    refused_for = refusal(bad, SIGNAL_GATES, limits())
    assert refused_for is not None
    assert refused_for.reason == "silence"


def test_many_rows_are_decided_at_once():
    rows = pa.table(
        {
            name: pa.array([value, value, None], pa.float64())
            for name, value in (WINDOW | {"clipped_share": 0.0}).items()
        }
    )
    quiet = pa.array([-20.0, -90.0, None], pa.float64())
    rows = rows.set_column(rows.column_names.index("rms_dbfs"), "rms_dbfs", quiet)
    reasons, sentences = refused(rows, SIGNAL_GATES, limits())
    assert reasons.to_pylist() == [None, "silence", None]
    assert sentences.to_pylist() == [None, "expected sound above -60 dBFS, got -90 dBFS", None]


def test_a_window_lacks_the_sound_before_the_track_begins_and_after_it_ends():
    assert sound_missing_s(0.0, 5, 0.0, 10.0) == 0
    assert sound_missing_s(0.0, 5, 0.25, 10.0) == 0.25
    assert sound_missing_s(5.0, 5, 0.25, 9.5) == 0.5
    assert sound_missing_s(0.0, 5, 0.5, 4.0) == 1.5
    assert sound_missing_s(20.0, 5, 0.0, 10.0) == 5
    assert math.isnan(sound_missing_s(0.0, 5, math.nan, math.nan))
