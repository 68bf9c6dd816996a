"""What tells that the bytes of a clip are not those that were written."""

import struct
import zlib
from bisect import bisect_right
from typing import Any, NamedTuple

from av import logging
from av.error import FFmpegError

from infra.media.child.opening import MATROSKA, MPEG_TS, Tracks

_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_CRC_32 = b"\xbf\x84"
_CRC_BYTES = 6
_LARGEST_PIECE = 1 << 20
_TS_BYTES = 188
_TS_STEPS = (188, 192, 204)
_SOME = 0.5
_TS_SYNC = 0x47
_TS_ERROR, _TS_UNIT = 0x80, 0x40
_TS_TRACK = 0x1FFF
_TS_ADAPTATION = 0x20
_START_CODE = b"\x00\x00\x01"


class Damage:
    """Collects sentences on damage; the first one counts.

    Also hears what demuxers say: they go on where bytes make no sense, and only log it.
    """

    def __init__(self, logs: list[tuple[int, str, str]]) -> None:
        self._logs = logs
        self._heard = 0
        self.sentence = ""

    def note(self, sentence: str) -> None:
        """Remember damage."""
        self.sentence = self.sentence or " ".join(sentence.split())

    def listen(self, name: str) -> None:
        """Note the errors that the library called `name` has logged since the last time."""
        heard, self._heard = self._heard, len(self._logs)
        for level, source, message in self._logs[heard:]:
            if level <= logging.ERROR and source == name:
                self.note(f"{source} says: {message}")

    def forget(self) -> None:
        """Leave out what was logged so far and noted."""
        self._heard, self.sentence = len(self._logs), ""


def is_of_data(error: FFmpegError) -> bool:
    """Whether a decoder blames what it was given, not the machine."""
    return isinstance(error, ValueError) or not isinstance(error, (OSError, MemoryError))


class _Part(NamedTuple):
    """An element of a file: where it begins, where its content does, and where it ends."""

    start: int
    content: int
    end: int


class FileChecks:
    """Checks of a file's own redundancy, where packets lie: checksums of Matroska's clusters, and
    the headers of MPEG-TS."""

    def __init__(self, container: Any, path: str, tracks: Tracks) -> None:
        name = container.format.name
        self._path = path
        self._clusters: list[_Part] = []
        self._starts: list[int] = []
        self._checked: dict[int, bool] = {}
        self._is_ts = name == MPEG_TS
        self._ts_tracks = {track.id for track in tracks if track is not None}
        self._is_matroska = name.startswith(MATROSKA)
        if self._is_matroska:
            with open(path, "rb") as file:  # noqa: PTH123
                self._clusters = list(_clusters(file))
            self._starts = [cluster.start for cluster in self._clusters]

    def check(self, first: int, last: int, damage: Damage) -> None:
        """Note damage between two places of packets in the file."""
        with open(self._path, "rb") as file:  # noqa: PTH123
            self._check(file, first, last, damage)

    def _check(self, file: Any, first: int, last: int, damage: Damage) -> None:
        if self._is_matroska:
            begin = max(0, bisect_right(self._starts, first) - 1)
            for number in range(begin, bisect_right(self._starts, last)):
                if not self._is_right(file, number):
                    damage.note("a checksum of the file does not fit")
        if self._is_ts:
            self._check_ts(file, first, last, damage)

    def _is_right(self, file: Any, number: int) -> bool:
        if number not in self._checked:
            _, content, end = self._clusters[number]
            self._checked[number] = _fits(file, content, end)
        return self._checked[number]

    def _check_ts(self, file: Any, first: int, last: int, damage: Damage) -> None:
        file.seek(first)
        content = file.read(max(0, last + _TS_BYTES - first))
        # Of Blu-ray and of broadcasts, packets have some bytes more.
        step = max(_TS_STEPS, key=lambda step: _in_step(content, step))
        share = _in_step(content, step)
        if share < _SOME:
            return
        is_broken = share < 1
        for place in range(0, len(content) - _TS_BYTES + 1, step):
            packet = content[place : place + _TS_BYTES]
            flags, track = packet[1], int.from_bytes(packet[1:3], "big") & _TS_TRACK
            is_ours = track in self._ts_tracks
            is_broken = is_broken or bool(flags & _TS_ERROR)
            if is_broken or (is_ours and flags & _TS_UNIT and not _begins_well(packet)):
                damage.note("a packet of the transport stream does not begin as one")
                return


def _in_step(content: bytes, step: int) -> float:
    """The share of packets that begin as such if one begins every `step` bytes."""
    begins = content[: len(content) - _TS_BYTES + 1 : step]
    return begins.count(_TS_SYNC) / len(begins) if begins else 0.0


def _begins_well(packet: bytes) -> bool:
    """Whether a transport packet that begins a unit of a track does so with a start code."""
    place = 4 + (1 + packet[4] if packet[3] & _TS_ADAPTATION else 0)
    return packet[place : place + 3] == _START_CODE


def _fits(file: Any, content: int, end: int) -> bool:
    """Whether an element of Matroska has the checksum that it states, if it states one."""
    file.seek(content)
    head = file.read(_CRC_BYTES)
    if head[:2] != _CRC_32 or len(head) < _CRC_BYTES:
        return True
    stated = struct.unpack("<I", head[2:])[0]
    value, left = 0, end - content - _CRC_BYTES
    while left > 0:
        piece = file.read(min(left, _LARGEST_PIECE))
        if not piece:
            return False
        value = zlib.crc32(piece, value)
        left -= len(piece)
    return bool(value == stated)


def _clusters(file: Any) -> Any:
    """The parts of a Matroska segment of known size, as far as they follow each other."""
    size = file.seek(0, 2)
    place, inside = 0, False
    while place < size:
        file.seek(place)
        header = file.read(12)
        number, id_bytes = _number(header, keep_marker=True)
        length, length_bytes = _number(header[id_bytes:], keep_marker=False)
        if not id_bytes or not length_bytes:
            return
        content = place + id_bytes + length_bytes
        if number == _SEGMENT and not inside:
            place, inside = content, True
            continue
        if length == (1 << 7 * length_bytes) - 1:  # of unknown size: a live recording
            return
        if inside:
            yield _Part(place, content, min(size, content + length))
        place = content + length


def _number(data: bytes, keep_marker: bool) -> tuple[int, int]:
    """A number of EBML's and how many bytes it takes; (0, 0) where there is none."""
    if not data or not data[0]:
        return 0, 0
    length = 9 - data[0].bit_length()
    if len(data) < length:
        return 0, 0
    value = int.from_bytes(data[:length], "big")
    return value if keep_marker else value & ~(1 << 7 * length), length
