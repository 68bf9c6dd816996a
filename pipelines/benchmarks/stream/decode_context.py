"""What streaming the video decoder costs in fidelity, over context and look-ahead.

LTX-2's shipped video decoder looks at both sides of a frame. In a stream it sees `left` latents of
the past and `right` of the future; the figures here say how far the frames are from the whole
clip's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor

from omniforcing_model.codecs.ltx2.video_codec import Ltx2VideoCodec, VideoDecoding

LEFTS: tuple[int | None, ...] = (0, 2, 4, 8, None)
RIGHTS: tuple[int, ...] = (0, 1, 2, 4)
# From darkest to brightest, in [-1, 1].
_RANGE = 2.0
_LATENTS_PER_BLOCK = 3


@dataclass(frozen=True)
class DecodeContextError:
    """A stream with this context against the whole clip.

    left: latents decoded again before each block; None carries the convolutions' rows over.
    right: latents held back. relative_error: norm of the difference by that of the whole clip's
    frames. psnr_db: peak signal-to-noise ratio; infinite where nothing differs.
    """

    left: int | None
    right: int
    relative_error: float
    psnr_db: float


def decode_context_errors(
    codec: Ltx2VideoCodec,
    latents: Tensor,
    lefts: Sequence[int | None] = LEFTS,
    rights: Sequence[int] = RIGHTS,
    advance: Callable[[], None] = lambda: None,
) -> list[DecodeContextError]:
    """Measure every pair of `lefts` and `rights` on one clip; `advance` is called after each.

    The clip streams as the model makes it: its first latent, then blocks of 3. The whole clip is
    decoded as the checkpoint says, whatever the codec is set to.

    latents: (batch, 1 + 3 k, channels, h, w), normalised.
    """
    whole = Ltx2VideoCodec(codec.vae, VideoDecoding("shipped")).decode(latents)
    errors = []
    for left in lefts:
        for right in rights:
            streamed = _stream(
                Ltx2VideoCodec(codec.vae, VideoDecoding("shipped", left, right)), latents
            )
            difference = (streamed - whole).double()
            mean_square = float(difference.square().mean())
            errors.append(
                DecodeContextError(
                    left=left,
                    right=right,
                    relative_error=float(difference.norm() / whole.double().norm()),
                    psnr_db=10 * log10(_RANGE**2 / mean_square) if mean_square else inf,
                )
            )
            advance()
    return errors


def _stream(codec: Ltx2VideoCodec, latents: Tensor) -> Tensor:
    decoder = codec.decoder()
    blocks = [latents[:, :1], *latents[:, 1:].split(_LATENTS_PER_BLOCK, 1)]
    last = len(blocks) - 1
    return torch.cat(
        [decoder.decode(block, place == last) for place, block in enumerate(blocks)], 1
    )
