"""The sound of a window: each sample where its time says, gaps silent, overlaps cut."""

from collections.abc import Iterator
from math import ceil, gcd
from typing import Any

import av
from av.error import FFmpegError
from av.filter import Graph

from infra.media.child.damage import Damage, is_of_data
from infra.media.child.opening import open_decoder, seconds
from infra.media.child.timeline import packet_s

# Decoded before a window and dropped, for decoders to settle.
PREROLL_S = 0.5
# Damage that long before a window is still heard in it.
_ECHO_S = 0.25
# Containers round times; further apart, sound is missing or there twice. Where times are whole
# milliseconds, the first one is rounded twice: it says when what a decoder skips has passed.
_JITTER_S = 0.002
_COARSE_JITTER_S = 0.003
_COARSE_S = 0.0005
_SAMPLE_BYTES = 4
_STEREO = 2
# Rounded times of so many frames tell where the first one is.
_MOST_TIMES = 256


class _Run:
    """Frames of sound that follow each other without a gap, of one rate and layout."""

    def __init__(self, frame: Any, start_s: float, jitter_s: float) -> None:
        self._jitter_s = jitter_s
        self.rate = frame.sample_rate
        self._kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        self._origin_s = start_s
        self._least_s = self._most_s = 0.0
        self._times = 0
        self._samples = 0
        self._padding = 0
        self.frames: list[Any] = []

    def takes(self, frame: Any, start_s: float) -> bool:
        """Whether a frame goes on where this run ends."""
        kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        return kind == self._kind and abs(self._off_s(start_s) - self._middle_s) <= self._jitter_s

    def add(self, frame: Any, start_s: float) -> None:
        """Append a frame."""
        if self._times < _MOST_TIMES:
            off_s = self._off_s(start_s)
            if self._times == 1:  # the first one counts only while there is no other
                self._least_s = self._most_s = off_s
            self._least_s, self._most_s = min(self._least_s, off_s), max(self._most_s, off_s)
            self._times += 1
        self.frames.append(frame)
        self._samples += frame.samples

    def end_with(self, last: Any, length_s: float) -> None:
        """Leave out the padding of the last frame of a track, which is longer than it is heard."""
        heard = round(length_s * self.rate)
        if 0 < heard < last.samples - self._jitter_s * self.rate:
            self._padding = last.samples - heard

    @property
    def samples(self) -> int:
        """How many are heard."""
        return self._samples - self._padding

    def _off_s(self, start_s: float) -> float:
        return start_s - self._origin_s - float(self._samples / self.rate)

    @property
    def _middle_s(self) -> float:
        return (self._least_s + self._most_s) / 2

    @property
    def start_s(self) -> float:
        """When it begins: of times that were rounded, the middle of those that fit."""
        return self._origin_s + self._middle_s


class SoundDecoder:
    """Decodes packets of sound, and notes damage of those that are heard in a window."""

    def __init__(self, stream: Any, is_strict: bool, damage: Damage) -> None:
        self._decoder = open_decoder(stream, is_strict)
        self._stream = stream
        self._jitter_s = _COARSE_JITTER_S if stream.time_base > _COARSE_S else _JITTER_S
        self._damage = damage
        self.places: list[int] = []

    def runs(self, packets: Iterator[Any], start_s: float, end_s: float) -> list[_Run]:
        """Runs of sound up to `end_s`; times are the track's own."""
        self._decoder.flush_buffers()
        runs: list[_Run] = []
        for packet in packets:
            time_s = packet_s(packet)
            if time_s is not None and time_s > end_s:
                break
            is_heard = time_s is None or time_s > start_s - _ECHO_S
            if packet.size and is_heard:
                self._remember(packet)
            for frame in self._decoded(packet, is_heard):
                self._append(runs, frame)
        else:
            if runs:
                last = runs[-1].frames[-1]
                runs[-1].end_with(last, seconds(last.duration, self._stream))
        return runs

    def _remember(self, packet: Any) -> None:
        if packet.pos is not None and packet.pos >= 0:
            self.places += [packet.pos, packet.pos + packet.size]
        if packet.is_corrupt:
            self._damage.note("a packet of sound is incomplete")

    def _decoded(self, packet: Any, is_heard: bool) -> list[Any]:
        try:
            frames = list(self._decoder.decode(packet if packet.size else None))
        except av.error.EOFError:
            return []
        except FFmpegError as error:
            if not is_of_data(error):
                raise
            if is_heard:
                self._damage.note(f"sound does not decode: {error.strerror}")
            return []
        if is_heard and any(frame.is_corrupt for frame in frames):
            self._damage.note("sound is decoded in part only")
        return frames

    def _append(self, runs: list[_Run], frame: Any) -> None:
        if not frame.samples:
            return
        start_s = seconds(frame.dts if frame.pts is None else frame.pts, self._stream)
        if not runs or not runs[-1].takes(frame, start_s):
            runs.append(_Run(frame, start_s, self._jitter_s))
        runs[-1].add(frame, start_s)


def mixed(
    runs: list[_Run], clock_s: float, start_s: float, rate: int, channels: int, samples: int
) -> bytes:
    """Interleaved 32-bit samples of a window, (samples, channels), as far as there are any.

    clock_s: the track's own time at time 0; start_s: of the window, from time 0 on.
    """
    sample_bytes = channels * _SAMPLE_BYTES
    sound = bytearray()
    for run in runs:
        first, data = _resampled(run, clock_s, rate, channels)
        place = first - round(start_s * rate)
        if place < 0:
            data, place = data[-place * sample_bytes :], 0
        if not data or place >= samples:
            continue
        if len(sound) < place * sample_bytes:
            sound += bytes(place * sample_bytes - len(sound))
        # What was there first is heard: a decoder settles at the beginning of a run.
        data = data[len(sound) - place * sample_bytes :]
        sound += data[: samples * sample_bytes - len(sound)]
    return bytes(sound)


def _resampled(run: _Run, clock_s: float, rate: int, channels: int) -> tuple[int, bytes]:
    """The number of the first sample of a run, counted from time 0 on, and its samples.

    Silence stands before the run so that it begins where samples of both rates meet: where a
    window begins does not change what is between samples.
    """
    first = round((run.start_s - clock_s) * run.rate)
    shared = gcd(run.rate, rate)
    ahead = first % (run.rate // shared)
    graph = _resampler(run, ahead, rate, channels)
    pieces: list[bytes] = []
    for frame in run.frames:
        frame.pts = None
        graph.push(frame)
        pieces += _pulled(graph, channels)
    graph.push(None)
    pieces += _pulled(graph, channels)
    begin = (first - ahead) // (run.rate // shared) * (rate // shared)
    skipped = ceil(ahead * rate / run.rate)
    end = round((ahead + run.samples) * rate / run.rate)
    sample_bytes = channels * _SAMPLE_BYTES
    return begin + skipped, b"".join(pieces)[skipped * sample_bytes : end * sample_bytes]


def _resampler(run: _Run, ahead: int, rate: int, channels: int) -> Any:
    """Filters that put `ahead` silent samples before a run, resample and mix it."""
    like, graph = run.frames[0], Graph()
    graph.threads = 1
    source = graph.add(
        "abuffer",
        sample_rate=str(run.rate),
        sample_fmt=like.format.name,
        channel_layout=like.layout.name,
        time_base=f"1/{run.rate}",
    )
    delay = [graph.add("adelay", f"delays={ahead}S:all=1")] if ahead else []
    layout = "mono" if channels == 1 else "stereo"
    form = graph.add("aformat", f"sample_fmts=flt:sample_rates={rate}:channel_layouts={layout}")
    nodes = [source, *delay, graph.add("aresample", str(rate)), form, graph.add("abuffersink")]
    graph.link_nodes(*nodes).configure()
    return graph


def _pulled(graph: Any, channels: int) -> Iterator[bytes]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield bytes(memoryview(frame.planes[0])[: frame.samples * channels * _SAMPLE_BYTES])


def stored_channels(stream: Any) -> int:
    """Channels that a window of a track has: one of a mono track, else two."""
    return min(_STEREO, stream.channels or 1)
