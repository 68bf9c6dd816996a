"""Integrated loudness after ITU-R BS.1770-5, and sound brought to a given one."""

import math

import numpy as np
from numpy.typing import NDArray

# The analogue filters that the recommendation's coefficients at 48 kHz are the bilinear transform
# of: a high shelf (the head), then a high pass. Frequency in Hz, quality; the shelf's gain in dB.
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1681.974450955533, 0.7071752369554196, 3.999843853973347
_SHELF_BAND = 0.4996667741545416
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
_BLOCK_S, _HOP_S = 0.4, 0.1
_OFFSET_LUFS = -0.691
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = 10.0
_PEAK_DBFS = -1.0
_DECAY_S = 1.0

Polynomial = tuple[float, float, float]


def _shelf(sample_rate: int) -> tuple[Polynomial, Polynomial]:
    k = math.tan(math.pi * _SHELF_HZ / sample_rate)
    high = 10 ** (_SHELF_DB / 20)
    band = high**_SHELF_BAND
    return (
        (
            high + band * k / _SHELF_Q + k * k,
            2 * (k * k - high),
            high - band * k / _SHELF_Q + k * k,
        ),
        (1 + k / _SHELF_Q + k * k, 2 * (k * k - 1), 1 - k / _SHELF_Q + k * k),
    )


def _high_pass(sample_rate: int) -> tuple[Polynomial, Polynomial]:
    k = math.tan(math.pi * _HIGH_PASS_HZ / sample_rate)
    scale = 1 + k / _HIGH_PASS_Q + k * k
    return (
        # The recommendation leaves the numerator at 1, -2, 1.
        (scale, -2 * scale, scale),
        (scale, 2 * (k * k - 1), 1 - k / _HIGH_PASS_Q + k * k),
    )


def _weighted(waveform: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """K-weighted sound, filtered in the spectrum; the silence behind it takes the filters' tail."""
    samples = waveform.shape[-1]
    size = 1 << (samples + round(_DECAY_S * sample_rate)).bit_length()
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    spectrum = np.fft.rfft(waveform.astype(np.float64), size)
    for over, under in (_shelf(sample_rate), _high_pass(sample_rate)):
        spectrum = spectrum * np.polyval(over[::-1], delay) / np.polyval(under[::-1], delay)
    filtered: NDArray[np.float64] = np.fft.irfft(spectrum, size)[..., :samples]
    return filtered


def _lufs(power: float) -> float:
    return _OFFSET_LUFS + 10 * math.log10(power) if power > 0 else -math.inf


def integrated_lufs(waveform: NDArray[np.floating], sample_rate: int) -> float:
    """Gated loudness of (channels, samples), one or two channels, in LUFS.

    -inf where no block of 0.4 s is above -70 LUFS. A full-scale sine of 997 Hz on one channel has
    -3.01 LUFS.
    """
    block, hop = round(_BLOCK_S * sample_rate), round(_HOP_S * sample_rate)
    samples = waveform.shape[-1]
    if samples < block:
        return -math.inf
    squares = np.square(_weighted(waveform, sample_rate)).sum(axis=0)
    sums = np.concatenate(([0.0], np.cumsum(squares)))
    starts = np.arange(0, samples - block + 1, hop)
    powers = (sums[starts + block] - sums[starts]) / block
    powers = powers[powers > 10 ** ((_ABSOLUTE_GATE_LUFS - _OFFSET_LUFS) / 10)]
    if not len(powers):
        return -math.inf
    powers = powers[powers > powers.mean() * 10 ** (-_RELATIVE_GATE_LU / 10)]
    return _lufs(float(powers.mean()))


def with_gain(
    waveform: NDArray[np.float32], measured_lufs: float, target_lufs: float
) -> NDArray[np.float32]:
    """Sound, (channels, samples), of `measured_lufs` with the gain that makes it `target_lufs`.

    The gain is smaller where the highest sample would pass -1 dBFS; silence is left as it is.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    if not math.isfinite(measured_lufs) or peak == 0:
        return waveform
    gain = min(10 ** ((target_lufs - measured_lufs) / 20), 10 ** (_PEAK_DBFS / 20) / peak)
    return waveform * np.float32(gain)
