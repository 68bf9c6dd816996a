"""What is measured on the pictures and the sound of a window, whatever becomes of it."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from actors.clips.loudness import integrated_lufs
from infra.dataset.columns import SIGNAL_MEASURES, Column
from omniforcing_model.latent_clock import VIDEO_FPS

# Sound is decoded to floating point, where a clipped sample need not be exactly 1.
_FULL_SCALE = 0.99
# Grey levels by which an unchanged pixel may differ after lossy coding.
_SAME_LEVELS = 2
# Pixels of the shorter side that are compared: enough to see a change.
_SAMPLED_SIDE = 128

_MAX_LAG_S = 0.5
_STEPS_PER_FRAME = 10
_ENVELOPE_S = 0.02
_MIN_PICTURE_RISE = 0.5  # grey levels, mean over the picture
_MIN_SOUND_RISE = 0.005  # of full scale
# A rhythm fits at several lags: of equal ones the smallest is meant.
_LAG_PENALTY = 0.25


def signal_measures(
    frames: NDArray[np.uint8], waveform: NDArray[np.float32], sample_rate: int
) -> dict[str, float]:
    """All of `SIGNAL_MEASURES` of frames, (frames, height, width, 3), and sound, (channels,
    samples): what gates decide about, and scores. What cannot be measured is NaN."""
    measures = dict.fromkeys(SIGNAL_MEASURES, math.nan)
    measures[Column.DECODED_FRAMES] = len(frames)
    if not len(frames) or not waveform.size:
        return measures
    return measures | {
        Column.RMS_DBFS: rms_dbfs(waveform),
        Column.CLIPPED_SHARE: float(np.mean(np.abs(waveform) >= _FULL_SCALE)),
        Column.FROZEN_SHARE: frozen_share(frames),
        Column.AV_LAG_MS: av_lag_ms(frames, waveform, sample_rate),
        Column.LOUDNESS_LUFS: integrated_lufs(waveform, sample_rate),
    }


def rms_dbfs(waveform: NDArray[np.float32]) -> float:
    """Root mean square of sound against a full-scale square wave, in dB; -inf for silence."""
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    return 20 * math.log10(rms) if rms > 0 else -math.inf


def _changes(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Mean and greatest change from each frame to the next, in grey levels; (frames - 1,)."""
    stride = max(1, min(frames.shape[1:3]) // _SAMPLED_SIDE)
    sampled = frames[:, ::stride, ::stride].astype(np.int16)
    changes = [np.abs(now - before) for before, now in pairwise(sampled)]
    means = np.array([change.mean() for change in changes], np.float64)
    return means, np.array([change.max() for change in changes], np.int16)


def frozen_share(frames: NDArray[np.uint8]) -> float:
    """Share of the frames but the first that repeat the one before, but for coding noise."""
    greatest = _changes(frames)[1]
    return float(np.mean(greatest <= _SAME_LEVELS)) if len(greatest) else 0.0


def _picture_onsets(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much faster than before the picture changes, `_STEPS_PER_FRAME` times a frame."""
    change = np.concatenate(([0.0], _changes(frames)[0]))
    rises = np.maximum(np.diff(change, prepend=0.0), 0.0)
    if rises.max(initial=0.0) < _MIN_PICTURE_RISE:
        return np.zeros(0)
    steps = np.zeros(len(rises) * _STEPS_PER_FRAME)
    steps[::_STEPS_PER_FRAME] = rises
    # A frame may show what happened at any time since the one before, or a little after.
    ramp = 1 - np.abs(np.arange(1 - _STEPS_PER_FRAME, _STEPS_PER_FRAME)) / _STEPS_PER_FRAME
    return np.convolve(steps, ramp, mode="same")


def _sound_onsets(waveform: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """Rises of the loudness, at the same steps."""
    step_hz = VIDEO_FPS * _STEPS_PER_FRAME
    mono = np.abs(waveform.mean(axis=0, dtype=np.float64))
    edges = np.rint(np.arange(int(len(mono) / sample_rate * step_hz) + 1) * sample_rate / step_hz)
    sums = np.concatenate(([0.0], np.cumsum(mono)))[edges.astype(np.int64)]
    width = round(_ENVELOPE_S * step_hz)
    padded = np.pad(sums, width, mode="edge")
    # The level from a step on against the level before it.
    samples = width * sample_rate / step_hz
    after = (padded[2 * width :] - padded[width:-width]) / samples
    before = (padded[width:-width] - padded[: -2 * width]) / samples
    rises = np.maximum(after - before, 0.0)
    # The edges of a window are no rises.
    rises[:width] = rises[-width:] = 0.0
    return rises if rises.max(initial=0.0) >= _MIN_SOUND_RISE else np.zeros(0)


def av_lag_ms(frames: NDArray[np.uint8], waveform: NDArray[np.floating], sample_rate: int) -> float:
    """Lag of sound onsets behind picture onsets within half a second; positive: sound is late.

    frames: (frames, height, width, 3) at 24 fps; waveform: (channels, samples). NaN where picture
    or sound has no onset. The lag of the largest cross-correlation, for any content: precise for
    sharp onsets that belong together, arbitrary where nothing does.
    """
    picture, sound = _picture_onsets(frames), _sound_onsets(waveform, sample_rate)
    length = min(len(picture), len(sound))
    if not length:
        return math.nan
    picture, sound = picture[:length], sound[:length]
    step_hz = VIDEO_FPS * _STEPS_PER_FRAME
    most = min(round(_MAX_LAG_S * step_hz), length - 1)
    padded = np.pad(sound, most)
    # lags[k]: the sound is k - most steps late.
    lags = np.correlate(padded, picture, mode="valid")
    weight = 1 - _LAG_PENALTY * np.abs(np.arange(-most, most + 1)) / max(most, 1)
    scores = lags * weight
    if scores.max(initial=0.0) <= 0:
        return math.nan
    return float((int(scores.argmax()) - most) * 1000 / step_hz)
