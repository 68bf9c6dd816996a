"""What a clip must be to be trained on, and how far its sound lags behind its picture.

Each gate gives None, or the reason that stands in the outcomes and a sentence on it.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.config import DataConfig, GatesConfig
from infra.dataset.reasons import Reason
from infra.media.files import ClipProbe
from infra.media.packets import PacketTimes
from omniforcing_model.latent_clock import VIDEO_FPS

# Clips are cut by people and programs who round.
ROUNDING_S = 0.01
_MB = 1_000_000
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


class Refusal(NamedTuple):
    """Why a gate refuses a clip."""

    reason: Reason
    sentence: str


def error_line(error: Exception, path: Path | None, name: str) -> str:
    """One line on what is wrong with the clip called `name`, wherever a copy of it lies."""
    text = str(error) if path is None else str(error).replace(str(path), name)
    return " ".join(text.split())


def file_refusal(size_bytes: int, gates: GatesConfig) -> Refusal | None:
    """The gate that needs only the file's size."""
    size_mb = size_bytes / _MB
    if size_mb > gates.max_file_mb:
        return Refusal(
            Reason.TOO_LARGE, f"expected at most {gates.max_file_mb:g} MB, got {size_mb:.1f} MB"
        )
    return None


def header_refusal(clip: ClipProbe, data: DataConfig) -> Refusal | None:
    """The gates that need only the headers, cheapest first; sizes are those that are stored."""
    gates = data.gates
    pixels = clip.width * clip.height
    if pixels > gates.max_source_pixels:
        return Refusal(
            Reason.TOO_MANY_PIXELS,
            f"expected at most {gates.max_source_pixels} pixels, got {clip.width} x {clip.height}",
        )
    if clip.height < gates.min_height or clip.width < gates.min_width:
        return Refusal(
            Reason.LOW_RESOLUTION,
            f"expected at least {gates.min_width} x {gates.min_height}, got {clip.width} x"
            f" {clip.height}",
        )
    return _length_refusal(clip.duration_s, data)


def _length_refusal(seconds: float, data: DataConfig) -> Refusal | None:
    longest = data.gates.max_seconds
    if seconds < data.seconds - ROUNDING_S:
        return Refusal(Reason.TOO_SHORT, f"expected at least {data.seconds} s, got {seconds:.2f} s")
    if seconds > longest:
        return Refusal(Reason.TOO_LONG, f"expected at most {longest:g} s, got {seconds:.1f} s")
    return None


def packet_refusal(packets: PacketTimes, has_audio: bool, data: DataConfig) -> Refusal | None:
    """The gates that are certain only once all packets were read."""
    gates = data.gates
    if refusal := _length_refusal(packets.video_s, data):
        return refusal
    if not has_audio:
        return Refusal(Reason.NO_AUDIO, "expected a sound track, got none")
    # Sound is stored in whole packets, one of them before the beginning for decoders to settle.
    padding_s = 2 * packets.audio_packet_s
    if abs(packets.video_s - packets.audio_s) > gates.max_track_drift_s + padding_s:
        return Refusal(
            Reason.TRACK_DRIFT,
            f"expected tracks of one length within {gates.max_track_drift_s:g} s, got"
            f" {packets.video_s:.2f} s of picture and {packets.audio_s:.2f} s of sound",
        )
    if packets.frame_jitter > gates.max_frame_jitter:
        return Refusal(
            Reason.VARIABLE_FRAME_RATE,
            f"expected frames of one spacing within {gates.max_frame_jitter:g} of it, got"
            f" {packets.frame_jitter:.2f}",
        )
    return None


def signal_refusal(
    frames: NDArray[np.uint8], waveform: NDArray[np.float32], gates: GatesConfig
) -> Refusal | None:
    """The gates that need frames, (frames, height, width, 3), and sound, (channels, samples)."""
    loudness_dbfs = rms_dbfs(waveform)
    if loudness_dbfs < gates.silence_dbfs:
        return Refusal(
            Reason.SILENCE,
            f"expected sound above {gates.silence_dbfs:g} dBFS, got {loudness_dbfs:.0f} dBFS",
        )
    at_full_scale = float(np.mean(np.abs(waveform) >= _FULL_SCALE))
    if at_full_scale > gates.max_clipped_share:
        return Refusal(
            Reason.CLIPPING,
            f"expected at most {gates.max_clipped_share:g} of samples at full scale, got"
            f" {at_full_scale:.3f}",
        )
    frozen = frozen_share(frames)
    if frozen > gates.max_frozen_share:
        return Refusal(
            Reason.FROZEN_PICTURE,
            f"expected at most {gates.max_frozen_share:g} of frames to repeat the one before, got"
            f" {frozen:.3f}",
        )
    return None


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
