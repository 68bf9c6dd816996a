"""25 latents a second with a linear code of log-mel frames, and a vocoder without weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.mel import BANDS, HOP, SAMPLE_RATE, WINDOW, LogMel
from omniforcing_model.codecs.tiny.sine_bank_vocoder import SineBankVocoder
from omniforcing_model.codecs.tiny.whitened_pca import WhitenedPca
from omniforcing_model.errors import ShapeError, WeightsError
from omniforcing_model.latent_clock import (
    AUDIO_LATENTS_PER_SECOND,
    AUDIO_TEMPORAL_STRIDE,
    mel_frames,
)

LATENT_CHANNELS = 16
# -53 dB below a full beep: the noise that AAC leaves between beeps vanishes under it.
MEL_FLOOR = 1e-2
_STEREO = 2
_KIND = "tiny_audio_codec"


def _group_mel(mel: LogMel, waveform: Tensor, latents: int) -> Tensor:
    """(batch, channels, samples) to the mel frames of each latent, (batch, latents, 4 * 64)."""
    if waveform.ndim != 3 or latents < 1:
        raise ShapeError(
            f"expected a waveform (batch, channels, samples) and at least 1 latent, got "
            f"{tuple(waveform.shape)} and {latents}; add the missing axis"
        )
    count = mel_frames(latents)
    samples = max(count * HOP, WINDOW)  # reflection at the borders needs half a window
    mono = waveform.mean(1)[:, :samples]
    frames: Tensor = mel(nn.functional.pad(mono, (0, samples - mono.shape[1])))[:, :count]
    first = frames[:, :1].expand(-1, AUDIO_TEMPORAL_STRIDE, -1)
    grouped = torch.cat((first, frames[:, 1:]), 1)
    return grouped.reshape(-1, latents, AUDIO_TEMPORAL_STRIDE * BANDS)


class TinyAudioCodec(nn.Module):
    """An `AudioCodec` at 16 kHz: 16 channels for 4 mel frames; mono content, given as stereo."""

    def __init__(self, pca: WhitenedPca, floor: float = MEL_FLOOR) -> None:
        super().__init__()
        width = AUDIO_TEMPORAL_STRIDE * BANDS
        if pca.mean.shape != (width,):
            raise WeightsError(
                f"expected groups of {width} mel values, got {tuple(pca.mean.shape)}; "
                "fit the codec again"
            )
        self.pca = pca
        self.mel = LogMel(floor)
        self.vocoder = SineBankVocoder(floor)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.pca.channels

    @property
    def sample_rate(self) -> int:
        """Samples a second, in and out."""
        return SAMPLE_RATE

    @property
    def latents_per_second(self) -> int:
        """Latents a second, after the first."""
        return AUDIO_LATENTS_PER_SECOND

    @classmethod
    def fit(
        cls,
        batches: Iterable[Tensor],
        latents: int,
        channels: int = LATENT_CHANNELS,
        floor: float = MEL_FLOOR,
    ) -> Self:
        """Fit on batches of waveforms, (batch, channels, samples), of `latents` latents each."""
        mel = LogMel(floor)
        groups = [_group_mel(mel, waveform.float(), latents).flatten(0, 1) for waveform in batches]
        return cls(WhitenedPca.fit(torch.cat(groups), channels), floor)

    @torch.no_grad()
    def encode(self, waveform: Tensor, latents: int) -> Tensor:
        """Encode (batch, channels, samples) at 16 kHz to (batch, latents, 16).

        The waveform is padded with silence, or trimmed, to (4 latents - 3) * 160 samples.
        """
        return self.pca.encode(_group_mel(self.mel, waveform.to(self.pca.mean), latents))

    @property
    def context(self) -> int:
        """Latents before one that what it decodes to depends on."""
        return 1

    def decoder(self, first: int = 0) -> "TinyAudioDecoder":
        """A decoder for one new stream, whose first latent has the number `first`."""
        return TinyAudioDecoder(self.pca, self.vocoder, first)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode (batch, latents, 16) to (batch, 2, (4 latents - 3) * 160) at 16 kHz."""
        return self.decoder().decode(latents, final=True)

    def explained_variance(self, waveform: Tensor, latents: int) -> float:
        """Share of the log-mel variance of (batch, channels, samples) that the latents keep."""
        groups = _group_mel(self.mel, waveform.to(self.pca.mean), latents)
        return self.pca.explained_variance(groups.flatten(0, 1))

    def save(self, path: Path) -> None:
        """Write the codec as one safetensors file."""
        self.pca.save(path, _KIND, {"channels": self.latent_channels, "floor": self.mel.floor})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved codec; WeightsError if the file holds something else."""
        pca, settings = WhitenedPca.load(path, _KIND)
        return cls(pca, float(settings["floor"]))


class TinyAudioDecoder:
    """Decodes one stream: 160 samples are held back until the next block, or the end."""

    def __init__(self, pca: WhitenedPca, vocoder: SineBankVocoder, first: int) -> None:
        self._pca = pca
        self._sound = vocoder.stream(mel_frames(first) if first else 0)
        self._started = first > 0

    @property
    def position(self) -> int:
        """Number in the stream of the next sample."""
        return self._sound.position

    @torch.no_grad()
    def decode(self, latents: Tensor, final: bool) -> Tensor:
        """Decode the next (batch, n, 16) to (batch, 2, samples) within [-1, 1].

        From the second block on these are n * 640 samples.
        """
        groups = self._pca.decode(latents.to(self._pca.mean))
        frames = groups.reshape(*groups.shape[:2], AUDIO_TEMPORAL_STRIDE, BANDS)
        if not self._started and latents.shape[1]:
            self._started = True
            first = frames[:, 0].mean(1, keepdim=True)
            log_mel = torch.cat((first, frames[:, 1:].flatten(1, 2)), 1)
        else:
            log_mel = frames.flatten(1, 2)
        return self._sound.synthesise(log_mel, final)[:, None].repeat(1, _STEREO, 1)
