"""What is decoded is what a good player shows and plays, whatever the container."""

import shutil

import numpy as np
import pytest

from infra.errors import DamagedClipError
from infra.media.files import ffmpeg_path, probe, read_frames, read_waveform, read_window
from infra.media.survey import ClipSurvey
from tests.worlds.media.damage import RUNS, damaged
from tests.worlds.media.ffmpeg import run_ffmpeg
from tests.worlds.media.live import as_recorded_live
from tests.worlds.media.numbered import (
    Numbered,
    numbers_in,
    segment_lags_ms,
    shown_by,
    write_numbered,
)
from tests.worlds.media.surgery import without_sound_packets
from tests.worlds.media.tracks import write_tracks
from tests.worlds.media.viewing import (
    PQ,
    Coding,
    comb_energy,
    patches_in,
    pq,
    write_interlaced,
    write_patches,
)

RATE = 16_000
CONTAINERS = [
    Numbered("a.mp4", seconds=3.0),
    Numbered("a.mkv", seconds=3.0),
    Numbered("a.ts", seconds=3.0),
    Numbered("a.webm", "libvpx-vp9", "libopus", seconds=3.0),
    Numbered("mpeg4.avi", "mpeg4", "libmp3lame", seconds=3.0),
    Numbered("h264.avi", "libx264", "libmp3lame", seconds=3.0),
]


@pytest.mark.parametrize("making", CONTAINERS, ids=lambda making: making.name)
def test_each_picture_is_there_once_in_every_second(tmp_path, making):
    path = write_numbered(tmp_path, making)
    for second in range(3):
        frames = read_frames(path, max_frames=24, start_s=second)
        assert numbers_in(frames) == list(range(24 * second, 24 * second + 24))


@pytest.mark.parametrize("lost", [1, 3, 8])
def test_sound_behind_a_gap_is_where_it_belongs(tmp_path, lost):
    making = Numbered("a.mp4", seconds=3.0)
    whole = write_numbered(tmp_path, making)
    path = without_sound_packets(whole, tmp_path / "gap.mp4", range(20, 20 + lost))
    shown = shown_by(path, making, range(20, 20 + lost))
    for start_s in (0.0, 1.0):
        sound = read_waveform(path, RATE, 2, 1.0, start_s=start_s)
        lags = segment_lags_ms(sound, RATE, start_s, shown)
        assert len(lags) >= 5
        assert np.abs(lags).max() < 2


def test_sound_that_says_only_at_its_beginning_how_to_decode_it_is_heard_in_every_window(tmp_path):
    making = Numbered("a.ts", channels=3, seconds=3.0)
    path = write_numbered(tmp_path, making)
    shown = shown_by(path, making)
    for start_s in (0.0, 1.0, 2.0):
        sound = read_waveform(path, RATE, 2, 1.0, start_s=start_s)
        assert np.abs(segment_lags_ms(sound, RATE, start_s, shown)).max() < 2


def test_a_window_of_sound_equals_the_same_stretch_of_the_whole(tmp_path):
    path = write_numbered(tmp_path, Numbered("a.mkv", sample_rate=44_100, seconds=3.0))
    whole = read_waveform(path, RATE, 2, 3.0)
    for start_s in (0.5, 1.0, 2.0):
        window = read_waveform(path, RATE, 2, 1.0, start_s=start_s)
        begin = round(start_s * RATE)
        np.testing.assert_allclose(window, whole[:, begin : begin + RATE], atol=1e-3)


@pytest.mark.parametrize(
    "way", ["open-gop=1:b-pyramid=normal:bframes=3", "intra-refresh=1:bframes=0"]
)
def test_a_good_stream_without_closed_groups_is_not_condemned(tmp_path, way):
    coded = ("-x264-params", f"keyint=24:min-keyint=24:scenecut=0:{way}")
    path = write_numbered(tmp_path, Numbered("a.ts", seconds=3.0, options=coded))
    for second in range(3):
        window = read_window(path, 1.0, (64, 64), RATE, start_s=second)
        assert numbers_in(window.frames) == list(range(24 * second, 24 * second + 24))


def test_a_recording_that_begins_between_key_pictures_begins_with_the_first_key(tmp_path):
    path = write_numbered(tmp_path, Numbered("a.ts", seconds=3.0))
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 6 // 188 * 188 :])
    window = read_window(path, 1.0, (64, 64), RATE)
    assert numbers_in(window.frames) == list(range(24, 48))


def test_a_window_that_damage_touches_is_refused_and_the_one_before_it_is_not(tmp_path):
    path = write_numbered(tmp_path, Numbered("a.mp4", seconds=3.0))
    content, place = damaged(path.read_bytes(), 1, ways=RUNS)
    assert 0.4 < place / len(content) < 0.7
    before = read_window(path, 1.0, (64, 64), RATE)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_window(path, 1.0, (64, 64), RATE).frames, before.frames)
    with pytest.raises(DamagedClipError, match=r"got damage in .*a\.mp4"):
        read_window(path, 2.0, (64, 64), RATE, start_s=1.0)


def test_a_single_changed_byte_is_found_where_a_checksum_covers_it(tmp_path):
    path = write_numbered(tmp_path, Numbered("a.mkv", seconds=2.0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedClipError):
        read_window(path, 2.0, (64, 64), RATE)


def test_the_default_track_is_played_and_a_still_picture_is_not_shown(tmp_path):
    shown = write_tracks(tmp_path, "silence first.mp4")
    sound = read_waveform(tmp_path / "silence first.mp4", RATE, 2, 2.0)
    assert np.abs(segment_lags_ms(sound, RATE, 0.0, shown)).max() < 2
    write_tracks(tmp_path, "still picture first.mkv")
    frames = read_frames(tmp_path / "still picture first.mkv", max_frames=48)
    assert numbers_in(frames) == list(range(48))


def test_a_length_that_no_header_tells_is_that_of_the_packets(tmp_path):
    path = write_numbered(tmp_path, Numbered("a.mkv", seconds=2.0))
    path.write_bytes(as_recorded_live(path.read_bytes()))
    assert ClipSurvey(path).header().duration_s == pytest.approx(2.0, abs=0.01)
    assert len(read_frames(path, max_frames=100)) == 48


def test_interlaced_pictures_are_deinterlaced(tmp_path):
    path = write_interlaced(tmp_path / "a.mp4", "libx264")
    frames = read_frames(path, size=(96, 128), max_frames=20)
    assert max(comb_energy(frame) for frame in frames) < 100


def test_a_white_page_of_high_dynamic_range_is_white(tmp_path):
    signals = [[float(pq(203))] * 3, [float(pq(203)), 0.0, 0.0]]
    path = write_patches(tmp_path / "pq.mp4", signals, PQ)
    white, red = patches_in(read_frames(path, size=(64, 128), max_frames=3)[1], 2)
    assert white.min() > 225
    assert red[0] > 200
    assert max(red[1:]) < 30


@pytest.mark.parametrize(("height", "matrix"), [(720, "bt709"), (96, "bt601")])
def test_pictures_without_a_colour_tag_are_taken_for_what_players_take_them(
    tmp_path, height, matrix
):
    signals = [[0.75, 0.1, 0.1], [0.1, 0.75, 0.1]]
    path = write_patches(tmp_path / "a.mp4", signals, Coding(matrix), height, video="libx264")
    seen = patches_in(read_frames(path, size=(height, 128), max_frames=3)[1], 2)
    np.testing.assert_allclose(seen, 255 * np.array(signals), atol=6)


def test_an_ffmpeg_on_the_path_decides_nothing(tmp_path, monkeypatch):
    path = write_numbered(tmp_path, Numbered("a.mp4", seconds=1.0))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").write_text("#!/bin/sh\nexit 1\n")
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    assert shutil.which("ffmpeg") == str(folder / "ffmpeg")
    assert ffmpeg_path() != str(folder / "ffmpeg")
    assert numbers_in(read_frames(path, max_frames=24)) == list(range(24))


def test_text_of_a_file_that_is_no_utf8_does_not_matter(tmp_path):
    path = write_numbered(tmp_path, Numbered("a.mkv", seconds=1.0))
    named = tmp_path / "named.mkv"
    run_ffmpeg("-i", path, "-c", "copy", "-metadata", "title=TITLE", named)
    named.write_bytes(named.read_bytes().replace(b"TITLE", b"T\xff\xfeLE"))
    assert probe(named).frames in (24, 25)
