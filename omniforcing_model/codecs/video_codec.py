"""The protocol of a video codec: encode clips, decode a stream of latents.

Pictures are (batch, frames, 3, height, width) in [-1, 1]; latents are
(batch, latents, channels, height / spatial_stride, width / spatial_stride), normalised. The first
latent holds the first frame alone, every later one `temporal_stride` frames.
"""

from typing import Protocol

from torch import Tensor


class StreamingVideoDecoder(Protocol):
    """Decodes one stream, block after block; carries its own left context."""

    def decode(self, latents: Tensor, final: bool) -> Tensor:
        """Decode the next latents, (batch, n, channels, h, w), to (batch, m, 3, height, width).

        A codec with look-ahead holds frames back until it may; `final` releases them all.
        """
        ...


class VideoCodec(Protocol):
    """A video codec with LTX-2's strides in time."""

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent, in height and in width."""
        ...

    @property
    def temporal_stride(self) -> int:
        """Frames per latent, from the second latent on."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Encode (batch, 8k + 1, 3, height, width) to k + 1 latents.

        Raises LayoutError for another count of frames."""
        ...

    @property
    def context(self) -> int:
        """Latents before one that what it decodes to depends on."""
        ...

    def decoder(self, first: int = 0) -> StreamingVideoDecoder:
        """A decoder for one new stream.

        first: number in the stream of the first latent that it is given. What comes of `context`
            latents from there on is not the stream's own, if the stream did not begin with them.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode a whole clip; the same frames as `decoder()` gives in blocks.

        A decoder that looks further ahead than its stream waits gives nearly the same.
        """
        ...
