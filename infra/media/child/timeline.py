"""The clock of a clip, and where in its packets a window begins.

Time 0 is when the first picture is shown.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from infra.media.child.opening import AVI, seconds

# Containers round times to a millisecond.
TOLERANCE_S = 0.0011
# Packets from which pictures before the first one could still come.
_MOST_REORDERED = 64
_FIRST_STEP_BACK_S = 2.0


class Clock(NamedTuple):
    """Seconds in each track's own time at time 0 of the clip."""

    video_s: float
    audio_s: float


def read_clock(container: Any, packets: Iterator[Any]) -> tuple[Clock, Iterator[Any]]:
    """The clock of a clip from the first packets of its pictures, and all of those packets.

    AVI has no times: its first picture is late by as much as pictures are stored before they are
    shown, while its sound begins at 0.
    """
    read: list[Any] = []
    key_s: float | None = None
    first_s: float | None = None
    for packet in packets:
        read.append(packet)
        time_s = packet_s(packet)
        if key_s is None and packet.is_keyframe:
            key_s = time_s
        is_shown = key_s is not None and not packet.is_discard
        if is_shown and time_s is not None and time_s >= (key_s or 0.0):
            first_s = time_s if first_s is None else min(first_s, time_s)
        decoded_s = seconds(packet.dts, packet)
        is_settled = first_s is not None and packet.dts is not None and decoded_s >= first_s
        if is_settled or (first_s is not None and len(read) >= _MOST_REORDERED):
            break
    start_s = first_s or 0.0
    clock = Clock(start_s, 0.0 if container.format.name == AVI else start_s)
    return clock, chain(read, packets)


def packet_s(packet: Any) -> float | None:
    """When what is in a packet is shown or heard, in its track's own time."""
    tick = packet.dts if packet.pts is None else packet.pts
    return None if tick is None or not packet.size else seconds(tick, packet)


def packets_from(
    container: Any, stream: Any, seek_by: Any, start_s: float, back_s: float
) -> Iterator[Any] | None:
    """Packets of a track from its last key packet on that is not later than `start_s - back_s`,
    in the track's own time; None where only a clip opened anew has them, from its beginning on.

    seek_by: the track to whose index the container goes.
    """
    wanted_s = start_s - back_s
    step_s = 0.0
    first_s = seconds(seek_by.start_time, seek_by)
    while wanted_s - step_s > first_s + TOLERANCE_S:
        place = int((wanted_s - step_s) / seek_by.time_base)
        container.seek(place, stream=seek_by, backward=True)
        packets = container.demux(stream)
        found = _from_key(packets, wanted_s)
        if found:
            return chain(found, packets)
        step_s = max(2 * step_s, _FIRST_STEP_BACK_S)
    return None


def _from_key(packets: Iterator[Any], wanted_s: float) -> list[Any]:
    """The packets read to find the last key packet that is early enough, from it on; else none."""
    kept: list[Any] = []
    for packet in packets:
        time_s = packet_s(packet)
        if packet.is_keyframe and time_s is not None and time_s <= wanted_s + TOLERANCE_S:
            kept = []
            kept.append(packet)
        elif kept:
            kept.append(packet)
        tick = packet.pts if packet.dts is None else packet.dts
        if not packet.size or (tick is not None and seconds(tick, packet) > wanted_s + TOLERANCE_S):
            break
    return kept
