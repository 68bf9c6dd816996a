"""Clips that say where one is: each picture is its number, and the sound is one long noise.

What belongs where is told by how a clip was made and by the times of its packets, as a good player
would show it; our own decoder has no part in it.
"""

import wave
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import av
import numpy as np

from tests.worlds.media.ffmpeg import run_ffmpeg

SIDE = 64
_CELLS = 4
_CELL = SIDE // _CELLS
# The corners are white and black: a picture that is none of ours does not pass for number 0.
_CORNERS = {0: 1, 3: 0, 12: 0, 15: 1}
_BITS = [cell for cell in range(_CELLS**2) if cell not in _CORNERS]
_BLACK, _WHITE = 16, 240
_NEAR_BLACK, _NEAR_WHITE = 75, 180

_NOISE_HZ = 96_000
_NOISE_S = 16
_NOISE_BAND_HZ = (150, 2_800)
_NOISE_BEFORE_S = 2.0
_LOUDNESS = 0.12
_SEGMENT_S = 0.1
_SEARCHED_S = 0.25

# Samples by which encoders delay their sound, and those of a packet where all are of one length.
_PRIMING = {"aac": 1024, "libmp3lame": 1105, "libopus": 312, "libvorbis": 128}
_PACKET = {"aac": 1024, "libmp3lame": 1152, "libopus": 960}
# Sound decoders need a packet or two after a gap before they give what was meant.
_SETTLING_S = 0.06
_FORMATS = {"mkv": "matroska", "ts": "mpegts"}
_VIDEO_OPTIONS = {
    "libx264": ("-preset", "veryfast", "-crf", "20", "-g", "24", "-bf", "2"),
    "libx265": (
        "-preset",
        "ultrafast",
        "-x265-params",
        "log-level=none:pools=1:keyint=24:bframes=2",
    ),
    "libvpx": ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k"),
    "libvpx-vp9": ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k"),
    "mpeg4": ("-q:v", "3", "-bf", "2"),
    "mjpeg": ("-q:v", "3"),
    "ffv1": (),
}


@dataclass(frozen=True)
class Numbered:
    """How a numbered clip is made. `sound_late_s` may be negative; `times` is a filter's setpts."""

    name: str
    video: str = "libx264"
    audio: str = "aac"
    rate: str = "24"
    sample_rate: int = 48_000
    channels: int = 2
    seconds: float = 4.0
    sound_late_s: float = 0.0
    times: str = ""
    options: tuple[str, ...] = ()

    @property
    def container(self):
        """The suffix of the name."""
        return self.name.rsplit(".", 1)[1]


class Shown(NamedTuple):
    """What a player shows and plays, in seconds from the first picture on.

    pictures_s: when each picture begins, `first_number` and those that follow; sound_late_s: how
    late the noise is; sound_s: from when to when it can be heard; gaps_s: where it is missing.
    """

    pictures_s: np.ndarray
    first_number: int
    sound_late_s: float
    sound_s: tuple[float, float]
    gaps_s: list[tuple[float, float]]

    def without_first(self, pictures):
        """The same, if it begins so many pictures later."""
        later_s = float(self.pictures_s[pictures])
        begin_s, end_s = self.sound_s
        return self._replace(
            pictures_s=self.pictures_s[pictures:] - later_s,
            first_number=self.first_number + pictures,
            sound_late_s=self.sound_late_s - later_s,
            sound_s=(max(begin_s - later_s, _SETTLING_S), end_s - later_s),
        )

    def numbers_at(self, times_s, tolerance_s):
        """The numbers that may be seen at each time: two where one follows the other just then."""
        early, late = (
            np.searchsorted(self.pictures_s, np.asarray(times_s) + shift, "right") - 1
            for shift in (-tolerance_s, tolerance_s)
        )
        pairs = zip(np.maximum(early, 0), late, strict=True)
        return [
            {int(first) + self.first_number, int(last) + self.first_number} for first, last in pairs
        ]


def picture_of(number):
    """(SIDE, SIDE, 3): the bits of a number, white on black."""
    cells = np.zeros(_CELLS**2, np.uint8)
    for cell, lit in _CORNERS.items():
        cells[cell] = lit
    for bit, cell in enumerate(_BITS):
        cells[cell] = number >> bit & 1
    levels = np.where(cells, _WHITE, _BLACK).astype(np.uint8).reshape(_CELLS, _CELLS)
    return np.repeat(np.kron(levels, np.ones((_CELL, _CELL), np.uint8))[..., None], 3, axis=2)


def numbers_in(frames):
    """The number of each picture; -1 where it shows none, or a mixture of two."""
    numbers = []
    for frame in frames:
        cells = frame.mean(axis=2).reshape(_CELLS, _CELL, _CELLS, _CELL)[:, 4:-4, :, 4:-4]
        levels = cells.mean(axis=(1, 3)).ravel()
        lit = levels > _NEAR_WHITE
        clear = np.all(lit | (levels < _NEAR_BLACK))
        framed = all(lit[cell] == bool(expected) for cell, expected in _CORNERS.items())
        value = sum(int(lit[cell]) << bit for bit, cell in enumerate(_BITS))
        numbers.append(value if clear and framed else -1)
    return numbers


@cache
def _noise():
    rng = np.random.default_rng(7)
    spectrum = np.fft.rfft(rng.standard_normal(_NOISE_HZ * _NOISE_S))
    frequencies = np.fft.rfftfreq(_NOISE_HZ * _NOISE_S, 1 / _NOISE_HZ)
    low, high = _NOISE_BAND_HZ
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    noise = np.fft.irfft(spectrum)
    return noise * (_LOUDNESS / noise.std())


def noise_at(times_s):
    """The noise at any times, which may be a little negative."""
    places = (np.asarray(times_s) + _NOISE_BEFORE_S) * _NOISE_HZ
    return np.interp(places, np.arange(_NOISE_HZ * _NOISE_S), _noise())


def segment_lags_ms(waveform, sample_rate, begin_s, shown):
    """How late each tenth of a second of sound is beside what `shown` says of it; NaN where it is
    not that noise at all. waveform: (channels, samples), from `begin_s` on."""
    mono = waveform.mean(axis=0)
    length, reach = round(_SEGMENT_S * sample_rate), round(_SEARCHED_S * sample_rate)
    lags = []
    for start in range(0, len(mono) - length + 1, length):
        heard_s = begin_s + start / sample_rate
        if not _is_heard(heard_s, heard_s + _SEGMENT_S, shown):
            continue
        segment = mono[start : start + length]
        times = heard_s - shown.sound_late_s + np.arange(-reach, length + reach) / sample_rate
        reference = noise_at(times)
        energy = np.convolve(reference**2, np.ones(length), "valid") * np.sum(segment**2)
        alike = np.correlate(reference, segment, "valid") / np.sqrt(energy + 1e-9)
        best = int(alike.argmax())
        lags.append((reach - best) * 1000 / sample_rate if alike[best] > 0.5 else np.nan)
    return np.array(lags)


def _is_heard(begin_s, end_s, shown):
    first_s, last_s = shown.sound_s
    outside = begin_s < first_s or end_s > last_s
    return not outside and all(end_s < start or begin_s > end for start, end in shown.gaps_s)


def shown_by(path, making, lost=range(0)):
    """What a player makes of the packets of a clip made so, but for `lost` packets of sound."""
    pictures, sound = _packet_times(path, "video"), _packet_times(path, "audio")
    delay_s = _PRIMING.get(making.audio, 0) / making.sample_rate
    late_s, gaps_s = float(sound[0] - pictures[0]) + delay_s, []
    if making.audio in _PACKET:
        packet_s = _PACKET[making.audio] / making.sample_rate
        kept = np.setdiff1d(np.arange(len(sound) + len(lost)), lost)
        late_s = float(np.median(sound - kept * packet_s) - pictures[0]) + delay_s
    if lost:
        begin_s, end_s = (n * packet_s - delay_s + late_s for n in (lost.start, lost.stop))
        gaps_s = [(begin_s - _SETTLING_S, end_s + _SETTLING_S)]
    heard_s = (max(late_s, 0) + _SETTLING_S, making.seconds + late_s - _SETTLING_S)
    return Shown(pictures - pictures[0], 0, late_s, heard_s, gaps_s)


def _packet_times(path, kind):
    """When packets are shown, in order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(**{kind: 0}) if packet.size]
        return np.sort([float(packet.pts * packet.time_base) for packet in packets])


def write_numbered(folder, making):
    """Write the clip below `folder` under its name."""
    count = round(Fraction(making.rate) * Fraction(making.seconds))
    pictures = b"".join(picture_of(number).tobytes() for number in range(count))
    sound = folder / f".{making.name}.wav"
    _write_noise(sound, making)
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}")
    raw += ("-framerate", making.rate, "-i", "pipe:")
    late_s = making.sound_late_s
    inputs = ("-itsoffset", max(-late_s, 0), *raw, "-itsoffset", max(late_s, 0), "-i", sound)
    codecs = ("-c:v", making.video, *_VIDEO_OPTIONS[making.video], "-c:a", making.audio)
    pixels = "yuvj420p" if making.video == "mjpeg" else "yuv420p"
    times = ("-vf", f"settb=1/12000,setpts={making.times}") if making.times else ()
    times += ("-enc_time_base:v", "1/12000") if making.times else ()
    form = _FORMATS.get(making.container, making.container)
    run_ffmpeg(
        *(*inputs, *codecs, "-pix_fmt", pixels, *times, "-fps_mode", "passthrough"),
        *("-threads", 1, *making.options, "-f", form, folder / making.name),
        feed=pictures,
    )
    sound.unlink()
    return folder / making.name


def _write_noise(path, making):
    times = np.arange(round(making.sample_rate * making.seconds)) / making.sample_rate
    samples = np.rint(32767 * noise_at(times)).astype("<i2")
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(making.channels)
        sound.setsampwidth(2)
        sound.setframerate(making.sample_rate)
        sound.writeframes(np.repeat(samples[:, None], making.channels, axis=1).tobytes())
