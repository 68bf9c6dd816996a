from pathlib import Path

import av
import numpy as np
import pytest

from infra.errors import MediaError
from infra.media.files import (
    probe,
    read_frames,
    read_waveform,
    write_clip,
)
from omniforcing_model.beacons.metrics import measure_clip
from omniforcing_model.beacons.world import Beacon, render_frames, render_waveform
from tests.worlds.media.ffmpeg import run_ffmpeg

BEACON = Beacon("yellow", 2, "middle", phase_frames=4)
SECONDS = 121 / 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    mono = render_waveform(BEACON, SECONDS, 48_000)
    write_clip(path, render_frames(BEACON), np.stack((mono, mono)), 48_000)
    return path


def test_a_clip_comes_back_from_mp4_with_its_pictures_and_sound(clip: Path) -> None:
    frames = read_frames(clip)
    assert frames.shape == (121, 64, 64, 3)
    assert np.abs(frames.astype(int) - render_frames(BEACON)).mean() < 3
    wave = read_waveform(clip, 16_000, channels=1, max_seconds=SECONDS)
    assert wave.shape == (1, round(SECONDS * 16_000))
    clean = render_waveform(BEACON, SECONDS, 16_000)
    assert np.sqrt(np.mean((wave[0] - clean) ** 2)) < 0.02
    measured = measure_clip(frames, wave, 16_000)
    assert (measured.colour, measured.rate_hz, measured.pitch) == ("yellow", 2, "middle")
    assert measured.av_offset_ms < 15


def test_the_probe_tells_what_the_file_holds(clip: Path) -> None:
    header = probe(clip)
    assert (header.width, header.height, header.frames) == (64, 64, 121)
    assert header.fps == 24
    assert header.has_audio
    assert (header.sample_rate, header.channels) == (48_000, 2)
    assert abs(header.duration_s - SECONDS) < 0.01
    assert abs(header.audio_duration_s - SECONDS) < 0.05


def test_reading_stops_at_the_limits_and_scales_to_cover(clip: Path) -> None:
    frames = read_frames(clip, fps=12, size=(32, 64), max_frames=9)
    assert frames.shape == (9, 32, 64, 3)
    wave = read_waveform(clip, 24_000, channels=2, max_seconds=0.5)
    assert wave.shape == (2, 12_000)


def test_a_mono_clip_is_as_loud_in_mono_as_in_stereo(tmp_path: Path) -> None:
    mono = render_waveform(BEACON, 1.0, 16_000)
    write_clip(tmp_path / "mono.mp4", render_frames(BEACON, 24), mono, 16_000)
    one = read_waveform(tmp_path / "mono.mp4", 16_000, channels=1, max_seconds=1)
    two = read_waveform(tmp_path / "mono.mp4", 16_000, channels=2, max_seconds=1)
    np.testing.assert_array_equal(two, np.repeat(one, 2, 0))
    assert 0.9 < one.std() / mono.std() < 1.1


def test_a_file_that_is_no_media_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(b"these are notes, not pictures\n" * 100)
    for read in (probe, read_frames):
        with pytest.raises(MediaError, match=r"notes\.mp4") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        probe(tmp_path / "none.mp4")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_clip_is_refused_and_never_read_in_part(
    clip: Path, tmp_path: Path, share: float
) -> None:
    whole = clip.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        read_frames(path)
        read_waveform(path, 16_000, channels=1, max_seconds=SECONDS)


def test_a_clip_without_sound_is_refused_when_sound_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in render_frames(BEACON, 9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert not probe(path).has_audio
    assert read_frames(path).shape[0] == 9
    with pytest.raises(MediaError, match="no audio track"):
        read_waveform(path, 16_000, channels=1, max_seconds=1)


def test_a_playlist_cannot_reach_other_files_or_hosts(clip: Path, tmp_path: Path) -> None:
    for name, target in (("local.m3u8", clip.as_uri()), ("remote.mp4", "http://127.0.0.1:9/a.ts")):
        path = tmp_path / name
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n")
        with pytest.raises(MediaError):
            read_frames(path)


def test_a_decode_beyond_its_time_limit_is_stopped(clip: Path) -> None:
    with pytest.raises(MediaError, match="timeout"):
        read_frames(clip, timeout_s=0.001)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="even sides"):
        write_clip(tmp_path / "odd.mp4", np.zeros((3, 63, 64, 3), np.uint8), np.zeros(9), 16_000)
    with pytest.raises(MediaError, match="expected ffmpeg to write"):
        write_clip(tmp_path / "bad.mp4", render_frames(BEACON, 3), np.zeros(99), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_later_start_gives_the_later_pictures_and_sound(clip: Path) -> None:
    np.testing.assert_array_equal(
        read_frames(clip, max_frames=9, start_s=3), read_frames(clip)[72:81]
    )
    whole = read_waveform(clip, 16_000, channels=1, max_seconds=SECONDS)
    later = read_waveform(clip, 16_000, channels=1, max_seconds=1, start_s=3)
    np.testing.assert_allclose(later, whole[:, 48_000:64_000], atol=2e-3)


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path: Path) -> None:
    # 64 x 64 pixels, each twice as wide as high: covering a square, the left quarter is cut off.
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    frames[:, :, 12:32] = 200
    write_clip(tmp_path / "square.mp4", frames, np.zeros(20_000, np.float32), 48_000)
    square = tmp_path / "square.mp4"
    run_ffmpeg("-i", square, "-c", "copy", "-aspect", "2:1", tmp_path / "wide.mp4")
    lit = read_frames(tmp_path / "wide.mp4")[0, 32, :, 0] > 100
    assert lit.sum() == 32
    assert lit[:32].all()
