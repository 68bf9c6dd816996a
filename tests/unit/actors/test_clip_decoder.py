"""What a gate says about a clip, and what comes out of a good one."""

import numpy as np
import pytest

from actors.clip_decoder import ClipDecoder
from infra.media_files import write_clip
from infra.presets import load_preset
from tests.beacon_clips import SAMPLE_RATE, truncated, without_sound, write_beacon_clip

RATE = 16_000


def decoder(folder, *overrides):
    return ClipDecoder(load_preset("tiny", ["data.seconds=1", *overrides]).data, str(folder), RATE)


def end(folder, name, *overrides):
    clip = decoder(folder, *overrides).decode(name)
    return clip.outcome, clip.reason, clip.error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_beacon_clip(folder / "good.mp4")
    return folder


def test_a_good_clip_gives_pictures_and_sound_of_one_length(folder):
    clip = decoder(folder).decode("good.mp4")
    assert (clip.outcome, clip.reason, clip.error) == ("ok", "", "")
    assert clip.frames.shape == (25, 64, 64, 3)
    assert clip.frames.max() > 200
    assert clip.waveform.shape == (2, 16_667)
    assert 0.2 < np.abs(clip.waveform).max() <= 1


def test_a_longer_clip_gives_its_first_seconds(folder):
    write_beacon_clip(folder / "long.mp4", seconds=3)
    long, short = (decoder(folder).decode(name) for name in ("long.mp4", "good.mp4"))
    assert long.outcome == "ok"
    assert np.abs(long.frames.astype(int) - short.frames).mean() < 2


def test_any_picture_size_is_scaled_to_cover_and_cropped(folder):
    frames = np.full((25, 90, 160, 3), 200, np.uint8)
    sound = np.sin(np.arange(50_000) / 20)[None].astype(np.float32)
    write_clip(folder / "wide.mp4", frames, sound, SAMPLE_RATE)
    assert decoder(folder).decode("wide.mp4").frames.min() > 150


def test_a_clip_of_exactly_the_seconds_is_long_enough(folder):
    frames = np.zeros((24, 64, 64, 3), np.uint8)
    frames[-1] = 250
    sound = np.sin(np.arange(48_000) / 20)[None].astype(np.float32)
    write_clip(folder / "exact.mp4", frames, sound, SAMPLE_RATE)
    clip = decoder(folder).decode("exact.mp4")
    assert clip.outcome == "ok"
    assert (clip.frames[-1] == clip.frames[-2]).all()


def test_a_file_over_the_limit_is_too_large(folder):
    outcome, reason, error = end(folder, "good.mp4", "data.max_file_mb=0.001")
    assert (outcome, reason) == ("filtered", "too_large")
    assert error.startswith("expected at most 0.001 MB, got 0.0")


def test_a_clip_that_ends_early_is_too_short(folder):
    found = end(folder, "good.mp4", "data.seconds=2")
    assert found == ("filtered", "too_short", "expected at least 2 s, got 1.04 s")


def test_a_clip_over_the_limit_is_too_long(folder):
    found = end(folder, "good.mp4", "data.max_seconds=1")
    assert found == ("filtered", "too_long", "expected at most 1 s, got 1.0 s")


def test_a_clip_without_a_sound_track_has_no_audio(folder):
    without_sound(folder / "good.mp4", folder / "mute.mp4")
    found = end(folder, "mute.mp4")
    assert found == ("filtered", "no_audio", "expected a sound track, got none")


def test_tracks_of_different_lengths_drift(folder):
    write_beacon_clip(folder / "drift.mp4", seconds=2, sound_s=1.5)
    outcome, reason, error = end(folder, "drift.mp4")
    assert (outcome, reason) == ("filtered", "track_drift")
    assert "within 0.1 s, got 2.04 s of picture and 1.5" in error


def test_a_silent_clip_is_refused(folder):
    write_beacon_clip(folder / "silent.mp4", loudness=0)
    outcome, reason, error = end(folder, "silent.mp4")
    assert (outcome, reason) == ("filtered", "silence")
    assert error.startswith("expected sound above -60 dBFS, got -")


def test_a_text_file_named_mp4_is_unreadable(folder):
    (folder / "text.mp4").write_text("not a clip")
    outcome, reason, error = end(folder, "text.mp4")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "expected a readable clip" in error
    assert "text.mp4" in error


def test_a_truncated_clip_is_unreadable(folder):
    write_beacon_clip(folder / "whole.mp4", seconds=3)
    truncated(folder / "whole.mp4", folder / "truncated.mp4")
    outcome, reason, error = end(folder, "truncated.mp4", "data.seconds=3")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "truncated.mp4" in error


def test_an_empty_file_is_unreadable(folder):
    (folder / "empty.mp4").touch()
    outcome, reason, error = end(folder, "empty.mp4")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "got an empty file" in error


def test_a_file_that_is_gone_is_unreadable(folder):
    assert end(folder, "gone.mp4")[:2] == ("quarantined", "unreadable")


def test_a_clip_that_decodes_too_slowly_is_unreadable(folder):
    outcome, reason, error = end(folder, "good.mp4", "data.decode_timeout_s=0.001")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "within 0.001 s, got a timeout" in error


def test_a_batch_keeps_its_order_and_its_columns(folder):
    names = np.array(["gone.mp4", "good.mp4"], dtype=object)
    batch = decoder(folder)({"clip_uri": names, "caption": np.array(["a", "b"], dtype=object)})
    assert list(batch["outcome"]) == ["quarantined", "ok"]
    assert list(batch["caption"]) == ["a", "b"]
    assert batch["frames"].shape == (2, 25, 64, 64, 3)
    assert batch["waveform"].dtype == np.float32
