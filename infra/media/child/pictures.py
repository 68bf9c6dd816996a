"""The pictures of a window: at each instant the one that a player shows."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

import av
from av.error import FFmpegError

from infra.media.child.damage import Damage, is_of_data
from infra.media.child.opening import AVI, open_decoder, seconds
from infra.media.child.scaling import Scaler, make_graph
from infra.media.child.timeline import TOLERANCE_S, packet_s

# Codecs of which each packet is a picture; others store pictures that are never shown.
_A_PICTURE_EACH = {
    *("h264", "hevc", "vp9", "av1", "mpeg1video", "mpeg2video"),
    *("mjpeg", "prores", "dnxhd", "ffv1", "png"),
}
_TIMED_BY_CONTAINERS = {"h264", "hevc"}
_BOB = "bwdif=mode=send_field:parity=auto:deint=interlaced"


class Picture(NamedTuple):
    """A decoded picture: when it is shown, and for how long, in seconds of its track's time."""

    start_s: float
    seconds: float
    frame: Any


class PictureDecoder:
    """Decodes packets from a key packet on, and notes damage of those that matter."""

    def __init__(self, stream: Any, is_strict: bool, damage: Damage) -> None:
        self._decoder = open_decoder(stream, is_strict)
        self._time_base = stream.time_base
        self._is_strict = is_strict
        self._damage = damage
        # Not of interlaced pictures, whose fields may be packets of their own, nor of AVI, whose
        # packets do not tell when they are shown.
        self._has_all = self._decoder.codec.canonical_name in _A_PICTURE_EACH
        is_avi = stream.container.format.name == AVI
        self._has_all = self._has_all and not is_avi
        # In AVI packets of these have the times of the order in which they are stored.
        self._is_in_order = is_avi and self._decoder.codec.canonical_name in _TIMED_BY_CONTAINERS
        self._ticks: list[int] = []
        self._promised: set[float] = set()
        self._first_s: float | None = None
        self.places: list[int] = []

    def pictures(self, packets: Iterator[Any]) -> Iterator[Picture]:
        """Pictures in the order in which they are shown; leading ones of the first key are not.

        A strict decoder stops at damage.
        """
        self._decoder.flush_buffers()
        self._promised, self._first_s, self.places, self._ticks = set(), None, [], []
        for packet in packets:
            time_s = packet_s(packet)
            if self._first_s is None:
                if packet.size and not packet.is_keyframe:  # of a recording that was cut open
                    continue
                self._first_s = time_s
            is_leading = time_s is not None and time_s < (self._first_s or 0.0)
            if packet.size:
                self._remember(packet, time_s, is_leading)
            for frame in self._decoded(packet, is_leading):
                picture = self._picture(frame)
                if picture is not None:
                    yield picture
            if self._is_strict and self._damage.sentence:
                return

    def check_promises(self, until_s: float) -> None:
        """Note pictures that packets promised up to a time and that did not come."""
        if self._has_all and any(time_s <= until_s for time_s in self._promised):
            self._damage.note("a picture is missing that the file holds")

    def _remember(self, packet: Any, time_s: float | None, is_leading: bool) -> None:
        if packet.pos is not None and packet.pos >= 0:
            self.places += [packet.pos, packet.pos + packet.size]
        if packet.is_corrupt:
            self._damage.note("a packet of pictures is incomplete")
        if self._is_in_order and packet.pts is not None:
            heappush(self._ticks, packet.pts)
        if packet.pts is not None and not is_leading and not packet.is_discard:
            self._promised.add(round(time_s or 0.0, 4))

    def _decoded(self, packet: Any, is_leading: bool) -> list[Any]:
        try:
            return list(self._decoder.decode(packet if packet.size else None))
        except av.error.EOFError:
            return []
        except FFmpegError as error:
            if not is_of_data(error):
                raise
            if not is_leading:
                self._damage.note(f"a picture does not decode: {error.strerror}")
            return []

    def _picture(self, frame: Any) -> Picture | None:
        if self._ticks:
            frame.pts = heappop(self._ticks)
        tick = frame.dts if frame.pts is None else frame.pts
        frame.time_base = self._time_base  # those that a decoder had kept have none
        start_s = seconds(tick, frame)
        self._promised.discard(round(start_s, 4))
        if start_s < (self._first_s or 0.0):
            return None
        self._has_all = self._has_all and not frame.interlaced_frame
        if frame.is_corrupt:
            self._damage.note("a picture is decoded in part only")
        return Picture(start_s, seconds(frame.duration, frame), frame)


def deinterlaced(pictures: Iterator[Picture]) -> Iterator[Picture]:
    """The pictures, and of interlaced ones both fields, each as a whole picture."""
    graph: Any = None
    for picture in pictures:
        frame = picture.frame
        if graph is None and not frame.interlaced_frame:
            yield picture
            continue
        if graph is None:
            colours = f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
            graph = make_graph(frame, colours, [_BOB])
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[Picture]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield Picture(seconds(frame.pts, frame), seconds(frame.duration, frame), frame)


def emit_shown(
    pictures: Iterator[Picture],
    instants: list[float],
    scaler: Scaler,
    emit: Callable[[bytes], None],
) -> float:
    """Emit the picture that is shown at each of the instants, in the track's time, as far as there
    are any; how far the pictures were looked at."""
    shown: Picture | None = None
    number, spacing_s = 0, 0.0
    pixels = b""

    def catch_up(until_s: float) -> None:
        nonlocal number, pixels
        while shown is not None and number < len(instants):
            if instants[number] >= until_s - TOLERANCE_S:
                return
            pixels = pixels or scaler.rgb(shown.frame)
            emit(pixels)
            number += 1

    for picture in pictures:
        if shown is not None:
            catch_up(picture.start_s)
            spacing_s = picture.start_s - shown.start_s
        if number == len(instants):
            return picture.start_s - TOLERANCE_S
        shown, pixels = picture, b""
    if shown is not None:
        catch_up(shown.start_s + (shown.seconds or spacing_s))
        return shown.start_s
    return 0.0
