"""The job `window`: pictures and sound from a start on, and whether their bytes are sound."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from infra.media.child.damage import Damage, FileChecks
from infra.media.child.opening import Tracks, open_clip, open_tracks
from infra.media.child.pictures import PictureDecoder, deinterlaced, emit_shown
from infra.media.child.scaling import Scaler
from infra.media.child.sound import PREROLL_S, SoundDecoder, mixed, stored_channels
from infra.media.child.survey import header
from infra.media.child.timeline import Clock, packets_from, read_clock

_MOV = "mov"
# How much further back a decoder begins that does not come clean from the nearest key packet:
# some pictures are called key that need earlier ones. At last it begins with the file.
_FURTHER_BACK_S = (0.0, 10.0, float("inf"))
# Fields are made to pictures with the help of those before.
_FIELDS_BEFORE_S = 0.1
_PROGRESSIVE = 1

Send = Callable[[str, Any], None]


class Request(NamedTuple):
    """What is asked for: `start_s` counts from time 0; None or 0 where one kind is not wanted.

    pictures: how many, `fps` of them a second, (height, width) each. A strict one ends at damage.
    """

    path: str
    start_s: float
    fps: int
    pictures: int
    height: int
    width: int
    sample_rate: int
    sound_s: float
    is_strict: bool


def window(request: dict[str, Any], send: Send, damage: Damage) -> None:
    """Send what the file says it holds, then pictures, then sound."""
    asked = Request(**{name: request[name] for name in Request._fields})
    container, tracks = open_tracks(asked.path)
    send("J", header(container, tracks))
    damage.forget()
    clock, packets = read_clock(container, container.demux(tracks.video))
    job = _Job(asked, container, tracks, clock, damage)
    if asked.pictures:
        job.send_pictures(packets, send)
    if asked.sound_s and tracks.audio is not None and not (asked.is_strict and damage.sentence):
        job.send_sound(send)


class _Job:
    def __init__(
        self, asked: Request, container: Any, tracks: Tracks, clock: Clock, damage: Damage
    ) -> None:
        self._asked = asked
        self._container, self._tracks = container, tracks
        self._clock = clock
        self._damage = damage
        self._decoder = PictureDecoder(tracks.video, asked.is_strict, damage)
        self._checks = FileChecks(container, asked.path, tracks) if asked.is_strict else None

    def send_pictures(self, first_packets: Iterator[Any], send: Send) -> None:
        """Send pictures, from further back if decoding from the nearest key packet fails."""
        start_s = self._clock.video_s + self._asked.start_s
        packets: Iterator[Any] | None = first_packets
        is_whole, video = True, self._tracks.video
        has_fields = video.codec_context.field_order > _PROGRESSIVE
        fields_s = _FIELDS_BEFORE_S if has_fields else 0.0
        for further_s in _FURTHER_BACK_S:
            if self._asked.start_s > 0:
                back_s = further_s + fields_s
                packets = packets_from(self._container, video, video, start_s, back_s)
                is_whole = packets is None
                packets = self._from_beginning(video) if is_whole else packets
            assert packets is not None
            self._damage.forget()
            self._decode(packets, send)
            if not self._damage.sentence or is_whole or not self._asked.is_strict:
                return
            send("R", b"")

    def _decode(self, packets: Iterator[Any], send: Send) -> None:
        asked = self._asked
        start_s = self._clock.video_s + asked.start_s
        instants = [start_s + number / asked.fps for number in range(asked.pictures)]
        decoder = self._decoder
        scaler = Scaler(self._tracks.video, asked.height, asked.width)
        pictures = deinterlaced(decoder.pictures(packets))
        seen_s = emit_shown(pictures, instants, scaler, lambda pixels: send("P", pixels))
        if asked.is_strict:
            decoder.check_promises(seen_s)
            self._check(decoder.places)

    def send_sound(self, send: Send) -> None:
        """Send the sound of the window."""
        asked, stream = self._asked, self._tracks.audio
        assert stream is not None
        start_s = self._clock.audio_s + asked.start_s
        by_sound = self._container.format.name.startswith(_MOV)
        seek_by = stream if by_sound else self._tracks.video
        packets = None
        if asked.start_s > 0:
            packets = packets_from(self._container, stream, seek_by, start_s, PREROLL_S)
        sound = b"" if packets is None else self._sound(packets, stream)
        if packets is None or (asked.is_strict and self._damage.sentence):
            # Some say only in their first packets how they are to be decoded, as AAC of channels in
            # no usual order does in MPEG-TS.
            packets = self._from_beginning(stream)
            sound = self._sound(packets, self._container.streams[stream.index])
        send("S", sound)

    def _sound(self, packets: Iterator[Any], stream: Any) -> bytes:
        asked, clock_s = self._asked, self._clock.audio_s
        decoder = SoundDecoder(stream, asked.is_strict, self._damage)
        start_s = clock_s + asked.start_s
        runs = decoder.runs(packets, start_s, start_s + asked.sound_s)
        if asked.is_strict:
            self._check(decoder.places)
        samples = round(asked.sound_s * asked.sample_rate)
        channels = stored_channels(stream)
        return mixed(runs, clock_s, asked.start_s, asked.sample_rate, channels, samples)

    def _from_beginning(self, stream: Any) -> Iterator[Any]:
        self._container = open_clip(self._asked.path)
        self._damage.forget()
        return iter(self._container.demux(self._container.streams[stream.index]))

    def _check(self, places: list[int]) -> None:
        self._damage.listen(self._container.format.name)
        if self._checks is not None and places:
            self._checks.check(min(places), max(places), self._damage)
