"""The packets of a clip: how long its tracks are, how evenly spaced, and whether all are there."""

from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import av

from infra.media.child.opening import Tracks, seconds
from infra.media.child.timeline import packet_s

# Muxers may count one frame that they do not write.
_MISSING_FRAMES = 1
# Its headers tell the length of each track; others tell that of the file, or of pictures only.
_EXACT = "mp4"
# Packets are counted in whole ones, and headers round.
_LENGTH_TOLERANCE_S = 0.25


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
        self._promised_s = seconds(stream.duration, stream) if is_exact else 0.0

    def add(self, packet: Any) -> None:
        # Some containers keep only the order of decoding: as good for lengths and spacing.
        start_s = packet_s(packet)
        if start_s is None:
            return
        self._packets += 1
        self._is_cut = packet.is_corrupt  # of the last one: the file ends in it
        duration_s = seconds(packet.duration, packet)
        self._read_s += duration_s
        if not packet.is_discard:  # an edit list leaves it out
            self.starts_s.append(start_s)
            self.ends_s.append(start_s + duration_s)

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


def read_packets(container: Any, tracks: Tracks) -> dict[str, Any]:
    """The facts that all packets tell, without being decoded; the container was just opened."""
    streams = [stream for stream in tracks if stream is not None]
    is_exact = _EXACT in container.format.name
    read = {stream.index: _Track(stream, is_exact) for stream in streams}
    promised_s = float(container.duration or 0) / av.time_base
    for packet in container.demux(streams):
        if packet.size:  # the last ones only flush decoders, and belong to no track
            read[packet.stream_index].add(packet)
    video, *others = read.values()
    return _measured(video, others[0] if others else None, promised_s)


def _measured(video: _Track, audio: _Track | None, promised_s: float) -> dict[str, Any]:
    tracks = [video, audio] if audio else [video]
    whole = all(track.is_whole for track in tracks)
    if not all(track.states_length for track in tracks):  # then the container does
        first_s = min((start for track in tracks for start in track.starts_s), default=0.0)
        last_s = max((end for track in tracks for end in track.ends_s), default=0.0)
        whole = whole and last_s - min(first_s, 0.0) >= promised_s - _LENGTH_TOLERANCE_S
    packets = zip(audio.starts_s, audio.ends_s, strict=True) if audio else ()
    spacing = [after - before for before, after in pairwise(sorted(video.starts_s))]
    mean_s = fmean(spacing) if spacing else 0.0
    shown_s = min(video.starts_s, default=0.0)
    return {
        "video_s": video.seconds,
        "audio_s": audio.seconds if audio else 0.0,
        "audio_packet_s": max((end - start for start, end in packets), default=0.0),
        "frame_jitter": pstdev(spacing) / mean_s if mean_s > 0 else 0.0,
        "whole": whole,
        "sound_start_s": min(audio.starts_s, default=shown_s) - shown_s if audio else 0.0,
        "sound_end_s": max(audio.ends_s, default=shown_s) - shown_s if audio else 0.0,
    }
