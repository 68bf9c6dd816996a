"""Clips on disk: probe and decode files of strangers, write our own. Imports no torch.

A clip is hostile until decoded: only local files and pipes may be opened, only the containers below
are tried, every decode has a limit in time and size, and what came out is counted (a truncated file
can end a decoder with status 0).
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaError

_PROTOCOLS = "file,pipe"
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,wav"
_RGB = 3
_STEREO = 2
# Decoders may drop the last frame, and AAC pads and trims in packets of 1024 samples.
_MISSING_FRAMES = 1
_MISSING_SOUND_S = 0.15
_WRITE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ClipProbe:
    """What a file says it holds; times in seconds, 0 where the container does not tell."""

    duration_s: float
    fps: float
    width: int
    height: int
    frames: int
    has_audio: bool
    audio_duration_s: float
    sample_rate: int
    channels: int


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """The ffmpeg on PATH, else the one that the imageio-ffmpeg wheel carries."""
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


def _one_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _stream_seconds(stream: Any, container: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base


def probe(path: Path) -> ClipProbe:
    """Read the headers of a clip; MediaError unless it is a container with a video track."""
    options = {"protocol_whitelist": _PROTOCOLS, "format_whitelist": _CONTAINERS}
    try:
        with av.open(f"file:{Path(path).absolute()}", options=options) as container:
            if not container.streams.video:
                raise MediaError(f"expected a clip with a video track, got none in {path}; drop it")
            video = container.streams.video[0]
            audio = container.streams.audio[0] if container.streams.audio else None
            duration_s = _stream_seconds(video, container)
            fps = float(video.average_rate or 0)
            return ClipProbe(
                duration_s=duration_s,
                fps=fps,
                width=video.width,
                height=video.height,
                frames=video.frames or round(duration_s * fps),
                has_audio=audio is not None,
                audio_duration_s=_stream_seconds(audio, container) if audio else 0.0,
                sample_rate=audio.rate if audio else 0,
                channels=audio.channels if audio else 0,
            )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(
            f"expected a readable clip, got {_one_line(error)!r} for {path}; check the file"
        ) from error


def _decode(path: Path, timeout_s: float, video: dict[str, Any], output: dict[str, Any]) -> bytes:
    """Decode to raw bytes; `video` holds the arguments of the picture filters, or nothing."""
    source = ffmpeg.input(
        f"file:{Path(path).absolute()}",
        protocol_whitelist=_PROTOCOLS,
        format_whitelist=_CONTAINERS,
        threads=1,
    )
    stream = source.audio
    if video:
        height, width = video["size"]
        cover = {"force_original_aspect_ratio": "increase", "flags": "bicubic"}
        stream = source.video.filter("fps", fps=video["fps"])
        stream = stream.filter("scale", width, height, **cover).filter("crop", width, height)
    arguments = stream.output("pipe:", **output).global_args("-nostdin", "-loglevel", "error")
    command = arguments.compile(cmd=ffmpeg_path())
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise MediaError(
            f"expected {path} to decode within {timeout_s:g} s, got a timeout; "
            "raise the limit or drop the clip"
        ) from error
    if done.returncode != 0:
        message = _one_line(done.stderr.decode(errors="replace"))
        raise MediaError(f"expected a decodable clip, got {message!r} for {path}; check the file")
    return done.stdout


def read_frames(
    path: Path,
    fps: int = 24,
    size: tuple[int, int] = (64, 64),
    max_frames: int = 121,
    timeout_s: float = 30.0,
) -> NDArray[np.uint8]:
    """Decode at most `max_frames` pictures at `fps`, scaled to cover `size` and cropped.

    size: (height, width). Returns (frames, height, width, 3) RGB. MediaError when the file is
    unreadable, too slow to decode, or ends before the time that its header promises.
    """
    promised = probe(path)
    output = {"format": "rawvideo", "pix_fmt": "rgb24", "frames:v": max_frames, "threads": 1}
    raw = _decode(path, timeout_s, {"fps": fps, "size": size}, output)
    frames, rest = divmod(len(raw), size[0] * size[1] * _RGB)
    expected = min(max_frames, round(promised.duration_s * fps)) - _MISSING_FRAMES
    if rest or not frames or frames < expected:
        raise MediaError(
            f"expected {expected} frames or more of {path}, got {frames}; the file is truncated "
            "or damaged, drop it"
        )
    return np.frombuffer(raw, np.uint8).reshape(frames, *size, _RGB)


def read_waveform(
    path: Path,
    sample_rate: int,
    channels: int,
    max_seconds: float,
    timeout_s: float = 30.0,
) -> NDArray[np.float32]:
    """Decode at most `max_seconds` of sound, resampled and mixed: (channels, samples).

    channels: 1 (the mean of left and right) or 2 (a mono track is heard on both).
    MediaError when there is no sound track, or it is unreadable or shorter than promised.
    """
    promised = probe(path)
    if not promised.has_audio:
        raise MediaError(f"expected a clip with sound, got no audio track in {path}; drop it")
    # Mixed here: ffmpeg adds left and right with 0.71 each, which makes a mono clip 3 dB louder.
    stored = min(_STEREO, promised.channels)
    output = {"format": "f32le", "ac": stored, "ar": sample_rate, "t": max_seconds}
    raw = _decode(path, timeout_s, {}, output)
    samples, rest = divmod(len(raw), 4 * stored)
    got_s = samples / sample_rate
    expected_s = min(max_seconds, promised.audio_duration_s) - _MISSING_SOUND_S
    if rest or not samples or got_s < expected_s:
        raise MediaError(
            f"expected {expected_s:.2f} s of sound or more in {path}, got {got_s:.2f} s; the file "
            "is truncated or damaged, drop it"
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
            message = _one_line(done.stderr.decode(errors="replace"))
            raise MediaError(f"expected ffmpeg to write {path}, got {message!r}; check the disk")
        unfinished.replace(path)
