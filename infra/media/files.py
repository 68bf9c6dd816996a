"""Clips on disk: read untrusted files, write our own. Imports no torch.

A clip is hostile until decoded: a child of limited processor time (`timeout_s`) and memory reads
it, from a local file and known containers only, and what came out is counted (a truncated file can
end without an error).
Time 0 of a clip is when its first picture is shown.
"""

import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaError
from infra.media.clip_child import FACTS, PICTURE, RESTART, SOUND, facts, job_records
from infra.media.limits import ChildLimits, one_line

_RGB = 3
_STEREO = 2
# Decoders may drop the last frame, and AAC pads and trims in packets of 1024 samples.
_MISSING_FRAMES = 1
_MISSING_SOUND_S = 0.15
_WRITE_TIMEOUT_S = 600.0
# Facts and headers of records; and a window is decoded up to three times.
_FACTS_BYTES = 1 << 20
_ATTEMPTS = 3


@dataclass(frozen=True)
class ClipProbe:
    """What a file says it holds; times in seconds, 0 where the container does not tell.

    `video_track` and `audio_track` number all tracks of the file: those that a player shows and
    plays. Cover pictures are not video. `audio_end_s`: when sound ends, after the first picture.
    """

    container: str
    duration_s: float
    fps: float
    width: int
    height: int
    frames: int
    video_track: int
    audio_track: int | None
    audio_end_s: float
    audio_duration_s: float
    sample_rate: int
    channels: int

    @property
    def has_audio(self) -> bool:
        """Whether there is a sound track."""
        return self.audio_track is not None


class DecodedWindow(NamedTuple):
    """frames: (frames, height, width, 3) RGB; waveform: (channels, samples) in [-1, 1]."""

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]


def ffmpeg_path() -> str:
    """The ffmpeg that writes clips: the one that the imageio-ffmpeg wheel carries."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def parse_probe(content: bytes, path: Path) -> ClipProbe:
    """What a child found in the headers of a clip; MediaError if that is not what it is."""
    try:
        return ClipProbe(**facts(content, path))
    except TypeError as error:
        raise MediaError(f"expected facts about {path}, got {one_line(error)!r}") from error


def probe(path: Path, timeout_s: float = 30.0) -> ClipProbe:
    """Read the headers of a clip; MediaError unless it is a container with a video track."""
    limits = ChildLimits(timeout_s, _FACTS_BYTES)
    records = list(job_records("survey", path, limits, steps=1))
    return parse_probe(records[0][1], path)


class _Asked(NamedTuple):
    """What a window is to hold; see `infra.media.child.window.Request`."""

    start_s: float = 0.0
    fps: int = 24
    pictures: int = 0
    height: int = 0
    width: int = 0
    sample_rate: int = 0
    sound_s: float = 0.0
    is_strict: bool = True

    @property
    def output_bytes(self) -> int:
        pictures = self.pictures * (self.height * self.width * _RGB + 16)
        return _FACTS_BYTES + _ATTEMPTS * pictures + round(self.sound_s * self.sample_rate) * 8


def _window(
    path: Path, asked: _Asked, timeout_s: float
) -> Generator[tuple[bytes, bytes], None, None]:
    limits = ChildLimits(timeout_s, asked.output_bytes)
    return job_records("window", path, limits, **asked._asdict())


def iterate_frames(
    path: Path,
    fps: int = 24,
    size: tuple[int, int] = (64, 64),
    max_frames: int = 121,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
) -> Iterator[NDArray[np.uint8]]:
    """Decode pictures one by one, as `read_frames` has them; (height, width, 3) RGB each.

    MediaError when the file is unreadable or too slow to decode; the count is not checked, and
    what is damaged is decoded as well as it can be.
    """
    asked = _Asked(start_s, fps, max_frames, *size, is_strict=False)
    with closing(_window(path, asked, timeout_s)) as records:
        for kind, content in records:
            if kind == PICTURE:
                yield np.frombuffer(content, np.uint8).reshape(*size, _RGB)


def read_window(
    path: Path,
    seconds: float,
    size: tuple[int, int],
    sample_rate: int,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
    fps: int = 24,
) -> DecodedWindow:
    """Decode `seconds` of pictures and of stereo sound from `start_s` on.

    As `read_frames` and `read_waveform`, in one child; but where the sound track holds nothing for
    the window there are no samples.
    """
    pictures = round(seconds * fps)
    asked = _Asked(start_s, fps, pictures, *size, sample_rate, seconds)
    clip, frames, raw = _read(path, asked, timeout_s)
    _check_frames(clip, frames, asked, path)
    return DecodedWindow(frames, _waveform(clip, raw, asked, _STEREO, path, may_lack=True))


def read_frames(
    path: Path,
    fps: int = 24,
    size: tuple[int, int] = (64, 64),
    max_frames: int = 121,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
) -> NDArray[np.uint8]:
    """Decode at most `max_frames` pictures at `fps` from `start_s` on, upright, scaled to cover
    `size` and cropped; interlaced ones deinterlaced, high dynamic range as it looks on BT.709.

    size: (height, width). Picture n is the one that is shown at start_s + n / fps.
    Returns (frames, height, width, 3) RGB.
    MediaError when the file is unreadable, damaged (DamagedClipError), too slow to decode, or ends
    before the time that its header promises.
    """
    asked = _Asked(start_s, fps, max_frames, *size)
    clip, frames, _ = _read(path, asked, timeout_s)
    _check_frames(clip, frames, asked, path)
    return frames


def read_waveform(
    path: Path,
    sample_rate: int,
    channels: int,
    max_seconds: float,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
    *,
    may_lack: bool = False,
) -> NDArray[np.float32]:
    """Decode at most `max_seconds` of sound from `start_s` on, resampled and mixed:
    (channels, samples).

    channels: 1 (the mean of left and right) or 2 (a mono track is heard on both). Times count as
    in `read_frames`: a sound track that starts later begins with silence, and gaps are silent.
    MediaError when there is no sound track, or it is unreadable, damaged or shorter than promised;
    with `may_lack` no samples where the track holds nothing for that time.
    """
    asked = _Asked(start_s, sample_rate=sample_rate, sound_s=max_seconds)
    clip, _, raw = _read(path, asked, timeout_s)
    return _waveform(clip, raw, asked, channels, path, may_lack=may_lack)


def _read(
    path: Path, asked: _Asked, timeout_s: float
) -> tuple[ClipProbe, NDArray[np.uint8], bytes]:
    clip: ClipProbe | None = None
    frames = np.empty((asked.pictures, asked.height, asked.width, _RGB), np.uint8)
    count, sound = 0, b""
    for kind, content in _window(path, asked, timeout_s):
        if kind == PICTURE and count < len(frames):
            frames[count] = np.frombuffer(content, np.uint8).reshape(frames.shape[1:])
            count += 1
        elif kind == RESTART:
            count = 0
        elif kind == SOUND:
            sound = content
        elif kind == FACTS and clip is None:
            clip = parse_probe(content, path)
    if clip is None:
        raise MediaError(f"expected facts about {path}, got none; check the file")
    return clip, frames[:count], sound


def _check_frames(clip: ClipProbe, frames: NDArray[np.uint8], asked: _Asked, path: Path) -> None:
    promised = round((clip.duration_s - asked.start_s) * asked.fps)
    expected = min(asked.pictures, promised) - _MISSING_FRAMES
    if not len(frames) or len(frames) < expected:
        raise MediaError(
            f"expected {max(expected, 1)} frames or more of {path}, got {len(frames)}; the file is "
            "truncated or damaged, drop it"
        )


def _waveform(
    clip: ClipProbe, raw: bytes, asked: _Asked, channels: int, path: Path, *, may_lack: bool = False
) -> NDArray[np.float32]:
    """may_lack: no sample at all is right, where the header promises none."""
    if not clip.has_audio:
        raise MediaError(f"expected a clip with sound, got no audio track in {path}; drop it")
    # Mixed here: FFmpeg adds left and right with 0.71 each, which makes a mono clip 3 dB louder.
    stored = min(_STEREO, clip.channels or 1)
    samples, rest = divmod(len(raw), 4 * stored)
    got_s = samples / asked.sample_rate
    expected_s = min(asked.sound_s, clip.audio_end_s - asked.start_s) - _MISSING_SOUND_S
    if rest or not (samples or may_lack) or got_s < expected_s:
        raise MediaError(
            f"expected {max(expected_s, 0.0):.2f} s of sound or more in {path}, got {got_s:.2f} s;"
            " the file is truncated or damaged, drop it"
        )
    waveform = np.frombuffer(raw, "<f4").reshape(samples, stored).T
    if channels < stored:
        waveform = waveform.mean(axis=0, keepdims=True)
    return np.repeat(waveform, channels // len(waveform), axis=0)


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    waveform: NDArray[np.float32],
    sample_rate: int,
    fps: int = 24,
) -> None:
    """Write an MP4 (H.264, AAC); it appears under its name only when complete.

    frames: (frames, height, width, 3) RGB with even sides; waveform: (channels, samples) in
    [-1, 1], or (samples,).
    """
    path = Path(path)
    sound = np.atleast_2d(waveform)
    if frames.ndim != 4 or frames.shape[-1] != _RGB or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise MediaError(
            f"expected frames (frames, height, width, 3) with even sides, got {frames.shape}; "
            "crop by one pixel or reorder the axes"
        )
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
        raw_sound = Path(folder) / "sound.f32"
        raw_sound.write_bytes(sound.T.astype("<f4").tobytes())
        unfinished = Path(folder) / "clip.mp4"
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        video = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, r=fps)
        audio = ffmpeg.input(str(raw_sound), format="f32le", ac=sound.shape[0], ar=sample_rate)
        encoded = ffmpeg.output(
            video,
            audio,
            str(unfinished),
            vcodec="libx264",
            pix_fmt="yuv420p",
            crf=16,
            acodec="aac",
            audio_bitrate="128k",
            movflags="+faststart",
            threads=1,
        ).global_args("-loglevel", "error")
        command = encoded.compile(cmd=ffmpeg_path(), overwrite_output=True)
        done = subprocess.run(
            command,
            input=np.ascontiguousarray(frames).tobytes(),
            capture_output=True,
            timeout=_WRITE_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            message = one_line(done.stderr.decode(errors="replace"))
            raise MediaError(f"expected ffmpeg to write {path}, got {message!r}; check the disk")
        unfinished.replace(path)
