"""The packets of a clip: how long its tracks are, how evenly spaced, and whether all are there."""

from pathlib import Path
from typing import NamedTuple

from infra.errors import MediaError
from infra.media.clip_child import facts
from infra.media.limits import one_line


class PacketTimes(NamedTuple):
    """What the packets of a clip tell without being decoded; lengths in seconds.

    `sound_start_s` and `sound_end_s` count from when the first picture is shown. `frame_jitter` is
    the standard deviation of the frames' spacing over its mean; `whole` is False when packets that
    the header counts are missing or cut off.
    """

    video_s: float
    audio_s: float
    audio_packet_s: float
    frame_jitter: float
    whole: bool
    sound_start_s: float
    sound_end_s: float


def parse_packets(content: bytes, path: Path) -> PacketTimes:
    """What a child found in the packets of a clip; MediaError if that is not what it is."""
    try:
        return PacketTimes(**facts(content, path))
    except TypeError as error:
        raise MediaError(f"expected facts about {path}, got {one_line(error)!r}") from error
