"""Small clips of files and of latents; of an untrusted file a sentence is left."""

import numpy as np
import pytest

from infra.media.files import probe, read_frames, read_waveform
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore, confined_store
from pipelines.datasets.report.shown_clips import (
    LARGEST_CLIP_BYTES,
    Signal,
    _fitting,
    small_clip,
    source_clip,
)
from tests.worlds.beacon_clips import write_beacon_clip

DATA = load_preset("tiny", ["data.seconds=5"]).data
RATE = 48_000


@pytest.fixture
def clips(tmp_path):
    return ObjectStore(tmp_path / "clips")


def as_file(clip, folder):
    path = folder / "shown.mp4"
    path.write_bytes(clip.mp4)
    return path


def silence(frames):
    return np.zeros((2, frames * RATE // 24), np.float32)


def test_a_window_is_cut_and_scaled_and_keeps_its_sound(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    write_beacon_clip(tmp_path / "clips" / "long.mp4", 0, seconds=4, size=400)
    clip = source_clip(clips, "long.mp4", 0.0, 1000, DATA)
    assert clip.note == ""
    shown = as_file(clip, tmp_path)
    record = probe(shown)
    assert (record.width, record.height) == (320, 320)
    assert record.duration_s == pytest.approx(3, abs=0.05)
    assert np.abs(read_waveform(shown, RATE, 1, 3)).max() > 0.1


def test_a_window_begins_where_its_row_begins(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    path = write_beacon_clip(tmp_path / "clips" / "a.mp4", 0, seconds=3)
    shown = as_file(source_clip(clips, "a.mp4", 1.25, 1000, DATA), tmp_path)
    expected = read_frames(path, 24, (64, 64), 20, start_s=1.25).astype(int)
    difference = np.abs(read_frames(shown, 24, (64, 64), 20).astype(int) - expected)
    assert difference.mean() < 4


def test_a_window_after_the_end_of_the_file_says_so(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    write_beacon_clip(tmp_path / "clips" / "a.mp4")
    clip = source_clip(clips, "a.mp4", 30.0, 1000, DATA)
    assert clip.mp4 is None
    assert "does not decode" in clip.note


def test_a_file_that_the_gates_refuse_for_its_size_is_not_fetched(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    write_beacon_clip(tmp_path / "clips" / "a.mp4")
    clip = source_clip(clips, "a.mp4", 0.0, 201_000_000, DATA)
    assert clip == (None, "the file is too large to be looked into")


def test_what_is_not_there_or_outside_the_folder_says_so(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    write_beacon_clip(tmp_path / "up.mp4")
    assert source_clip(clips, "gone.mp4", 0.0, 9, DATA) == (None, "there is no such file")
    outside = source_clip(confined_store(tmp_path / "clips"), "../up.mp4", 0.0, 9, DATA)
    assert outside.mp4 is None
    assert outside.note.startswith("cannot be read: expected a name below")


def test_a_window_behind_the_end_of_the_sound_is_shown_and_says_that_it_is_mute(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    write_beacon_clip(tmp_path / "clips" / "a.mp4", seconds=3, sound_s=1.0)
    assert source_clip(clips, "a.mp4", 0.0, 9, DATA).note == ""
    mute = source_clip(clips, "a.mp4", 2.0, 9, DATA)
    assert mute.mp4 is not None
    assert mute.note == "it has no sound here"


def test_a_note_names_the_clip_and_not_where_a_copy_of_it_lies(clips, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "text.mp4").write_text("no clip")
    note = source_clip(clips, "text.mp4", 0.0, 9, DATA).note
    assert note.endswith("for text.mp4; check the file")


def test_noise_is_shrunk_until_it_can_be_embedded_and_left_out_if_it_never_can():
    noise = np.random.default_rng(0).integers(0, 256, (72, 160, 320, 3), np.uint8)
    few = small_clip(Signal(noise[:12], silence(12), RATE))
    assert 0 < len(few.mp4) <= LARGEST_CLIP_BYTES
    many = small_clip(Signal(noise, silence(72), RATE))
    assert many.mp4 is None
    assert "too many bytes" in many.note


def test_a_picture_of_extreme_shape_keeps_even_sides(tmp_path):
    shown = small_clip(Signal(np.zeros((24, 4, 900, 3), np.uint8), silence(24), RATE))
    record = probe(as_file(shown, tmp_path))
    assert (record.height, record.width) == (2, 320)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (64, 64, (64, 64)),
        (400, 200, (320, 160)),
        (1080, 1920, (180, 320)),
        (321, 100, (320, 100)),
        (33, 35, (32, 36)),
        (1, 1, (2, 2)),
    ],
)
def test_a_size_is_scaled_down_only_and_rounded_to_even_sides(height, width, size):
    assert _fitting(height, width, 320) == size


def test_the_largest_file_that_the_gates_allow_is_looked_into(clips):
    largest = round(DATA.gates.max_file_mb * 1_000_000)
    assert source_clip(clips, "gone.mp4", 0.0, largest, DATA).note == "there is no such file"
    too_large = source_clip(clips, "gone.mp4", 0.0, largest + 1, DATA)
    assert too_large.note == "the file is too large to be looked into"
