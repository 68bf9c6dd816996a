"""Blocks of a stream that was computed elsewhere, from which it goes on here.

A stream is small: clean latents make its keys and values again, and of those the next block sees
the pinned blocks and a bounded number of the last ones (`BlockLayout.blocks_seen`). All of these
give what the whole stream gives, bit for bit; fewer give nearly that.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from torch import Tensor

from omniforcing_model.errors import StreamStateError
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

Past = Mapping[int, PerStream[Tensor]]


class Replayed(Protocol):
    """A stream that takes blocks."""

    def skip_to(self, block: int) -> None:
        """Let the next block be `block`, before which only the pinned ones are seen."""
        ...

    def force_block(self, latents: PerStream[Tensor]) -> None:
        """Take `latents` as the next block instead of denoising one."""
        ...


def needed_blocks(layout: BlockLayout, next_block: int, recent: int) -> list[int]:
    """Numbers of the blocks from which a stream goes on at `next_block`: the pinned ones, and
    at least `recent` of the last ones, where there are so many."""
    pinned = range(min(next_block, layout.config.pinned_blocks))
    return [*pinned, *range(layout.replay_from(next_block, recent), next_block)]


def replay(stream: Replayed, past: Past, layout: BlockLayout) -> None:
    """Let a new stream go on after `past`, as if it had streamed the blocks itself.

    Args:
        stream: at its beginning.
        past: clean latents (batch, ...) by block; as `needed_blocks` says.
        layout: of the model.

    Raises:
        StreamStateError: other blocks.
        ShapeError: what is given is not latents of its block.
    """
    _check(layout, past.keys())
    expected = 0
    for block in sorted(past):
        if block != expected:
            stream.skip_to(block)
        stream.force_block(past[block])
        expected = block + 1


def _check(layout: BlockLayout, blocks: Collection[int]) -> None:
    following = max(blocks, default=-1) + 1
    pinned = range(min(following, layout.config.pinned_blocks))
    recent = sorted(set(blocks) - set(pinned))
    count = following - recent[0] if recent else 0
    if sorted(blocks) != needed_blocks(layout, following, count):
        raise StreamStateError(
            f"expected the pinned blocks and the last ones of a stream, from one that begins the"
            f" ring, got blocks {sorted(blocks)}; take those that needed_blocks names"
        )
