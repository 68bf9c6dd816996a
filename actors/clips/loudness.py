"""Integrated loudness after ITU-R BS.1770, and gain to a target."""

import math

import numpy as np
from numpy.typing import NDArray

# The recommendation's blocks last 0.4 s and begin every 0.1 s.
_HOPS_PER_S = 10
_HOPS_PER_BLOCK = 4
_PEAK_DBFS = -1.0


def integrated_lufs(waveform: NDArray[np.floating], sample_rate: int) -> float:
    """Gated loudness of (channels, samples), one or two channels, in LUFS.

    -inf where no block of 0.4 s is above -70 LUFS. A full-scale sine of 997 Hz on one channel has
    -3.01 LUFS.
    """
    hops = waveform.shape[-1] * _HOPS_PER_S // sample_rate
    if hops < _HOPS_PER_BLOCK:
        return -math.inf
    # An incomplete block at the end does not count, but the library would take it for a quiet one.
    whole = waveform[..., : math.ceil(hops * sample_rate / _HOPS_PER_S)]
    # Here, because SciPy's filters take a second to import, and only actors that decode need them.
    # It ships no types.
    from pyloudnorm import Meter  # noqa: PLC0415

    # Its default filters are near to the recommendation's; these are those, at any sample rate.
    meter = Meter(sample_rate, filter_class="DeMan")
    return float(meter.integrated_loudness(whole.T.astype(np.float64)))


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
