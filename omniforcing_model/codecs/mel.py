"""LTX-2's mel front end: 64 Slaney bands of a 1024-point spectrum, 100 frames a second."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from omniforcing_model.latent_clock import MEL_FRAMES_PER_SECOND

SAMPLE_RATE = 16_000
WINDOW = 1024
HOP = SAMPLE_RATE // MEL_FRAMES_PER_SECOND
BANDS = 64
MAX_HZ = 8_000.0
LTX2_FLOOR = 1e-5

# Slaney's scale: linear below 1 kHz, then 27 steps for each factor of 6.4.
_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _HZ_PER_MEL
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _band_edges_hz(bands: int) -> NDArray[np.float64]:
    mels = np.linspace(0.0, _hz_to_mel(MAX_HZ), bands + 2)
    logarithmic = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels - _LOG_FROM_MEL))
    return np.where(mels < _LOG_FROM_MEL, mels * _HZ_PER_MEL, logarithmic)


def band_centres_hz() -> NDArray[np.float64]:
    """Centre frequencies of the bands, (64,), in Hz."""
    return _band_edges_hz(BANDS)[1:-1]


def _triangles(bands: int) -> NDArray[np.float64]:
    """Filters of unit area, (spectrum bins, bands)."""
    bins = np.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1)[:, None]
    edges = _band_edges_hz(bands)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * 2.0 / (high - low)


class LogMel(nn.Module):
    """Log of the mel magnitudes; frame m is centred on sample 160 m.

    `floor` bounds the magnitude from below: LTX-2 takes 1e-5. `bands` is 64 for every codec that
    shares LTX-2's weights; the shapes below are for those.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, floor: float = LTX2_FLOOR, bands: int = BANDS) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        filters = torch.from_numpy(_triangles(bands)).float()
        self.register_buffer("filters", filters, persistent=False)

    def magnitudes(self, waveform: Tensor) -> Tensor:
        """(batch, samples), more than 512 of them, to (batch, 1 + samples // 160, 64)."""
        spectrum = torch.stft(
            waveform,
            WINDOW,
            hop_length=HOP,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return spectrum.abs().transpose(1, 2) @ self.filters

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at 16 kHz to log-mel, (batch, 1 + samples // 160, 64)."""
        return self.magnitudes(waveform).clamp(min=self.floor).log()
