"""The protocol of an audio codec: encode waveforms, decode a stream of latents.

Waveforms are (batch, channels, samples) in [-1, 1]: at 16 kHz (mel.SAMPLE_RATE) to encode them, at
`sample_rate` once decoded. Latents are (batch, latents, channels), normalised. The first latent
holds the first mel frame alone, every later one four mel frames.
"""

from typing import Protocol

from torch import Tensor


class StreamingAudioDecoder(Protocol):
    """Decodes one stream, block after block; carries its own left context."""

    @property
    def position(self) -> int:
        """Number in the stream of the next sample."""
        ...

    def decode(self, latents: Tensor, final: bool) -> Tensor:
        """Decode the next latents, (batch, n, channels), to stereo, (batch, 2, samples).

        A codec with look-ahead holds samples back until it may; `final` releases them all.
        """
        ...


class AudioCodec(Protocol):
    """An audio codec with LTX-2's 25 latents a second."""

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def sample_rate(self) -> int:
        """Samples a second, of what `decode` gives."""
        ...

    @property
    def latents_per_second(self) -> int:
        """Latents a second, after the first."""
        ...

    def encode(self, waveform: Tensor, latents: int) -> Tensor:
        """Encode (batch, channels, samples) to `latents` latents; pads with silence, or trims."""
        ...

    @property
    def context(self) -> int:
        """Latents before one that what it decodes to depends on."""
        ...

    def decoder(self, first: int = 0) -> StreamingAudioDecoder:
        """A decoder for one new stream.

        first: number in the stream of the first latent that it is given. What comes of `context`
            latents from there on is not the stream's own, if the stream did not begin with them.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode a whole clip to (batch, 2, samples); the same samples as in blocks."""
        ...
