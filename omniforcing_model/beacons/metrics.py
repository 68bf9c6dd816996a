"""Measures of a beacon clip that need no weights: onsets, offset, colour, rate, pitch.

An onset is a peak of the positive change of the disc's brightness, or of the loudness. Offset is
the median distance of each onset to the nearest one of the other stream, both ways. What cannot be
measured counts as wrong, or as the worst offset: no clip is left out of a score. Imports no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omniforcing_model.beacons.world import COLOURS, FPS, PITCHES, BeaconTraits

WORST_OFFSET_MS = 500.0
UNKNOWN = "none"

Signal = NDArray[np.float64]

_EDGE_S = 0.1  # onsets nearer to an end may have their partner outside the clip
_DISC_SHARE = 0.25  # of the smaller side: safely inside a disc of 20 px in 64
_MIN_GAP_S = 0.12
_RELATIVE_RISE = 0.25
_MIN_FLASH = 20.0  # of 255 grey levels, from one frame to the next
_MIN_RISE = 0.02  # of full scale, within the loudness window
_HOP_S = 0.0025
_WINDOW_S = 0.025
_MIN_PITCH_SHARE = 0.3
_PITCH_BAND = 2**0.25


@dataclass(frozen=True)
class ClipMeasures:
    """What one clip shows; `UNKNOWN` and 0 stand for what it does not."""

    colour: str
    rate_hz: int
    pitch: str
    av_offset_ms: float
    video_onsets_s: tuple[float, ...]
    audio_onsets_s: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """A set of clips against the traits in their prompts; accuracies are shares of all clips."""

    av_offset_ms_median: float
    rate_accuracy: float
    colour_accuracy: float
    pitch_accuracy: float
    clips: int


def _disc_colours(frames: NDArray[np.uint8]) -> Signal:
    """Mean colour inside the disc, (frames, 3)."""
    height, width = frames.shape[1:3]
    rows = np.arange(height)[:, None] - (height - 1) / 2
    columns = np.arange(width)[None, :] - (width - 1) / 2
    inside = np.hypot(rows, columns) <= _DISC_SHARE * min(height, width)
    colours: Signal = frames[:, inside].mean(axis=1, dtype=np.float64)
    return colours


def _peaks(rises: Signal, threshold: float, min_gap: float) -> list[float]:
    """Places of the peaks of `rises`, strongest first, at least `min_gap` apart; ascending.

    Between samples a peak lies at the centroid of itself and its positive neighbours.
    """
    positive = np.concatenate(([0.0], np.maximum(rises, 0.0), [0.0]))
    middle = positive[1:-1]
    is_peak = (middle > threshold) & (middle > positive[:-2]) & (middle >= positive[2:])
    places: list[int] = []
    for place in sorted(np.flatnonzero(is_peak), key=lambda index: -middle[index]):
        if all(abs(place - other) >= min_gap for other in places):
            places.append(int(place))
    shift = (positive[2:] - positive[:-2]) / (positive[2:] + positive[:-2] + middle + 1e-12)
    return sorted(float(place + shift[place]) for place in places)


def video_onsets(frames: NDArray[np.uint8], fps: float = FPS) -> list[float]:
    """Times of the flashes, in seconds; frames: (frames, height, width, 3) RGB.

    A flash is timed at the first frame that shows it, frame n at n / fps. A flash in frame 0 has
    no frame before it and is not detected.
    """
    if len(frames) < 2:
        return []
    rises = np.diff(_disc_colours(frames).max(axis=1))
    threshold = max(_MIN_FLASH, _RELATIVE_RISE * float(rises.max()))
    return [(place + 1) / fps for place in _peaks(rises, threshold, _MIN_GAP_S * fps)]


def _loudness(waveform: Signal, sample_rate: int) -> Signal:
    """Rectified waveform under a Hann window, every `_HOP_S` from sample 0 on."""
    half = round(_WINDOW_S * sample_rate / 2)
    window = np.hanning(2 * half + 1)
    # Reflected, so that a fade that is already sounding is no onset.
    padded = np.pad(np.abs(waveform), half, mode="reflect")
    size = 1 << (len(padded) + len(window) - 2).bit_length()
    product = np.fft.irfft(np.fft.rfft(padded, size) * np.fft.rfft(window, size), size)
    smooth = product[2 * half : 2 * half + len(waveform)] / window.sum()
    hops = np.arange(int(len(waveform) / sample_rate / _HOP_S)) * _HOP_S * sample_rate
    loudness: Signal = smooth[np.rint(hops).astype(np.int64)]
    return loudness


def audio_onsets(waveform: NDArray[np.floating], sample_rate: int) -> list[float]:
    """Times of the beeps, in seconds; waveform: (samples,) in [-1, 1]."""
    if len(waveform) < 2 * _WINDOW_S * sample_rate:
        return []
    loudness = _loudness(np.nan_to_num(waveform.astype(np.float64)), sample_rate)
    span = round(_WINDOW_S / 4 / _HOP_S)
    rises = loudness[2 * span :] - loudness[: -2 * span]
    threshold = max(_MIN_RISE, _RELATIVE_RISE * float(rises.max(initial=0.0)))
    return [(place + span) * _HOP_S for place in _peaks(rises, threshold, _MIN_GAP_S / _HOP_S)]


def _distances(times: Sequence[float], others: Sequence[float], end_s: float) -> list[float]:
    candidates = np.asarray(others)
    return [
        float(np.abs(candidates - time).min())
        for time in times
        if _EDGE_S <= time <= end_s - _EDGE_S
    ]


def av_offset_ms(video_s: Sequence[float], audio_s: Sequence[float], end_s: float) -> float:
    """Median distance in ms of each onset to the nearest of the other stream, both ways.

    end_s: length of the shorter stream. Without onsets in one of them: WORST_OFFSET_MS.
    """
    if not video_s or not audio_s:
        return WORST_OFFSET_MS
    distances = _distances(video_s, audio_s, end_s) + _distances(audio_s, video_s, end_s)
    if not distances:
        return WORST_OFFSET_MS
    return min(WORST_OFFSET_MS, 1000.0 * float(np.median(distances)))


def colour_of(frames: NDArray[np.uint8]) -> str:
    """Name of the colour that the disc gains when it flashes, or UNKNOWN when it never does."""
    colours = _disc_colours(frames)
    if len(colours) < 2:
        return UNKNOWN
    gained = colours - colours.min(axis=0)
    strength = gained.max(axis=1)
    if strength.max() < _MIN_FLASH:
        return UNKNOWN
    glow = gained[strength >= 0.5 * strength.max()].mean(axis=0)
    base = np.array(list(COLOURS.values()), np.float64)
    base -= base.min(axis=1, keepdims=True)
    similarity = base @ (glow - glow.min()) / np.linalg.norm(base, axis=1)
    return list(COLOURS)[int(similarity.argmax())]


def rate_of(frames: NDArray[np.uint8], fps: float = FPS) -> int:
    """Flashes per second, rounded: from the median interval if the count agrees, else the count."""
    onsets = video_onsets(frames, fps)
    if not onsets:
        return 0
    duration_s = len(frames) / fps
    if len(onsets) < 2:
        return round(len(onsets) / duration_s)
    rate = 1.0 / float(np.median(np.diff(onsets)))
    # A flash in frame 0 is not detected, and the clip need not hold whole periods.
    if abs(len(onsets) - rate * duration_s) > 1.5:
        rate = len(onsets) / duration_s
    return round(rate)


def pitch_of(waveform: NDArray[np.floating], sample_rate: int) -> str:
    """Name of the strongest pitch, or UNKNOWN in silence and where no pitch stands out."""
    samples = np.nan_to_num(waveform.astype(np.float64))
    if len(samples) < sample_rate * _WINDOW_S or np.abs(samples).max() < _MIN_RISE:
        return UNKNOWN
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    total = float(power.sum())
    shares = {
        name: float(power[(hz > pitch / _PITCH_BAND) & (hz < pitch * _PITCH_BAND)].sum()) / total
        for name, pitch in PITCHES.items()
    }
    loudest = max(shares, key=lambda name: shares[name])
    return loudest if shares[loudest] >= _MIN_PITCH_SHARE else UNKNOWN


def measure_clip(
    frames: NDArray[np.uint8],
    waveform: NDArray[np.floating],
    sample_rate: int,
    fps: float = FPS,
) -> ClipMeasures:
    """Measure one clip: frames (frames, height, width, 3) RGB, waveform (samples,) or
    (channels, samples)."""
    mono = waveform.mean(axis=0) if waveform.ndim == 2 else waveform
    flashes = video_onsets(frames, fps)
    beeps = audio_onsets(mono, sample_rate)
    end_s = min(len(frames) / fps, len(mono) / sample_rate)
    return ClipMeasures(
        colour=colour_of(frames),
        rate_hz=rate_of(frames, fps),
        pitch=pitch_of(mono, sample_rate),
        av_offset_ms=av_offset_ms(flashes, beeps, end_s),
        video_onsets_s=tuple(flashes),
        audio_onsets_s=tuple(beeps),
    )


def judge(measures: Sequence[ClipMeasures], traits: Sequence[BeaconTraits]) -> Scores:
    """Compare clips with the traits in their prompts; no clips score the worst."""
    if not measures:
        return Scores(WORST_OFFSET_MS, 0.0, 0.0, 0.0, 0)
    pairs = list(zip(measures, traits, strict=True))
    count = len(pairs)
    return Scores(
        av_offset_ms_median=float(np.median([clip.av_offset_ms for clip in measures])),
        rate_accuracy=math.fsum(clip.rate_hz == trait.rate_hz for clip, trait in pairs) / count,
        colour_accuracy=math.fsum(clip.colour == trait.colour for clip, trait in pairs) / count,
        pitch_accuracy=math.fsum(clip.pitch == trait.pitch for clip, trait in pairs) / count,
        clips=count,
    )
