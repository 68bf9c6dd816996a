"""Blocks of a stream that was computed elsewhere, from which it goes on here.

A stream is small: clean latents make its keys and values again, and of those the next block sees
the pinned blocks and a bounded number of the last ones (`BlockLayout.blocks_seen`). All of these
give what the whole stream gives, bit for bit; fewer give nearly that.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from omniforcing_model.errors import StreamStateError
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

Past = Mapping[int, PerStream[Tensor]]


class Replayed(Protocol):
    """A stream that takes blocks."""

    @property
    def block_index(self) -> int:
        """Of the next block."""
        ...

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
    """Let a stream go on after `past`, as if it had streamed the blocks itself.

    Args:
        stream: at its beginning, or after the blocks of an earlier call.
        past: clean latents (batch, ...) by block; together with those of earlier calls, blocks as
            `needed_blocks` names them.
        layout: of the model.

    Raises:
        StreamStateError: other blocks.
        ShapeError: what is given is not latents of its block.
    """
    for block in sorted(past):
        if block != stream.block_index:
            if not _may_skip(layout, stream.block_index, block):
                raise StreamStateError(
                    f"expected block {stream.block_index} of a stream, or after the pinned ones one"
                    f" that begins the ring, got block {block}; take those that needed_blocks names"
                )
            stream.skip_to(block)
        stream.force_block(past[block])


def _may_skip(layout: BlockLayout, reached: int, block: int) -> bool:
    return reached == layout.config.pinned_blocks < block and layout.slot(block) == 0
