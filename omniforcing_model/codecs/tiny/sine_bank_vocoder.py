"""A vocoder without weights: one sinusoid per mel band, exact over any length of stream."""

import math

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.mel import BANDS, HOP, SAMPLE_RATE, LogMel, band_centres_hz
from omniforcing_model.kernels.placement import to_device

_PROBE_FRAMES = 64


def _band_response(mel: LogMel) -> Tensor:
    """Mel magnitudes of unit sinusoids, (bands, sinusoids), averaged over their phase."""
    samples = torch.arange(_PROBE_FRAMES * HOP, dtype=torch.float64)
    cycles = torch.from_numpy(band_centres_hz())[:, None] * samples / SAMPLE_RATE
    magnitudes = mel.magnitudes(torch.sin(2 * math.pi * cycles).float())
    inner = slice(_PROBE_FRAMES // 4, -_PROBE_FRAMES // 4)  # away from the reflected borders
    return magnitudes[:, inner].mean(1).T


def _segment_table() -> Tensor:
    """What one hop of samples adds up, (4 * bands, 160).

    Within a hop, amplitude goes linearly from a to b and the phase starts at p: the samples are
    (a (1 - u) + b u) sin(p + w s), linear in (a sin p, a cos p, b sin p, b cos p).
    """
    sample = torch.arange(HOP, dtype=torch.float64)
    angle = 2 * math.pi * torch.from_numpy(band_centres_hz())[:, None] * sample / SAMPLE_RATE
    fade_in = sample / HOP
    carriers = torch.cat((angle.cos(), angle.sin()))
    return torch.cat((carriers * (1 - fade_in), carriers * fade_in)).float()


class SineBankVocoder(nn.Module):
    """Log-mel frames to sound by 64 sinusoids at the band centres.

    Phases run with absolute time, so blocks join without a seam. Frame m is heard at sample 160 m.
    """

    inverse: Tensor
    table: Tensor
    cycles_per_hop: Tensor
    first_turns: Tensor

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor
        response = _band_response(LogMel(floor))
        inverse = torch.linalg.pinv(response.double()).float()
        self.register_buffer("inverse", inverse, persistent=False)
        self.register_buffer("table", _segment_table(), persistent=False)
        # float64 for ever: an hour of float32 phase would be off by whole turns.
        self.cycles_per_hop = torch.from_numpy(band_centres_hz()) * HOP / SAMPLE_RATE
        # Schroeder's phases: were all zero, every stream would begin with a click of all bands.
        self.first_turns = torch.arange(BANDS, dtype=torch.float64) ** 2 / (2 * BANDS)

    def amplitudes(self, log_mel: Tensor) -> Tensor:
        """Log-mel, (batch, frames, 64), to amplitudes of the sinusoids, (batch, frames, 64)."""
        # A band at the floor may hold anything quieter: it is silent.
        magnitudes = (log_mel.float().exp() - self.floor).clamp(min=0)
        return (magnitudes @ self.inverse.T).clamp(min=0)

    def stream(self, first: int = 0) -> "SineBankStream":
        """A vocoder stream that begins with mel frame `first`."""
        return SineBankStream(self, first)


class SineBankStream:
    """Turns the mel frames of one stream into samples.

    The samples after the newest frame need the next one: 160 samples are held back.
    """

    def __init__(self, vocoder: SineBankVocoder, first: int) -> None:
        self._vocoder = vocoder
        self._frame = first
        self._last: Tensor | None = None

    @property
    def position(self) -> int:
        """Number in the stream of the next sample."""
        return self._frame * HOP

    @torch.no_grad()
    def synthesise(self, log_mel: Tensor, final: bool) -> Tensor:
        """Next frames, (batch, n, 64), to mono samples, (batch, 160 m), within [-1, 1].

        m = n, less one in the first call; `final` adds the held hop, on the last frame's loudness.
        """
        vocoder = self._vocoder
        amplitudes = vocoder.amplitudes(log_mel.to(vocoder.table.device))
        if self._last is not None:
            amplitudes = torch.cat((self._last, amplitudes), 1)
        self._last = amplitudes[:, -1:] if amplitudes.shape[1] else None
        if final:
            amplitudes = torch.cat((amplitudes, amplitudes[:, -1:]), 1)
        hops = max(0, amplitudes.shape[1] - 1)
        frames = torch.arange(self._frame, self._frame + hops, dtype=torch.float64)
        self._frame += hops
        turns = torch.remainder(frames[:, None] * vocoder.cycles_per_hop + vocoder.first_turns, 1.0)
        phase = to_device(2 * math.pi * turns, vocoder.table.device)
        # The order of the factors is that of the table: cos(w s) belongs to sin(p).
        start = torch.cat((phase.sin(), phase.cos()), 1).float()
        old, new = amplitudes[:, :hops], amplitudes[:, 1 : hops + 1]
        parts = torch.cat((old.repeat(1, 1, 2) * start, new.repeat(1, 1, 2) * start), 2)
        return (parts @ vocoder.table).flatten(1).clamp(-1, 1)
