"""Streams of a batch against the rolling cache, each at a block of its own.

What differs between blocks and rows is in tensors of fixed shape: rotations, places in the ring,
and what of it is filled. They are written between passes, so one captured pass serves every block
of a stream, and rows come and go without a new one. Block 0 has other tokens than the rest, so a
row computes it alone (`CachedView` of that row).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from omniforcing_model.kernels.operands import Slot
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.attention_view import (
    KEY_STREAM,
    KeysValuesMask,
    Pathway,
    StreamRotations,
    one_column,
    rotations_at,
)


class RowPlaces:
    """Where every row of a cache is: the tensors that its passes read."""

    def __init__(self, cache: RollingCache) -> None:
        self.cache = cache
        rows, device = cache.rows, cache.device
        self.rotations = self._turns_of(1).map(lambda turns: _like(turns, rows))
        spans = {stream: cache.span(stream, 1) for stream in STREAMS}
        self.tokens = PerStream(*(span.end - span.start for span in spans.values()))
        self.places = {
            stream: torch.zeros(rows, tokens, dtype=torch.long, device=device)
            for stream, tokens in zip(STREAMS, self.tokens, strict=True)
        }
        # A row without a stream sees all of its buffers: what it computes is nobody's.
        self.visible = {
            stream: torch.ones(rows, 1, 1, cache.length(stream), dtype=torch.bool, device=device)
            for stream in STREAMS
        }
        self._block: list[int | None] = [None] * rows
        for row in range(rows):
            self._put_aside(row)

    def move(self, row: int, block: int) -> None:
        """Put a row at `block`, which is not block 0, for the passes that follow.

        A row at rest takes part in passes that are not its own. What they write there is not read:
        it is the place of its next block, which nobody sees before the row has computed it.
        """
        if self._block[row] == block:
            return
        self.cache.see_from(block, row)
        for own, new in zip(self._tensors(), _tensors_of(self._turns_of(block)), strict=True):
            own[row].copy_(new)
        for stream in STREAMS:
            start, end, filled = self.cache.span(stream, block, row)
            self.places[stream][row].copy_(_range(start, end, self.cache.device))
            visible = torch.arange(self.cache.length(stream)) < filled
            self.visible[stream][row, 0, 0].copy_(to_device(visible, self.cache.device))
        self._block[row] = block

    def leave(self, row: int) -> None:
        """A row without a stream, or with one that has not come beyond block 0.

        Passes of others write there where no block is before the pinned ones are all made.
        """
        if self._block[row] is not None:
            self._block[row] = None
            self._put_aside(row)

    def _put_aside(self, row: int) -> None:
        for stream in STREAMS:
            start, end, _ = self.cache.span(stream, self.cache.config.layout.pinned_blocks)
            self.places[stream][row].copy_(_range(start, end, self.cache.device))
            self.visible[stream][row] = True

    def is_full(self, rows: slice) -> bool:
        """Whether all that these rows' buffers hold is visible to them."""
        length = self.cache.length("audio")
        return all(
            block is None or self.cache.span("audio", block, row).filled == length
            for row, block in list(enumerate(self._block))[rows]
        )

    def _turns_of(self, block: int) -> PerStream[StreamRotations]:
        cache = self.cache
        spans = cache.layout.spans_s(cache.layout.block(block))
        return rotations_at(cache.config, spans, cache.grid, 0, cache.device)

    def _tensors(self) -> Iterator[Tensor]:
        return _tensors_of(self.rotations)


class RowsView:
    """Some of the rows in one pass; with `masked`, also those whose window is not filled yet."""

    sinks = 0

    def __init__(self, at: RowPlaces, rows: slice, masked: bool) -> None:
        self._cache, self._rows = at.cache, rows
        self.rotations = at.rotations.map(
            lambda turns: StreamRotations(*(_part(turn, rows) for turn in turns))
        )
        self.columns = one_column(at.tokens, at.cache.device)
        self._places = {stream: places[rows] for stream, places in at.places.items()}
        self._visible = {
            stream: visible[rows] if masked else None for stream, visible in at.visible.items()
        }

    def slot(self, pathway: Pathway, layer: int) -> Slot | None:
        """Each row's place in the ring; none where the own block alone is seen."""
        ring = self._cache.ring(pathway)
        if ring is None:
            return None
        places = self._places[KEY_STREAM[pathway]]
        return Slot(ring.keys[layer, self._rows], ring.values[layer, self._rows], places)

    def read(self, pathway: Pathway, layer: int, keys: Tensor, values: Tensor) -> KeysValuesMask:
        """The whole buffers, under each row's mask; or the own block."""
        ring, mask = self._cache.ring(pathway), self._visible[KEY_STREAM[pathway]]
        if ring is None:
            return KeysValuesMask(keys, values, None)
        return KeysValuesMask(ring.keys[layer, self._rows], ring.values[layer, self._rows], mask)


def _tensors_of(rotations: PerStream[StreamRotations]) -> Iterator[Tensor]:
    return (table for turns in rotations for turn in turns for table in (turn.cos, turn.sin))


def _like(turns: StreamRotations, rows: int) -> StreamRotations:
    def spread(table: Tensor) -> Tensor:
        return table.expand(rows, -1, -1, -1).clone()

    return StreamRotations(
        *(Rotation(spread(turn.cos), spread(turn.sin), turn.pairs) for turn in turns)
    )


def _part(turn: Rotation, rows: slice) -> Rotation:
    return Rotation(turn.cos[rows], turn.sin[rows], turn.pairs)


def _range(start: int, end: int, device: torch.device) -> Tensor:
    return torch.arange(start, end, device=device)
