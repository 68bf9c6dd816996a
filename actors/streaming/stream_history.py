"""What is kept of a stream so that it can go on elsewhere: clean latents, and a bounded number."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniforcing_model.config import LayoutConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.replay import needed_blocks

Latents = PerStream[NDArray[np.float32] | None]  # (frames, ...); None where a half has no part
PastBlocks = Mapping[int, Latents]


class HistoryRule(NamedTuple):
    """What a stream needs of its past: blocks as `layout` cuts them, and how many of the last ones.

    recent: all that the next block sees (`BlockLayout.blocks_seen`), or fewer.
    """

    layout: LayoutConfig
    recent: int


class StreamHistory:
    """The blocks of one stream that a replay needs."""

    def __init__(self, rule: HistoryRule) -> None:
        self._layout = BlockLayout(rule.layout)
        self._recent = rule.recent
        self._blocks: dict[int, Latents] = {}
        self.next_block = 0

    def keep(self, index: int, latents: Latents) -> None:
        """Take block `index`, the next one; what no replay needs any more is let go."""
        self._blocks[index] = latents
        self.next_block = index + 1
        needed = needed_blocks(self._layout, self.next_block, self._recent)
        for block in self._blocks.keys() - set(needed):
            del self._blocks[block]

    def chunks(self, blocks: int) -> Iterator[dict[int, Latents]]:
        """What is kept, in the order in which it is replayed, `blocks` at a time."""
        numbers = sorted(self._blocks)
        for start in range(0, len(numbers), blocks):
            yield {number: self._blocks[number] for number in numbers[start : start + blocks]}

    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(
            x.nbytes for own in self._blocks.values() for _, x in own.present() if x is not None
        )
