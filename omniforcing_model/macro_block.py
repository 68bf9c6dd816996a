"""The macro-block: one second that both streams share (paper section 3.2, equations 2 and 3).

A layout is data (`LayoutConfig`). The first block is one of its own: the paper's global prefix
of 1 video latent, 1 audio latent and the sinks, or the first 4 and 26 latents of the released
weights. Every later one holds whole seconds of 3 video and 25 audio latents. The first
`pinned_blocks` stay visible for ever; of the others, those of a rolling window do.
"""

from dataclasses import dataclass

from omniforcing_model.config import LayoutConfig
from omniforcing_model.errors import LayoutError
from omniforcing_model.latent_clock import (
    VIDEO_LATENTS_PER_SECOND,
    audio_latent_span_s,
    frames_for_seconds,
    pixel_frames,
    video_latent_span_s,
    video_latents,
)
from omniforcing_model.per_stream import PerStream


@dataclass(frozen=True)
class MacroBlock:
    """Block `index`: the latents [first, first + count) of each stream."""

    index: int
    first: PerStream[int]
    count: PerStream[int]


@dataclass(frozen=True)
class BlockLayout:
    """Cuts both streams into macro-blocks and says which block may see which, and where."""

    config: LayoutConfig

    @property
    def first_count(self) -> PerStream[int]:
        """Latents of block 0, without the sinks."""
        return PerStream(self.config.first_block.video, self.config.first_block.audio)

    @property
    def following_count(self) -> PerStream[int]:
        """Latents of every later block."""
        return PerStream(self.config.following_block.video, self.config.following_block.audio)

    @property
    def block_seconds(self) -> int:
        """Seconds that every block but the first lasts."""
        return self.following_count.video // VIDEO_LATENTS_PER_SECOND

    def block(self, index: int) -> MacroBlock:
        """Block number `index` (0 is the first block of the stream)."""
        first, following = self.first_count, self.following_count
        if index == 0:
            return MacroBlock(0, PerStream(0, 0), first)
        start = PerStream(*(f + (index - 1) * n for f, n in zip(first, following, strict=True)))
        return MacroBlock(index, start, following)

    def blocks_for_seconds(self, seconds: int) -> int:
        """Whole blocks in a clip of 1 + 24 * `seconds` frames.

        They hold all of it where the first block is a prefix, or ends with the first second. A
        first block of 3 latents leaves the clip's last latent out.

        Raises:
            LayoutError: a second or more of it would be left out.
        """
        if seconds < 1:
            raise LayoutError(f"expected at least 1 second, got {seconds}; ask for a longer stream")
        latents = video_latents(frames_for_seconds(seconds))
        first = self.first_count.video
        if latents < first:
            enough = -(-(first - 1) // VIDEO_LATENTS_PER_SECOND)
            raise LayoutError(
                f"expected at least {enough} seconds, which the first block of {first} video"
                f" latents takes, got {seconds}; ask for a longer stream"
            )
        blocks, left = divmod(latents - first, self.following_count.video)
        if left >= VIDEO_LATENTS_PER_SECOND:
            whole = seconds - left // VIDEO_LATENTS_PER_SECOND
            fit = [str(n) for n in (whole, whole + self.block_seconds) if n]
            raise LayoutError(
                f"expected seconds that end with a macro-block of {self.block_seconds} s,"
                f" {' or '.join(fit)}, got {seconds}; ask for that"
            )
        return 1 + blocks

    def frames_for_seconds(self, seconds: int) -> int:
        """Pixel frames of the whole blocks in a clip of `seconds`."""
        return pixel_frames(self.latents(self.blocks_for_seconds(seconds)).video)

    def latents(self, blocks: int) -> PerStream[int]:
        """Latents of the first `blocks` blocks, per stream."""
        last = self.block(blocks - 1)
        return PerStream(*(f + n for f, n in zip(last.first, last.count, strict=True)))

    def blocks_of(self, latents: PerStream[int]) -> int:
        """Number of blocks in a clip of `latents`; LayoutError unless both streams fit."""
        first, following = self.first_count, self.following_count
        blocks = max(0, (latents.video - first.video) // following.video) + 1
        fit = self.latents(blocks)
        if fit != latents:
            raise LayoutError(
                f"expected whole macro-blocks ({fit.video} video and {fit.audio} audio latents make"
                f" {blocks} of {_numbers(first)} and then {_numbers(following)}), got"
                f" {_numbers(latents)}; cut the clip to {pixel_frames(fit.video)} frames"
            )
        return blocks

    def block_of_latent(self, latents: PerStream[int]) -> PerStream[list[int]]:
        """Block index tau of every latent (equation 3), per stream."""
        blocks = [self.block(k) for k in range(self.blocks_of(latents))]
        return PerStream(
            [b.index for b in blocks for _ in range(b.count.video)],
            [b.index for b in blocks for _ in range(b.count.audio)],
        )

    def sees_own_block_alone(self, across: bool) -> bool:
        """Whether the queries of a pathway, `across` the streams or within one, see no history."""
        return across and self.config.cross_view == "own"

    def is_visible(self, key_block: int, query_block: int, across: bool = False) -> bool:
        """Whether queries of a block may see keys of another: causal, the pinned blocks always,
        then the last `window_blocks` blocks (equations 4 and 5, with the rolling window).

        Args:
            key_block: index of the block that is looked at.
            query_block: index of the block that looks.
            across: whether the keys are of the other stream.
        """
        if self.sees_own_block_alone(across):
            return key_block == query_block
        recent = query_block - key_block <= self.config.window_blocks
        return key_block <= query_block and (self.is_pinned(key_block) or recent)

    def is_pinned(self, block: int) -> bool:
        """Whether a block stays visible for ever."""
        return block < self.config.pinned_blocks

    def anchor_shift_s(self, query_block: int) -> float:
        """How far the pinned blocks are moved forward in time when `query_block` looks at them, in
        seconds.

        Once the window has left a block behind, an anchor that follows is seen as if it stood right
        before the window, sinks included, so that its distance stays in the range the model was
        trained on.
        """
        if self.config.anchor == "stays":
            return 0.0
        behind = query_block - self.config.window_blocks - self.config.pinned_blocks
        return float(max(0, behind) * self.block_seconds)

    @property
    def slots(self) -> int:
        """Blocks that a ring holds beside the pinned ones: the window and the newest one."""
        return self.config.window_blocks + 1

    def slot(self, block: int) -> int:
        """Place in the ring of a block that is not pinned: that of the one that left the window."""
        return (block - self.config.pinned_blocks) % self.slots

    def filled_slots(self, block: int, first: int | None = None) -> int:
        """Places in the ring that hold a block once `block` is there.

        first: the first block that came into the ring; by default that of a whole stream.
        """
        first = self.config.pinned_blocks if first is None else first
        return min(max(0, block + 1 - first), self.slots)

    def blocks_seen(self, layers: int) -> int:
        """How many blocks before one its result depends on, beside the pinned ones.

        What a block sees of another in one layer was made of what that one saw in the layer before:
        through all of them, a window by the stream's own history and one by the other stream's in
        each layer.
        """
        windows = 1 if self.sees_own_block_alone(across=True) else 2
        return windows * layers * self.config.window_blocks

    def replay_from(self, block: int, recent: int) -> int:
        """The first block, beside the pinned ones, that is replayed for a stream to go on at
        `block`: `recent` of them before it or a few more, so that each comes to its own place in
        the ring."""
        pinned = self.config.pinned_blocks
        behind = max(0, block - recent - pinned)
        return min(pinned + behind // self.slots * self.slots, max(block, pinned))

    def spans_s(self, block: MacroBlock) -> PerStream[list[tuple[float, float]]]:
        """Start and end of each latent of `block`, in seconds since the start of the stream."""
        return PerStream(
            [video_latent_span_s(block.first.video + i) for i in range(block.count.video)],
            [audio_latent_span_s(block.first.audio + i) for i in range(block.count.audio)],
        )


def _numbers(latents: PerStream[int]) -> str:
    return f"{latents.video} and {latents.audio}"
