"""One macro-block of every row against the rolling cache: stage III, evaluation and streams alone.

All rows are at the same block, which the host knows: what is not filled yet is cut off, not masked.
"""

import torch
from torch import Tensor

from omniforcing_model.kernels.operands import Slot
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.attention_view import (
    KEY_STREAM,
    KeysValuesMask,
    Pathway,
    one_column,
    rotations_at,
)


class CachedView:
    """Block `index` of all rows, or of one, that see the cache; blocks come in order."""

    def __init__(self, cache: RollingCache, index: int, row: int | None = None) -> None:
        cache.see_from(index, row)
        config, grid, device = cache.config, cache.grid, cache.device
        block = cache.layout.block(index)
        self._cache = cache
        self._rows = slice(0, cache.rows) if row is None else slice(row, row + 1)
        rows = self._rows.stop - self._rows.start
        self._spans = {s: cache.span(s, index, row or 0) for s in PerStream._fields}
        self.sinks = config.layout.sinks if index == 0 else 0
        self.rotations = rotations_at(config, cache.layout.spans_s(block), grid, self.sinks, device)
        tokens = PerStream(*(span.end - span.start for span in self._spans.values()))
        self.columns = one_column(tokens, device)
        self._places = {
            stream: torch.arange(span.start, span.end, device=device).expand(rows, -1)
            for stream, span in self._spans.items()
        }

    def slot(self, pathway: Pathway, layer: int) -> Slot | None:
        """The block's place in the ring; none with gradients, which leave the cache as it is."""
        ring, stream = self._cache.ring(pathway), KEY_STREAM[pathway]
        if ring is None or torch.is_grad_enabled():
            return None
        start = self._spans[stream].start
        keys, values = ring.keys[layer, self._rows], ring.values[layer, self._rows]
        return Slot(keys, values, self._places[stream], start)

    def read(self, pathway: Pathway, layer: int, keys: Tensor, values: Tensor) -> KeysValuesMask:
        """History in the window, pinned blocks, and this block's own keys; or those alone."""
        ring = self._cache.ring(pathway)
        if ring is None:
            return KeysValuesMask(keys, values, None)
        start, end, filled = self._spans[KEY_STREAM[pathway]]
        part = (layer, self._rows, slice(None), slice(filled))
        kept = KeysValuesMask(ring.keys[part], ring.values[part], None)
        if not torch.is_grad_enabled():
            return kept

        # Autograd keeps what it used, but the buffers go on changing: this pass gets copies.
        def around(own: Tensor, buffer: Tensor) -> Tensor:
            return torch.cat([buffer[:, :, :start], own, buffer[:, :, end:]], dim=2)

        return KeysValuesMask(around(keys, kept.keys), around(values, kept.values), None)
