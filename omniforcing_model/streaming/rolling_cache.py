"""The modality-independent rolling KV cache (paper section 3.4): four, with one eviction rule.

Per pathway one buffer holds [pinned blocks | ring of window + 1 blocks] of every layer. The block
being denoised writes into the slot of the block that just left the window, so nothing is copied and
neither memory nor time per block grows with the stream. Softmax does not care about the order of
keys, so the ring is never unrolled.

Keys are stored rotated at their own time. The pinned blocks (in the paper block 0, prefix and
sinks) are also kept as they were first rotated, and turned by the anchor shift whenever the window
moves on. Pathways that see their own block alone have no buffer.

Rows of the buffers are the streams of a batch. Each has a block of its own; which one is known to
the views (cached_view.py, rows_view.py), the cache holds what they read.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.regions import rotate
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.attention_view import (
    CPU,
    KEY_STREAM,
    Pathway,
    is_across,
    path_table,
)
from omniforcing_model.transformer.denoiser import Denoiser
from omniforcing_model.transformer.rope import RotaryTable
from omniforcing_model.transformer.stream_parallel import UNSPLIT, StreamParallel


class Ring(NamedTuple):
    """Keys and values of one pathway: (layers, rows, heads, pinned + ring, head_dim).

    anchor_keys: the pinned blocks' as they were first rotated, (layers, rows, heads, pinned,
    head_dim), or none where they stay.
    """

    keys: Tensor
    values: Tensor
    anchor_keys: Tensor


class Span(NamedTuple):
    """Tokens [start, end) along the buffers of a key stream, of which `filled` are in use."""

    start: int
    end: int
    filled: int


class RollingCache:
    """K/V of the pinned blocks and the last `window_blocks` ones, for every layer and pathway."""

    def __init__(
        self,
        config: ModelConfig,
        grid: tuple[int, int],
        rows: int = 1,
        parallel: PerStream[StreamParallel] = UNSPLIT,
        halves: Collection[str] = STREAMS,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """An empty cache; its buffers are all there will be.

        Args:
            config: of the model.
            grid: latent (height, width).
            rows: streams of the batch.
            parallel: how the streams are spread over processes; this one keeps its heads only.
            halves: the streams that this process holds. Both cross-modal caches are the video's.
            device: where keys come from.
            dtype: of the keys.
        """
        self.config, self.grid, self.rows, self.device = config, grid, rows, device
        self.layout = BlockLayout(config.layout)
        self._parallel = parallel
        self._shifts_s = [0.0] * rows
        self._first_blocks = [config.layout.pinned_blocks] * rows
        self._rings: dict[Pathway, Ring] = {}
        for pathway in KEY_STREAM:
            here = ("audio" if pathway == "audio_self" else "video") in halves
            if here and not self.layout.sees_own_block_alone(is_across(pathway)):
                self._rings[pathway] = self._ring(pathway, dtype)

    @classmethod
    def of(cls, model: Denoiser, grid: tuple[int, int], rows: int) -> "RollingCache":
        """An empty cache for `rows` streams of `model` on a latent grid (height, width)."""
        halves = [name for name, _ in model.halves.present()]
        return cls(model.config, grid, rows, model.parallel, halves, model.device, model.dtype)

    def ring(self, pathway: Pathway) -> Ring | None:
        """The buffers of a pathway; none of one that sees its own block alone."""
        return self._rings.get(pathway)

    def span(self, key_stream: str, block: int, row: int = 0) -> Span:
        """Where a block's keys and values are, and how much is in use while a row computes it."""
        each = self._following(key_stream)
        if block == 0:
            end = self._through(key_stream, 0)
            return Span(0, end, end)
        if self.layout.is_pinned(block):
            end = self._through(key_stream, block)
            return Span(end - each, end, end)
        pinned = self._pinned(key_stream)
        start = pinned + self.layout.slot(block) * each
        filled = self.layout.filled_slots(block, self._first_blocks[row])
        return Span(start, start + each, pinned + filled * each)

    def length(self, key_stream: str) -> int:
        """Tokens that the buffers of a key stream hold."""
        return self._pinned(key_stream) + self.layout.slots * self._following(key_stream)

    def nbytes(self) -> int:
        """Bytes of all buffers."""
        tensors = [tensor for ring in self._rings.values() for tensor in ring]
        return sum(t.numel() * t.element_size() for t in tensors)

    @torch.no_grad()
    def see_from(self, block: int, row: int | None = None) -> None:
        """Put the pinned blocks where `block` sees them, in one row or in all."""
        shift = self.layout.anchor_shift_s(block)
        rows = range(self.rows) if row is None else range(row, row + 1)
        if all(self._shifts_s[r] == shift for r in rows):
            return
        part = slice(rows.start, rows.stop)
        fresh = all(self._shifts_s[r] == 0 for r in rows)
        turns: dict[RotaryTable, Rotation] = {}
        for pathway, ring in self._rings.items():
            anchored = ring.keys[:, part, :, : ring.anchor_keys.shape[3]]
            kept = ring.anchor_keys[:, part]
            if fresh:
                kept.copy_(anchored)
            table = path_table(self.config, pathway)
            if table not in turns:
                turns[table] = table.time_shift(shift, 1, self.device)
            turn = turns[table].part(self._heads(pathway, table), slice(None))
            if shift:
                rotate(kept, turn, anchored)
            else:
                anchored.copy_(kept)
        for r in rows:
            self._shifts_s[r] = shift

    def forget(self, row: int) -> None:
        """Let a row begin a new stream: its next block is block 0."""
        self._shifts_s[row] = 0.0
        self._first_blocks[row] = self.config.layout.pinned_blocks

    def begin_ring(self, block: int, row: int | None = None) -> None:
        """Let `block`, in one row or in all, be the first one that comes into the ring: what was
        before it is not seen. `BlockLayout.replay_from` says which block may be that."""
        for own in range(self.rows) if row is None else (row,):
            self._first_blocks[own] = block

    def _ring(self, pathway: Pathway, dtype: torch.dtype) -> Ring:
        key_stream, table = KEY_STREAM[pathway], path_table(self.config, pathway)
        heads = len(range(table.stream.heads)[self._heads(pathway, table)])

        def empty(tokens: int) -> Tensor:
            shape = (self.config.layers, self.rows, heads, tokens, table.stream.head_dim)
            return torch.zeros(shape, dtype=dtype, device=self.device)

        length, pinned = self.length(key_stream), self._pinned(key_stream)
        copies = pinned if self.config.layout.anchor == "follows" else 0
        return Ring(empty(length), empty(length), empty(copies))

    def _heads(self, pathway: Pathway, table: RotaryTable) -> slice:
        """Both cross-modal caches are spread as the video stream is."""
        owner = self._parallel.audio if pathway == "audio_self" else self._parallel.video
        return owner.heads(table.stream.heads)

    def _pinned(self, key_stream: str) -> int:
        """Tokens of the pinned blocks, sinks included."""
        return self._through(key_stream, self.config.layout.pinned_blocks - 1)

    def _through(self, key_stream: str, block: int) -> int:
        """Tokens of the blocks up to `block`, sinks included."""
        latents = self.layout.latents(block + 1)
        if key_stream == "video":
            return latents.video * self.grid[0] * self.grid[1]
        return latents.audio + self.config.layout.sinks

    def _following(self, key_stream: str) -> int:
        """Tokens of every block but the first."""
        count = self.layout.following_count
        return count.video * self.grid[0] * self.grid[1] if key_stream == "video" else count.audio
