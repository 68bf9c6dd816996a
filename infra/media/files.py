"""Clips on disk: probe and decode untrusted files, write our own. Imports no torch.

A clip is hostile until decoded: only local files and pipes may be opened, only the containers below
are tried, every decode has a limit in time and size, and what came out is counted (a truncated file
can end a decoder with status 0).
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaError
from infra.media.limits import ChildLimits, decoded_pieces, one_line

_PROTOCOLS = "file,pipe"
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,wav"
# Of one picture: 8K has half of it. What a dataset accepts is a gate, and less.
_MAX_PIXELS = 64_000_000
_MAX_ALLOC_BYTES = 1 << 30
# One thread of each kind: what decodes claims one CPU, and there are as many of it as CPUs.
_DECODING = (
    *("-nostdin", "-loglevel", "error"),
    *("-max_alloc", str(_MAX_ALLOC_BYTES)),
    *("-filter_complex_threads", "1"),
)
_RGB = 3
_STEREO = 2
# Decoders may drop the last frame, and AAC pads and trims in packets of 1024 samples.
_MISSING_FRAMES = 1
_MISSING_SOUND_S = 0.15
_WRITE_TIMEOUT_S = 600.0
# Decoded before a window and dropped: sound decoders need a packet to settle, and a picture that
# starts before the window is shown in it. MPEG-TS has no index, so that a seek does not land on a
# key frame: the decoder waits for the next one.
_PREROLL_S = 1.0
_PREROLL_WITHOUT_INDEX_S = 12.0
_WITHOUT_INDEX = "mpegts"
_WITHOUT_TIMES = "avi"
_SET_TIMES = {"video": "setpts", "audio": "asetpts"}
_LONGEST_SIDE = 16_384


@dataclass(frozen=True)
class ClipProbe:
    """What a file says it holds; times in seconds, 0 where the container does not tell.

    `video_track` and `audio_track` number all tracks of the file; cover pictures are not video.
    Tracks begin `video_start_s` and `audio_start_s` after the file does; negative where decoders
    are late, because B-frames are stored before they are shown and the container has no times.
    """

    container: str
    duration_s: float
    fps: float
    width: int
    height: int
    frames: int
    video_track: int
    audio_track: int | None
    video_start_s: float
    audio_start_s: float
    audio_duration_s: float
    sample_rate: int
    channels: int

    @property
    def has_audio(self) -> bool:
        """Whether there is a sound track."""
        return self.audio_track is not None


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """The ffmpeg on PATH, else the one that the imageio-ffmpeg wheel carries."""
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


def _stream_seconds(stream: Any, container: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base


def _start_s(stream: Any, container: Any) -> float:
    if stream.start_time is None or container.start_time is None:
        return 0.0
    start_s = float(stream.start_time * stream.time_base)
    return start_s - float(container.start_time) / av.time_base


def _reordering_s(video: Any, container: Any) -> float:
    """By how much decoders are late with pictures whose times a container does not keep."""
    if container.format.name != _WITHOUT_TIMES:
        return 0.0
    first = next(container.demux(video))
    return float((first.pts or 0) * first.time_base)


def _address(path: Path) -> str:
    # With its protocol and absolute: no name, such as "-i" or "concat:a", means anything else.
    return f"file:{Path(path).absolute()}"


def open_clip(path: Path) -> Any:
    """An av container of a clip, from a local file and the containers above only; FFmpegError or
    OSError otherwise."""
    options = {
        "protocol_whitelist": _PROTOCOLS,
        "format_whitelist": _CONTAINERS,
        "max_pixels": str(_MAX_PIXELS),
    }
    return av.open(_address(path), options=options)


def unreadable(error: Exception, path: Path) -> MediaError:
    """What to raise when a library could not read a clip."""
    return MediaError(
        f"expected a readable clip, got {one_line(error)!r} for {path}; check the file"
    )


def clip_tracks(container: Any, path: Path) -> tuple[Any, Any | None]:
    """The first video track that is no cover picture, and the first audio track if any.

    MediaError without the former.
    """
    cover = av.stream.Disposition.attached_pic
    known = [track for track in container.streams if track.codec_context is not None]
    video = [track for track in known if track.type == "video" and not track.disposition & cover]
    if not video:
        raise MediaError(f"expected a clip with a video track, got none in {path}; drop it")
    sound = [track for track in known if track.type == "audio"]
    return video[0], sound[0] if sound else None


def probe(path: Path) -> ClipProbe:
    """Read the headers of a clip; MediaError unless it is a container with a video track."""
    try:
        with open_clip(path) as container:
            video, audio = clip_tracks(container, path)
            duration_s = _stream_seconds(video, container)
            fps = float(video.average_rate or 0)
            if not video.width or not video.height:
                raise MediaError(
                    f"expected pictures of a known size of at most {_MAX_PIXELS} pixels, got none"
                    f" in {path}; the file is damaged or a bomb, drop it"
                )
            return ClipProbe(
                container=container.format.name,
                duration_s=duration_s,
                fps=fps,
                width=video.width,
                height=video.height,
                frames=video.frames or round(duration_s * fps),
                video_track=video.index,
                audio_track=audio.index if audio else None,
                video_start_s=_start_s(video, container) - _reordering_s(video, container),
                audio_start_s=_start_s(audio, container) if audio else 0.0,
                audio_duration_s=_stream_seconds(audio, container) if audio else 0.0,
                sample_rate=audio.rate or 0 if audio else 0,
                channels=audio.channels if audio else 0,
            )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise unreadable(error, path) from error


def clip_input(path: Path, **options: Any) -> Any:
    """A clip as input of ffmpeg, from a local file and the containers above only."""
    return ffmpeg.input(
        _address(path),
        protocol_whitelist=_PROTOCOLS,
        format_whitelist=_CONTAINERS,
        max_pixels=_MAX_PIXELS,
        threads=1,
        **options,
    )


class _Source(NamedTuple):
    """A track as ffmpeg's filters see it, from `preroll_s` before a window on. Time 0 is there."""

    stream: Any
    preroll_s: float


def _source(
    clip: ClipProbe, path: Path, start_s: float, kind: Literal["video", "audio"]
) -> _Source:
    has_index = clip.container != _WITHOUT_INDEX
    preroll_s = min(start_s, _PREROLL_S if has_index else _PREROLL_WITHOUT_INDEX_S)
    track, offset_s = clip.video_track, clip.video_start_s
    if kind == "audio":
        track, offset_s = int(clip.audio_track or 0), clip.audio_start_s
    options: dict[str, str] = {}
    if start_s - preroll_s > max(offset_s, 0.0):
        options["ss"] = f"{start_s - preroll_s:.6f}"
    else:
        preroll_s = start_s
    stream = clip_input(path, **options)[str(track)]
    # Of a file without an index ffmpeg counts time from the first track that is used.
    if offset_s < 0 or (not has_index and "ss" not in options):
        stream = stream.filter(_SET_TIMES[kind], f"round(PTS{offset_s:+.6f}/TB)")
    return _Source(stream, preroll_s)


def decode_command(stream: Any, **output: Any) -> list[str]:
    """The command that writes a stream of ffmpeg's to its standard output.

    In pieces of tens of kilobytes: each one that is flushed wakes the reader.
    """
    arguments = stream.output("pipe:", threads=1, flush_packets=0, **output).global_args(*_DECODING)
    command: list[str] = arguments.compile(cmd=ffmpeg_path())
    return command


def iterate_frames(
    path: Path,
    fps: int = 24,
    size: tuple[int, int] = (64, 64),
    max_frames: int = 121,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
    clip: ClipProbe | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Decode pictures one by one, as `read_frames` has them; (height, width, 3) RGB each.

    clip: what `probe` says of the file, if that is known already.
    MediaError when the file is unreadable or too slow to decode; the count is not checked.
    """
    height, width = size
    stream, preroll_s = _source(clip or probe(path), path, start_s, "video")
    # Pixels need not be square: `dar` is the ratio that a viewer sees, after any rotation.
    wide = f"min({_LONGEST_SIDE},max({width},ceil({height}*dar)))"
    high = f"min({_LONGEST_SIDE},max({height},ceil({width}/dar)))"
    stream = stream.filter("fps", fps=fps, start_time=0)
    stream = stream.filter("trim", start_frame=round(preroll_s * fps)).filter(
        "setpts", "PTS-STARTPTS"
    )
    stream = stream.filter("scale", wide, high, flags="bicubic").filter("crop", width, height)
    video = {"format": "rawvideo", "pix_fmt": "rgb24", "fps_mode": "passthrough"}
    command = decode_command(stream, **{**video, "frames:v": max_frames})
    frame_bytes = height * width * _RGB
    pieces = bytearray()
    for piece in decoded_pieces(command, path, ChildLimits(timeout_s, max_frames * frame_bytes)):
        pieces += piece
        while len(pieces) >= frame_bytes:
            yield np.frombuffer(bytes(pieces[:frame_bytes]), np.uint8).reshape(*size, _RGB)
            del pieces[:frame_bytes]


def read_frames(
    path: Path,
    fps: int = 24,
    size: tuple[int, int] = (64, 64),
    max_frames: int = 121,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
) -> NDArray[np.uint8]:
    """Decode at most `max_frames` pictures at `fps` from `start_s` on, upright, scaled to cover
    `size` and cropped.

    size: (height, width). Times count from the beginning of the file's first track, and picture n
    is the one that is shown at start_s + n / fps. Returns (frames, height, width, 3) RGB.
    MediaError when the file is unreadable, too slow to decode, or ends before the time that its
    header promises.
    """
    clip = probe(path)
    frames = list(iterate_frames(path, fps, size, max_frames, timeout_s, start_s, clip))
    expected = min(max_frames, round((clip.duration_s - start_s) * fps)) - _MISSING_FRAMES
    if not frames or len(frames) < expected:
        raise MediaError(
            f"expected {expected} frames or more of {path}, got {len(frames)}; the file is "
            "truncated or damaged, drop it"
        )
    return np.stack(frames)


def read_waveform(
    path: Path,
    sample_rate: int,
    channels: int,
    max_seconds: float,
    timeout_s: float = 30.0,
    start_s: float = 0.0,
) -> NDArray[np.float32]:
    """Decode at most `max_seconds` of sound from `start_s` on, resampled and mixed:
    (channels, samples).

    channels: 1 (the mean of left and right) or 2 (a mono track is heard on both). Times count as
    in `read_frames`: a sound track that starts later begins with silence.
    MediaError when there is no sound track, or it is unreadable or shorter than promised.
    """
    clip = probe(path)
    if not clip.has_audio:
        raise MediaError(f"expected a clip with sound, got no audio track in {path}; drop it")
    # Mixed here: ffmpeg adds left and right with 0.71 each, which makes a mono clip 3 dB louder.
    stored = min(_STEREO, clip.channels)
    stream, preroll_s = _source(clip, path, start_s, "audio")
    stream = stream.filter("aresample", sample_rate, **{"async": 1, "first_pts": 0})
    end_s = f"{preroll_s + max_seconds:.6f}"
    stream = stream.filter("atrim", start=f"{preroll_s:.6f}", end=end_s)
    sample_bytes = 4 * stored
    # A window ends on a sample: rounding in the filters may give one more.
    limits = ChildLimits(timeout_s, sample_bytes * (round(max_seconds * sample_rate)))
    command = decode_command(stream, format="f32le", ac=stored, ar=sample_rate)
    raw = b"".join(decoded_pieces(command, path, limits))
    samples, rest = divmod(len(raw), sample_bytes)
    got_s = samples / sample_rate
    expected_s = min(max_seconds, clip.audio_duration_s - start_s) - _MISSING_SOUND_S
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
            message = one_line(done.stderr.decode(errors="replace"))
            raise MediaError(f"expected ffmpeg to write {path}, got {message!r}; check the disk")
        unfinished.replace(path)
