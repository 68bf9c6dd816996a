"""What packets say without being decoded: lengths, spacing, and whether all are there."""

from pathlib import Path

import pytest

from infra.errors import MediaError
from tests.worlds.media.ffmpeg import run_ffmpeg
from tests.worlds.media.surveys import packet_times
from tests.worlds.media_zoo import Making, write_flashes


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = write_flashes(tmp_path_factory.mktemp("packets") / "clip.mp4", Making())
    return path


def test_packets_tell_lengths_and_spacing(clip: Path) -> None:
    times = packet_times(clip)
    assert times.video_s == pytest.approx(2.0, abs=1e-3)
    assert times.audio_s == pytest.approx(2.0, abs=0.05)
    assert times.audio_packet_s == pytest.approx(1024 / 48_000, abs=1e-6)
    assert times.frame_jitter == pytest.approx(0.0, abs=1e-3)
    assert times.whole


def test_jitter_is_the_deviation_of_the_spacing_over_its_mean(clip: Path, tmp_path: Path) -> None:
    # Pictures at 0, 3, 4, 7, 8, ...: the spacing is 3 and 1 in turns, its mean 2, its deviation 1.
    uneven = tmp_path / "uneven.mkv"
    times = "setpts='(2*N+mod(N,2))/(50*TB)'"
    video = ("-vf", f"settb=1/1000,{times}", "-frames:v", "9", "-fps_mode", "passthrough")
    run_ffmpeg("-i", clip, "-an", *video, "-enc_time_base", "1/1000", "-bf", "0", uneven)
    assert packet_times(uneven).frame_jitter == pytest.approx(0.5, abs=0.01)


def test_a_clip_that_starts_late_is_as_long_as_one_that_starts_at_once(
    clip: Path, tmp_path: Path
) -> None:
    late = tmp_path / "late.mkv"
    run_ffmpeg("-i", clip, "-c", "copy", "-output_ts_offset", "3", late)
    assert packet_times(late).video_s == pytest.approx(2.0, abs=2e-3)


def test_a_file_that_ends_with_its_header_has_no_length(clip: Path, tmp_path: Path) -> None:
    path, cut = tmp_path / "whole.mp4", tmp_path / "header.mp4"
    run_ffmpeg("-i", clip, "-c", "copy", "-movflags", "+faststart", path)
    content = path.read_bytes()
    cut.write_bytes(content[: content.index(b"mdat") + 4])
    times = packet_times(cut)
    assert (times.video_s, times.audio_s, times.whole) == (0.0, 0.0, False)


def test_a_clip_without_sound_has_none(clip: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    run_ffmpeg("-i", clip, "-c", "copy", "-an", silent)
    times = packet_times(silent)
    assert (times.audio_s, times.audio_packet_s, times.whole) == (0.0, 0.0, True)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_clip_that_was_cut_off_is_not_whole(clip: Path, tmp_path: Path, container: str) -> None:
    # What the header promises stands first in both: the end of the file is packets.
    path, cut = tmp_path / f"whole.{container}", tmp_path / f"cut.{container}"
    run_ffmpeg("-i", clip, "-c", "copy", "-movflags", "+faststart", path)
    assert packet_times(path).whole
    content = path.read_bytes()
    cut.write_bytes(content[: len(content) // 2] if container == "mkv" else content[:-200])
    assert not packet_times(cut).whole


def test_a_file_that_is_no_media_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(MediaError, match=r"expected a readable clip, .*noise\.mp4"):
        packet_times(tmp_path / "noise.mp4")
