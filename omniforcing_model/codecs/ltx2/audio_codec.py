"""LTX-2's audio VAE and vocoder behind the codec protocol: diffusers' classes, decoded as a stream.

Always float32, and not TF32 on a GPU: a vocoder in bfloat16 is audibly noisy.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.ltx2.exact_float32 import exact_float32
from omniforcing_model.codecs.ltx2.mel_decoder import MelChunkDecoder, mel_reach, require_causal
from omniforcing_model.codecs.ltx2.pretrained import load_pretrained
from omniforcing_model.codecs.ltx2.single_file import read_part
from omniforcing_model.codecs.ltx2.vocoder_reach import samples_per_frame, vocoder_reach
from omniforcing_model.codecs.mel import HOP, LTX2_FLOOR, SAMPLE_RATE, WINDOW, LogMel
from omniforcing_model.errors import ShapeError, WeightsError
from omniforcing_model.latent_clock import (
    AUDIO_LATENTS_PER_SECOND,
    AUDIO_TEMPORAL_STRIDE,
    mel_frames,
)

_STEREO = 2


class Ltx2AudioCodec(nn.Module):
    """An `AudioCodec` of diffusers' `AutoencoderKLLTX2Audio` with a vocoder of LTX-2.0 or 2.3.

    `encode` takes sound of 16 kHz; `decode` gives 24 kHz with the vocoder of 2.0, 48 kHz with that
    of 2.3.
    """

    def __init__(self, vae: Any, vocoder: Any) -> None:
        """Wrap both; WeightsError if they cannot be streamed, or do not fit each other."""
        super().__init__()
        require_causal(vae.config)
        if vae.config.sample_rate != SAMPLE_RATE or vae.config.mel_hop_length != HOP:
            raise WeightsError(
                f"expected an audio VAE of {SAMPLE_RATE} Hz with a mel frame every {HOP} samples,"
                f" got {vae.config.sample_rate} Hz and {vae.config.mel_hop_length}; take the one"
                " of LTX-2.0 or 2.3"
            )
        bands = int(vae.config.mel_bins)
        if vocoder.config.in_channels != _STEREO * bands:
            raise WeightsError(
                f"expected a vocoder of {_STEREO} x {bands} mel bands, got"
                f" {vocoder.config.in_channels} in all; take the vocoder beside the audio VAE"
            )
        self.vae = vae.float().eval().requires_grad_(False)
        self.vocoder = vocoder.float().eval().requires_grad_(False)
        self.mel = LogMel(LTX2_FLOOR, bands)
        self.reach = vocoder_reach(vocoder)
        self.samples_per_frame = samples_per_frame(vocoder)

    @classmethod
    def load(cls, vae: Path, vocoder: Path) -> Self:
        """Read two diffusers folders, or LTX-2's single file given twice.

        WeightsError if they do not hold exactly such models.
        """
        if vae.is_file():
            return cls(read_part("audio_vae", vae), read_part("vocoder", vocoder))
        # Here, because diffusers is an optional dependency and takes seconds to import.
        from diffusers import AutoencoderKLLTX2Audio  # noqa: PLC0415
        from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE  # noqa: PLC0415

        audio_vae = load_pretrained(AutoencoderKLLTX2Audio, vae)
        extends = "bwe_hidden_channels" in LTX2Vocoder.load_config(str(vocoder))
        kind = LTX2VocoderWithBWE if extends else LTX2Vocoder
        return cls(audio_vae, load_pretrained(kind, vocoder))

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 8 channels of 16 bins, packed."""
        return len(self.vae.latents_mean)

    @property
    def sample_rate(self) -> int:
        """Samples a second, of what `decode` gives."""
        return int(self.vocoder.config.output_sampling_rate)

    @property
    def latents_per_second(self) -> int:
        """Latents a second, after the first."""
        return AUDIO_LATENTS_PER_SECOND

    @torch.no_grad()
    @exact_float32()
    def encode(self, waveform: Tensor, latents: int) -> Tensor:
        """Encode (batch, 1 or 2, samples) at 16 kHz to (batch, latents, 128), normalised.

        Mono becomes stereo. Sound that is too short is padded with silence; of what is longer, the
        end does not count.
        """
        if waveform.ndim != 3 or waveform.shape[1] not in (1, _STEREO) or latents < 1:
            raise ShapeError(
                f"expected a waveform (batch, 1 or {_STEREO}, samples) and at least 1 latent, got "
                f"{tuple(waveform.shape)} and {latents}; mix down or add the missing axis"
            )
        count = mel_frames(latents)
        # The last frame is centred on sample 160 * (count - 1) and reads half a window past it;
        # where the sound ends before, it is mirrored, and that needs half a window too.
        sound = waveform[..., : (count - 1) * HOP + WINDOW // 2 + 1].to(self.vae.device)
        missing = max(count * HOP, WINDOW) - sound.shape[-1]
        sound = nn.functional.pad(sound.float(), (0, max(0, missing)))
        mel = self.mel(sound.expand(-1, _STEREO, -1).flatten(0, 1))[:, :count]
        mean: Tensor = self.vae.encode(mel.unflatten(0, (-1, _STEREO))).latent_dist.mode()
        packed = mean.transpose(1, 2).flatten(2)
        normalised: Tensor = (packed - self.vae.latents_mean) / self.vae.latents_std
        return normalised

    @property
    def context(self) -> int:
        """Latents before one that what it decodes to depends on: of the VAE's decoder, and those of
        the mel frames that the vocoder reads."""
        frames = self.reach.left + self.reach.right
        return mel_reach(self.vae.decoder) + -(-frames // AUDIO_TEMPORAL_STRIDE)

    def decoder(self, first: int = 0) -> "Ltx2AudioDecoder":
        """A decoder for one new stream, whose first latent has the number `first`."""
        return Ltx2AudioDecoder(self, first)

    @torch.no_grad()
    @exact_float32()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (batch, n, 128) to (batch, 2, (4 n - 3) * samples per mel frame) in [-1, 1]."""
        return self.vocode(self.vae.decoder(self.prepare(latents)))

    def prepare(self, latents: Tensor) -> Tensor:
        """Normalised latents (batch, n, 128) to what the VAE decodes, (batch, 8, n, 16)."""
        mean, std = self.vae.latents_mean, self.vae.latents_std
        channels = int(self.vae.config.latent_channels)
        unpacked: Tensor = (latents.to(mean) * std + mean).unflatten(2, (channels, -1))
        return unpacked.transpose(1, 2)

    def vocode(self, mel: Tensor) -> Tensor:
        """Log-mel frames (batch, 2, frames, bands) to samples (batch, 2, samples) in [-1, 1]."""
        waveform: Tensor = self.vocoder(mel)
        return waveform.clamp(-1, 1)


class Ltx2AudioDecoder:
    """Decodes one stream; made by `Ltx2AudioCodec.decoder`.

    The mel frames are exact at once. The last of them wait for the next block, since the vocoder
    reads frames on both sides: 17 of them, 0.17 s, in LTX-2.0.
    """

    def __init__(self, codec: Ltx2AudioCodec, first: int) -> None:
        self._codec = codec
        self._chunks = MelChunkDecoder(codec.vae.decoder, started=first > 0)
        self._mel: Tensor | None = None  # frames that are still needed
        # Number of the first of them in the stream, and of those whose samples are out.
        self._first = self._emitted = mel_frames(first) if first else 0

    @property
    def position(self) -> int:
        """Number in the stream of the next sample."""
        return self._emitted * self._codec.samples_per_frame

    @torch.no_grad()
    @exact_float32()
    def decode(self, latents: Tensor, final: bool) -> Tensor:
        """Decode the next (batch, n, 128) to (batch, 2, samples) in [-1, 1], float32."""
        if latents.shape[1]:
            new = self._chunks.decode(self._codec.prepare(latents))
            self._mel = new if self._mel is None else torch.cat((self._mel, new), 2)
        known = 0 if self._mel is None else self._first + self._mel.shape[2]
        until = known if final else known - self._codec.reach.right
        if self._mel is None or until <= self._emitted:
            return torch.zeros((latents.shape[0], _STEREO, 0), device=latents.device)
        per_frame = self._codec.samples_per_frame
        start, end = (self._emitted - self._first) * per_frame, (until - self._first) * per_frame
        waveform = self._codec.vocode(self._mel)[..., start:end]
        self._emitted = until
        first = max(0, until - self._codec.reach.left)
        # A copy: a view would keep what is no longer needed.
        self._mel = self._mel[:, :, first - self._first :].clone()
        self._first = first
        return waveform
