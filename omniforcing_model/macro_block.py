"""The macro-block: one second that both streams share (paper section 3.2, equations 2 and 3).

A layout is data. Block 0 is the global prefix in the `paper` layout (1 video latent, 1 audio
latent, and the sinks) and the first 4 and 26 latents in the `released` one; in both it stays
visible for ever. Every later block holds one second: 3 video and 25 audio latents.
"""

from dataclasses import dataclass

from omniforcing_model.config import LayoutConfig
from omniforcing_model.errors import LayoutError
from omniforcing_model.latent_clock import (
    AUDIO_LATENTS_PER_SECOND,
    VIDEO_LATENTS_PER_SECOND,
    audio_latent_span_s,
    pixel_frames,
    video_latent_span_s,
)
from omniforcing_model.per_stream import PerStream

PER_SECOND = PerStream(VIDEO_LATENTS_PER_SECOND, AUDIO_LATENTS_PER_SECOND)
FIRST_BLOCK = {
    "paper": PerStream(1, 1),
    "released": PerStream(1 + VIDEO_LATENTS_PER_SECOND, 1 + AUDIO_LATENTS_PER_SECOND),
}


@dataclass(frozen=True)
class MacroBlock:
    """Block `index`: the latents [first, first + count) of each stream."""

    index: int
    first: PerStream[int]
    count: PerStream[int]


@dataclass(frozen=True)
class BlockLayout:
    """Cuts both streams into macro-blocks and says which block may see which."""

    config: LayoutConfig

    def block(self, index: int) -> MacroBlock:
        """Block number `index` (0 is the first block of the stream)."""
        first = FIRST_BLOCK[self.config.kind]
        if index == 0:
            return MacroBlock(0, PerStream(0, 0), first)
        start = PerStream(*(f + (index - 1) * n for f, n in zip(first, PER_SECOND, strict=True)))
        return MacroBlock(index, start, PER_SECOND)

    def blocks_for_seconds(self, seconds: int) -> int:
        """Blocks that hold a clip of 1 + 24 * `seconds` frames."""
        if seconds < 1:
            raise LayoutError(f"expected at least 1 second, got {seconds}; ask for a longer stream")
        return seconds + 1 if self.config.kind == "paper" else seconds

    def latents(self, blocks: int) -> PerStream[int]:
        """Latents of the first `blocks` blocks, per stream."""
        last = self.block(blocks - 1)
        return PerStream(*(f + n for f, n in zip(last.first, last.count, strict=True)))

    def blocks_of(self, latents: PerStream[int]) -> int:
        """Number of blocks in a clip of `latents`; LayoutError unless both streams fit."""
        first = FIRST_BLOCK[self.config.kind]
        blocks = max(0, (latents.video - first.video) // PER_SECOND.video) + 1
        if self.latents(blocks) != latents:
            fit = self.latents(blocks)
            raise LayoutError(
                f"expected whole macro-blocks ({fit.video} video and {fit.audio} audio latents make"
                f" {blocks} of layout {self.config.kind}), got {latents.video} and {latents.audio};"
                f" cut the clip to {pixel_frames(fit.video)} frames"
            )
        return blocks

    def block_of_latent(self, latents: PerStream[int]) -> PerStream[list[int]]:
        """Block index tau of every latent (equation 3), per stream."""
        blocks = [self.block(k) for k in range(self.blocks_of(latents))]
        return PerStream(
            [b.index for b in blocks for _ in range(b.count.video)],
            [b.index for b in blocks for _ in range(b.count.audio)],
        )

    def is_visible(self, key_block: int, query_block: int) -> bool:
        """Whether queries of a block may see keys of another: causal, block 0 always, then the
        last `window_blocks` blocks (equations 4 and 5, with the rolling window)."""
        recent = query_block - key_block <= self.config.window_blocks
        return key_block <= query_block and (key_block == 0 or recent)

    def anchor_shift_s(self, query_block: int) -> float:
        """How far block 0 is moved forward in time when `query_block` looks at it, in seconds.

        Once the window has left block 1 behind, block 0 is seen as if it stood right before the
        window, sinks included, so that its distance stays in the range the model was trained on.
        """
        return float(max(0, query_block - self.config.window_blocks - 1))

    def spans_s(self, block: MacroBlock) -> PerStream[list[tuple[float, float]]]:
        """Start and end of each latent of `block`, in seconds since the start of the stream."""
        return PerStream(
            [video_latent_span_s(block.first.video + i) for i in range(block.count.video)],
            [audio_latent_span_s(block.first.audio + i) for i in range(block.count.audio)],
        )
