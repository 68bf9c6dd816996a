"""A clip, opened: from a local file and known containers only, and which of its tracks play."""

import os
from typing import Any, NamedTuple

import av
from av.stream import Disposition

_PROTOCOLS = "file,pipe"
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,wav"
# Of one picture: 8K has half of it. What a dataset accepts is a gate, and less.
MAX_PIXELS = 64_000_000
AVI = "avi"
MPEG_TS = "mpegts"
MATROSKA = "matroska"

_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_FOR_SOME_VIEWERS = (
    Disposition.comment
    | Disposition.descriptions
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
)
# A track plays if it has more than one packet: a still picture has one.
_ENOUGH_PACKETS = 2
_EXPLODING = "crccheck+bitstream+buffer+explode"
# Of these FFmpeg has two decoders; the library of the codec's authors finds more damage.
_STRICTER = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class ClipError(Exception):
    """What is wrong with a clip, in a sentence."""


class Tracks(NamedTuple):
    """The streams that a player would show and play."""

    video: Any
    audio: Any | None


def open_clip(path: str) -> Any:
    """An av container of a clip; FFmpegError or OSError otherwise."""
    options = {
        "protocol_whitelist": _PROTOCOLS,
        "format_whitelist": _CONTAINERS,
        "max_pixels": str(MAX_PIXELS),
    }
    # With its protocol and absolute: no name, such as "-i" or "concat:a", means anything else.
    return av.open(f"file:{os.path.abspath(path)}", options=options, metadata_errors="replace")  # noqa: PTH100


def open_tracks(path: str) -> tuple[Any, Tracks]:
    """The container and the tracks that play; ClipError if there is no video.

    The default track, else the first; one for some viewers only (commentary, descriptions) last.
    Never a cover, a still picture, or a track without packets, unless there is nothing else.
    """
    container = open_clip(path)
    known = [stream for stream in container.streams if stream.codec_context is not None]
    video = [s for s in known if s.type == "video" and not s.disposition & _NO_VIDEO]
    kinds = [video, [stream for stream in known if stream.type == "audio"]]
    if not video:
        raise ClipError("expected a clip with a video track, got none in {path}; drop it")
    for streams in kinds:
        streams.sort(key=_rank)
    if all(len(streams) <= 1 for streams in kinds):
        return container, Tracks(video[0], kinds[1][0] if kinds[1] else None)
    packets = _counted(container, kinds)
    first, second = (_first_playing(streams, packets) for streams in kinds)
    assert first is not None
    container.close()  # and its streams with it
    container = open_clip(path)
    return container, Tracks(
        container.streams[first], None if second is None else container.streams[second]
    )


def _rank(stream: Any) -> tuple[bool, bool, int]:
    disposition = stream.disposition
    is_special = bool(disposition & _FOR_SOME_VIEWERS)
    return is_special, not disposition & Disposition.default, stream.index


def _counted(container: Any, kinds: list[list[Any]]) -> dict[int, int]:
    """Packets of each track, counted until the best of each kind is known to play."""
    several = [stream for streams in kinds for stream in streams]
    packets = {stream.index: 0 for stream in several}
    firsts = [streams[0].index for streams in kinds if streams]
    for packet in container.demux(several):
        if packet.size:  # the last ones only flush decoders, and belong to no track
            packets[packet.stream_index] += 1
        if all(packets[first] >= _ENOUGH_PACKETS for first in firsts):
            break
    return packets


def _first_playing(streams: list[Any], packets: dict[int, int]) -> int | None:
    """The number of the first of the streams that have most packets, of which two are enough."""
    counts = [min(packets[stream.index], _ENOUGH_PACKETS) for stream in streams]
    return int(streams[counts.index(max(counts))].index) if streams else None


def open_decoder(stream: Any, is_strict: bool) -> Any:
    """A decoder of one thread for a stream; a strict one raises where data cannot be right."""
    decoder = stream.codec_context
    name = _STRICTER.get(decoder.codec.canonical_name)
    if name is not None and decoder.name != name and decoder.pix_fmt == "yuv420p":
        decoder = av.CodecContext.create(name, "r")
        decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1
    if is_strict:
        decoder.options = {**decoder.options, "err_detect": _EXPLODING}
    return decoder


def seconds(ticks: int | None, stream: Any) -> float:
    """A time of a stream in seconds; 0 if there is none."""
    return 0.0 if ticks is None or stream.time_base is None else float(ticks * stream.time_base)
