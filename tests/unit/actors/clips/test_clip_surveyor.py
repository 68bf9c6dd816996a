"""What is known of a clip before it is decoded, and the outcome of untrusted ones."""

import hashlib
import math
import os
import socket
import threading
import time

import numpy as np
import pytest

from actors.clips import clip_surveyor
from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ALL_LOOKS, ClipSurveyor
from actors.clips.gates import (
    HEADER_GATES,
    PACKET_GATES,
    ROW_GATES,
    limits_of,
    refusal,
    sound_missing_s,
)
from actors.clips.size_buckets import nearest_sizes
from infra.dataset.columns import CLIP_MEASURES
from infra.media.survey import ClipSurvey
from infra.presets import load_preset
from tests.worlds.beacon_clips import truncated, without_sound, write_beacon_clip
from tests.worlds.media.surgery import with_a_wrong_index
from tests.worlds.media_zoo import (
    Making,
    is_as_late,
    run_ffmpeg,
    write_broken,
    write_flashes,
    write_zoo,
)

RATE = 16_000
BUCKETS = "data.buckets=[{height: 64, width: 96}, {height: 96, width: 64}]"


def data(*overrides):
    return load_preset("tiny", ["data.seconds=1", *overrides]).data


def outcome_of(folder, name, *overrides):
    survey = ClipSurveyor(data(*overrides), str(folder)).survey(name)
    assert survey.starts_s == () or survey.outcome == "ok"
    assert (survey.looks == ALL_LOOKS) or survey.outcome != "ok"
    return survey.outcome, survey.reason, survey.error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_beacon_clip(folder / "good.mp4")
    write_beacon_clip(folder / "three.mp4", seconds=3)
    return folder


def test_a_good_clip_has_a_digest_measures_and_a_window(folder):
    survey = ClipSurveyor(data(), str(folder)).survey("good.mp4")
    digest = hashlib.sha256((folder / "good.mp4").read_bytes()).hexdigest()
    assert survey[:4] == (f"sha256:{digest}", "ok", "", "")
    assert survey.starts_s == (0.0,)
    assert tuple(survey.measures) == CLIP_MEASURES
    assert survey.measures == pytest.approx(
        {
            "source_height": 64,
            "source_width": 64,
            "source_pixels": 4096,
            "source_fps": 24,
            "header_s": 25 / 24,
            "picture_s": 25 / 24,
            "sound_tracks": 1,
            "sound_begins_s": 0,
            "sound_ends_s": 25 / 24,
            "picture_jitter": 0,
            "aspect": 1,
        },
        abs=0.03,
    )


def test_a_clip_is_measured_as_far_as_gates_let_it_through(folder):
    write_flashes(folder / "jerky.mp4", Making(flaw="variable"))

    def known(*overrides, name="good.mp4", size=0):
        survey = ClipSurveyor(data(*overrides), str(folder)).survey(name, -1, size)
        measured = {name for name, value in survey.measures.items() if not math.isnan(value)}
        return survey.looks, bool(survey.clip_digest), len(measured)

    whole = (folder / "good.mp4").stat().st_size
    assert known("data.gates.max_file_mb=0.001", size=whole) == (0, False, 0)
    assert known("data.gates.max_file_mb=0.001") == (1, False, 0)
    assert known("data.gates.min_width=65") == (2, True, 5)
    assert known(name="jerky.mp4") == (3, True, 10)
    assert known() == (ALL_LOOKS, True, len(CLIP_MEASURES))


def test_a_clip_whose_headers_contradict_each_other_is_damaged_as_a_whole(folder, tmp_path):
    with_a_wrong_index(folder / "three.mp4", tmp_path / "wrong.mp4")
    outcome, reason, error = outcome_of(tmp_path, "wrong.mp4")
    assert (outcome, reason) == ("quarantined", "damaged")
    assert error.startswith("expected the bytes that were written, got damage in wrong.mp4 (mov")


def test_a_clip_that_is_too_large_or_too_long_is_not_decoded(folder, monkeypatch):
    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ClipSurvey, "aspect", decode)
    monkeypatch.setattr(clip_surveyor, "window_starts_s", decode)
    for gate in ("max_file_mb=0.001", "max_seconds=1", "max_source_pixels=9"):
        assert outcome_of(folder, "good.mp4", f"data.gates.{gate}")[0] == "filtered"


def test_a_clip_has_the_shape_in_which_it_is_shown(tmp_path):
    sizes = load_preset("tiny", [BUCKETS]).data.sizes
    makings = {
        "wide": Making(width=128, height=72),
        "tall": Making(width=128, height=72, rotation=90),
        "square": Making(width=72, height=72),
    }
    shapes = {}
    for name, making in makings.items():
        write_flashes(tmp_path / f"{name}.mp4", making)
        survey = ClipSurveyor(data(), str(tmp_path)).survey(f"{name}.mp4")
        shape = nearest_sizes(np.array([survey.measures["aspect"]]), sizes)
        shapes[name] = (survey.outcome, *shape.height, *shape.width)
    assert shapes == {"wide": ("ok", 64, 96), "tall": ("ok", 96, 64), "square": ("ok", 64, 64)}


def test_windows_follow_each_other(folder):
    survey = ClipSurveyor(data("data.split.kind=fixed"), str(folder)).survey("three.mp4")
    assert survey.starts_s == (0.0, 1.0, 2.0)


@pytest.mark.thorough
def test_a_clip_that_is_nothing_but_cuts_has_no_window(folder):
    chosen = ("data.split.kind=shots", "data.split.shot_threshold=0.01")
    outcome, reason, error = outcome_of(folder, "three.mp4", *chosen)
    assert (outcome, reason) == ("filtered", "no_whole_shot")
    assert error == "expected a shot of data.seconds or more, got none"


def test_a_member_of_an_archive_is_surveyed_under_its_own_name(folder):
    content = (folder / "good.mp4").read_bytes()
    (folder / "clips.tar").write_bytes(b"before" + content + b"behind")
    surveyor = ClipSurveyor(data(), str(folder))
    name = "clips.tar/0.mp4"
    assert surveyor.survey(name, 6, len(content)) == surveyor.survey("good.mp4")
    error = surveyor.survey(name, 6, len(content) // 2).error
    assert f"the header of {name} counts" in error


def test_a_file_over_the_limit_is_too_large(folder):
    outcome, reason, error = outcome_of(folder, "good.mp4", "data.gates.max_file_mb=0.001")
    assert (outcome, reason) == ("filtered", "too_large")
    assert error.startswith("expected at most 0.001 MB, got 0.0")


def test_a_clip_that_ends_early_is_too_short(folder):
    outcome = outcome_of(folder, "good.mp4", "data.seconds=2")
    assert outcome == ("filtered", "too_short", "expected at least 2 s, got 1.04 s")


def test_a_clip_over_the_limit_is_too_long(folder):
    outcome = outcome_of(folder, "good.mp4", "data.gates.max_seconds=1")
    assert outcome == ("filtered", "too_long", "expected at most 1 s, got 1.04 s")


def test_a_clip_without_a_sound_track_has_no_audio(folder):
    without_sound(folder / "good.mp4", folder / "mute.mp4")
    outcome = outcome_of(folder, "mute.mp4")
    assert outcome == ("filtered", "no_audio", "expected a sound track, got none")


def test_it_is_measured_where_the_sound_begins_and_ends(folder):
    write_beacon_clip(folder / "deaf_end.mp4", seconds=2, sound_s=1.5)
    survey = ClipSurveyor(data("data.split.kind=fixed"), str(folder)).survey("deaf_end.mp4")
    assert (survey.outcome, survey.starts_s) == ("ok", (0.0, 1.0))
    assert survey.measures["sound_begins_s"] == pytest.approx(0, abs=0.03)
    assert survey.measures["sound_ends_s"] == pytest.approx(1.5, abs=0.03)


def test_frames_of_uneven_spacing_are_refused(folder):
    write_flashes(folder / "uneven.mp4", Making(flaw="variable"))
    outcome, reason, error = outcome_of(folder, "uneven.mp4")
    assert (outcome, reason) == ("filtered", "variable_frame_rate")
    assert error.startswith("expected frames of one spacing within 0.2 of it, got 0.")
    assert outcome_of(folder, "uneven.mp4", "data.gates.max_frame_jitter=0.9")[0] == "ok"


@pytest.mark.parametrize(
    ("gate", "reason", "got"),
    [
        ("max_source_pixels=4095", "too_many_pixels", "4096"),
        ("min_width=65", "low_resolution", "64"),
    ],
)
def test_pictures_have_neither_too_many_pixels_nor_too_few(folder, gate, reason, got):
    outcome = outcome_of(folder, "good.mp4", f"data.gates.{gate}")
    assert outcome[:2] == ("filtered", reason)
    assert outcome[2].endswith(f"got {got}")


def test_a_text_file_named_mp4_is_unreadable(folder):
    (folder / "text.mp4").write_text("not a clip")
    outcome, reason, error = outcome_of(folder, "text.mp4")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "expected a readable clip" in error
    assert "text.mp4" in error


def test_a_truncated_clip_is_unreadable(folder):
    truncated(folder / "three.mp4", folder / "truncated.mp4")
    outcome, reason, error = outcome_of(folder, "truncated.mp4")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "truncated.mp4" in error


def test_what_is_known_of_a_cut_clip_is_refused_by_no_gate_later(folder):
    mute = ("-i", folder / "three.mp4", "-an", "-c:v", "copy", "-movflags", "+faststart")
    run_ffmpeg(*mute, folder / "mute_front.mp4")
    content = (folder / "mute_front.mp4").read_bytes()
    (folder / "mute_cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    survey = ClipSurveyor(data(), str(folder)).survey("mute_cut.mp4")
    assert (survey.outcome, survey.reason, survey.looks) == ("quarantined", "unreadable", 3)
    assert refusal(survey.measures, (*HEADER_GATES, *PACKET_GATES), limits_of(data())) is None


def test_an_empty_file_is_unreadable(folder):
    (folder / "empty.mp4").touch()
    outcome, reason, error = outcome_of(folder, "empty.mp4")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "got an empty file" in error


def test_a_file_that_is_gone_is_unreadable(folder):
    survey = ClipSurveyor(data(), str(folder)).survey("gone.mp4")
    assert survey[:3] == ("", "quarantined", "unreadable")
    assert survey.looks == 1


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.mp4")
    outcome, reason, error = outcome_of(folder, "pipe.mp4")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "which is n" in error


def test_a_clip_under_a_wrong_extension_is_what_it_is(folder):
    (folder / "good.txt").write_bytes((folder / "good.mp4").read_bytes())
    assert outcome_of(folder, "good.txt")[0] == "ok"


def test_rows_with_a_problem_are_quarantined_for_it_unopened(folder):
    batch = {
        "clip_uri": np.array(["good.mp4", "three.mp4", "good.mp4"], dtype=object),
        "archive_offset": np.full(3, -1),
        "clip_bytes": np.zeros(3, np.int64),
        "problem": np.array(["", "", "no_caption"], dtype=object),
        "error": np.array(["", "", "expected a caption, got none"], dtype=object),
    }
    rows = ClipSurveyor(data("data.split.kind=fixed"), str(folder))(batch)
    assert list(rows["outcome"]) == ["ok", "ok", "quarantined"]
    assert list(rows["reason"]) == ["", "", "no_caption"]
    assert list(rows["error"]) == ["", "", "expected a caption, got none"]
    assert list(rows["starts_s"]) == [[0.0], [0.0, 1.0, 2.0], []]
    assert list(rows["looks"]) == [ALL_LOOKS, ALL_LOOKS, 0]
    assert list(rows["source_width"])[:2] == [64, 64]
    assert math.isnan(rows["source_width"][2])
    assert rows["clip_digest"][2] == ""
    assert rows["clip_digest"][0].startswith("sha256:")


def outcomes_of(folder, clips):
    """The outcome of each clip after both stages and the gate between them, and its lag."""
    surveyor = ClipSurveyor(data(), str(folder))
    decoder = ClipDecoder(data(), str(folder), RATE)
    outcomes, lags = {}, {}
    for clip in clips:
        result = surveyor.survey(clip.name)
        outcome = (result.outcome, result.reason)
        if result.outcome == "ok":
            refused = _refused_before_decoding(result)
            decoded = decoder.decode(clip.name)
            outcome = (decoded.outcome, decoded.reason)
            if refused is not None:
                outcome = ("filtered", refused.reason)
            lags[clip.name] = decoded.measures["av_lag_ms"]
        outcomes[clip.name] = outcome
    return outcomes, lags


def _refused_before_decoding(survey):
    sound_s = (survey.measures[name] for name in ("sound_begins_s", "sound_ends_s"))
    known = {"caption_chars": 1, "sound_missing_s": sound_missing_s(0.0, 1, *sound_s)}
    return refusal(known, ROW_GATES, limits_of(data()))


@pytest.mark.thorough
@pytest.mark.parametrize("count", [24, pytest.param(300, marks=pytest.mark.corpus)])
@pytest.mark.timeout(900)
def test_clips_of_every_kind_get_the_outcome_they_should(tmp_path, count, maker):
    clips = write_zoo(tmp_path, count)
    outcomes, lags = outcomes_of(tmp_path, clips)
    assert outcomes == {clip.name: (clip.expected_outcome, clip.expected_reason) for clip in clips}
    expected = {clip.name: clip.lag_ms for clip in clips if clip.lag_ms is not None}
    late = {name: lags[name] - lag_ms for name, lag_ms in expected.items()}
    assert {name: ms for name, ms in late.items() if not is_as_late(ms)} == {}


@pytest.fixture
def visitors():
    """A port, and the connections that were made to it."""
    made = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        stop = threading.Event()

        def accept():
            while not stop.is_set():
                try:
                    made.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], made
        stop.set()
        thread.join()
        for connection, _ in made:
            connection.close()


@pytest.mark.thorough
def test_broken_and_harmful_files_get_the_outcome_they_should(tmp_path, visitors, maker):
    port, made = visitors
    folder = tmp_path / "clips"
    folder.mkdir()
    clips = write_broken(folder, url=f"http://127.0.0.1:{port}/a.ts")
    assert len(clips) == 40
    started = time.monotonic()
    outcomes, _ = outcomes_of(folder, clips)
    assert outcomes == {clip.name: (clip.expected_outcome, clip.expected_reason) for clip in clips}
    assert time.monotonic() - started < 40
    assert made == []
