"""The packets of a clip: how long its tracks are, how evenly spaced, and whether all are there."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from infra.errors import MediaError
from infra.media.files import clip_tracks, open_clip, unreadable

# Muxers may count one frame that they do not write.
_MISSING_FRAMES = 1
# Its headers tell the length of each track; others tell that of the file, or of pictures only.
_EXACT = "mp4"
# Packets are counted in whole ones, and headers round.
_LENGTH_TOLERANCE_S = 0.25


class PacketTimes(NamedTuple):
    """What the packets of a clip tell without being decoded; lengths in seconds.

    `frame_jitter` is the standard deviation of the frames' spacing over its mean; `whole` is False
    when packets that the header counts are missing or cut off.
    """

    video_s: float
    audio_s: float
    audio_packet_s: float
    frame_jitter: float
    whole: bool


class _Track:
    """Times of the packets of one track, in seconds, and what its header says of them."""

    def __init__(self, stream: Any, is_exact: bool) -> None:
        self.starts_s: list[float] = []
        self.ends_s: list[float] = []
        self._packets = 0
        self._read_s = 0.0
        self._is_cut = False
        # Of sound, headers count packets or samples, as they like.
        self._promised = stream.frames if stream.type == "video" else 0
        self._promised_s = float((stream.duration or 0) * stream.time_base) if is_exact else 0.0

    def add(self, packet: Any) -> None:
        # Some containers keep only the order of decoding: as good for lengths and spacing.
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None:
            return
        self._packets += 1
        self._is_cut = self._is_cut or packet.is_corrupt
        duration_s = float((packet.duration or 0) * packet.time_base)
        self._read_s += duration_s
        if not packet.is_discard:  # an edit list leaves it out
            self.starts_s.append(float(tick * packet.time_base))
            self.ends_s.append(self.starts_s[-1] + duration_s)

    @property
    def seconds(self) -> float:
        return max(self.ends_s) - min(self.starts_s) if self.starts_s else 0.0

    @property
    def states_length(self) -> bool:
        return self._promised_s > 0

    @property
    def is_whole(self) -> bool:
        counted = self._packets >= self._promised - _MISSING_FRAMES
        timed = self._read_s == 0 and self._packets > 0  # packets that do not tell their length
        return counted and not self._is_cut and (timed or self._read_s >= self._least_s)

    @property
    def _least_s(self) -> float:
        return self._promised_s - _LENGTH_TOLERANCE_S


def packet_times(path: Path, timeout_s: float = 30.0) -> PacketTimes:
    """Read all packets of a clip; MediaError when unreadable or slower than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    try:
        with open_clip(path) as container:
            streams = [stream for stream in clip_tracks(container, path) if stream]
            is_exact = _EXACT in container.format.name
            tracks = {stream.index: _Track(stream, is_exact) for stream in streams}
            promised_s = float(container.duration or 0) / av.time_base
            for packet in container.demux(streams):
                if packet.size:  # the last ones only flush decoders, and belong to no track
                    tracks[packet.stream.index].add(packet)
                if time.monotonic() > deadline:
                    raise MediaError(
                        f"expected to read {path} within {timeout_s:g} s, got a timeout; raise the "
                        "limit or drop the clip"
                    )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise unreadable(error, path) from error
    video, *others = tracks.values()
    return _measure(video, others[0] if others else None, promised_s)


def _measure(video: _Track, audio: _Track | None, promised_s: float) -> PacketTimes:
    tracks = [video, audio] if audio else [video]
    whole = all(track.is_whole for track in tracks)
    if not all(track.states_length for track in tracks):  # then the container does
        first_s = min((start for track in tracks for start in track.starts_s), default=0.0)
        last_s = max((end for track in tracks for end in track.ends_s), default=0.0)
        whole = whole and last_s - min(first_s, 0.0) >= promised_s - _LENGTH_TOLERANCE_S
    packets = zip(audio.starts_s, audio.ends_s, strict=True) if audio else ()
    audio_packet_s = max((end - start for start, end in packets), default=0.0)
    spacing = np.diff(np.sort(video.starts_s))
    mean = float(spacing.mean()) if len(spacing) else 0.0
    return PacketTimes(
        video_s=video.seconds,
        audio_s=audio.seconds if audio else 0.0,
        audio_packet_s=audio_packet_s,
        frame_jitter=float(spacing.std()) / mean if mean > 0 else 0.0,
        whole=whole,
    )
