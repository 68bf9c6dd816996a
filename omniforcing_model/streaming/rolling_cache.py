"""The modality-independent rolling KV cache (paper section 3.4): four, with one eviction rule.

Per layer and pathway one buffer holds [block 0 | ring of window + 1 blocks]. The block being
denoised writes into the slot of the block that just left the window, so nothing is copied and
neither memory nor time per block grows with the stream. Softmax does not care about the order of
keys, so the ring is never unrolled.

Keys are stored rotated at their own time. Block 0 (prefix and sinks) is also kept as it was first
rotated and turned by the anchor shift whenever the window moves on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.macro_block import BlockLayout, MacroBlock
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import (
    CPU,
    KEY_STREAM,
    KeysValuesMask,
    Pathway,
    path_table,
    rotations_at,
)
from omniforcing_model.transformer.stream_parallel import UNSPLIT, StreamParallel


@dataclass
class _Ring:
    """Keys and values of one layer and pathway: (batch, heads, anchored + ring, head_dim)."""

    keys: Tensor
    values: Tensor
    anchor_keys: Tensor


class RollingCache:
    """K/V of block 0 and the last `window_blocks` blocks, for every layer and pathway present."""

    def __init__(
        self,
        config: ModelConfig,
        grid: tuple[int, int],
        parallel: PerStream[StreamParallel] = UNSPLIT,
        device: torch.device = CPU,
    ) -> None:
        """An empty cache.

        Args:
            config: of the model.
            grid: latent (height, width).
            parallel: how the streams are spread over processes; this one keeps its heads only.
            device: where rotations are computed and keys come from.
        """
        self._config = config
        self._grid = grid
        self._parallel = parallel
        self.device = device
        self._layout = BlockLayout(config.layout)
        self._rings: dict[tuple[Pathway, int], _Ring] = {}
        self._shift_s = 0.0

    def view(self, index: int) -> "CachedView":
        """The view of block `index`; blocks come in order, each as often as it has passes."""
        shift = self._layout.anchor_shift_s(index)
        if shift != self._shift_s:
            self._move_anchor(shift)
        return CachedView(self, self._config, self._layout.block(index), self._grid)

    def anchored_tokens(self, pathway: Pathway) -> int:
        """Tokens of block 0 among the keys of a pathway, sinks included."""
        first = self._layout.block(0).count
        if KEY_STREAM[pathway] == "video":
            return first.video * self._grid[0] * self._grid[1]
        return first.audio + self._config.layout.sinks

    def nbytes(self) -> int:
        """Bytes of all buffers."""
        tensors = [t for r in self._rings.values() for t in (r.keys, r.values, r.anchor_keys)]
        return sum(t.numel() * t.element_size() for t in tensors)

    def put(
        self, pathway: Pathway, layer: int, block: int, new: tuple[Tensor, Tensor]
    ) -> KeysValuesMask:
        """Write a block's keys and values into its slot and return all that it may see."""
        keys, values = new
        anchored = self.anchored_tokens(pathway)
        slots = self._config.layout.window_blocks + 1
        if block == 0:
            ring = self._rings.get((pathway, layer)) or self._ring(pathway, layer, keys)
            start, end, filled = 0, anchored, anchored
        else:
            ring = self._rings[pathway, layer]
            count = keys.shape[2]
            start = anchored + (block - 1) % slots * count
            end = start + count
            filled = anchored + min(block, slots) * count
        if torch.is_grad_enabled():
            # Autograd keeps what it used, but the buffers go on changing: this pass gets copies.
            return KeysValuesMask(
                torch.cat([ring.keys[:, :, :start], keys, ring.keys[:, :, end:filled]], dim=2),
                torch.cat(
                    [ring.values[:, :, :start], values, ring.values[:, :, end:filled]], dim=2
                ),
                None,
            )
        ring.keys[:, :, start:end] = keys
        ring.values[:, :, start:end] = values
        if block == 0:
            ring.anchor_keys.copy_(keys)
        return KeysValuesMask(ring.keys[:, :, :filled], ring.values[:, :, :filled], None)

    def _ring(self, pathway: Pathway, layer: int, like: Tensor) -> _Ring:
        per_block = self._layout.block(1).count
        tokens = per_block.audio
        if KEY_STREAM[pathway] == "video":
            tokens = per_block.video * self._grid[0] * self._grid[1]
        length = self.anchored_tokens(pathway) + (self._config.layout.window_blocks + 1) * tokens
        shape = (like.shape[0], like.shape[1], length, like.shape[3])
        buffers = [like.new_zeros(shape), like.new_zeros(shape), torch.zeros_like(like)]
        ring = _Ring(*(b.detach() for b in buffers))
        self._rings[pathway, layer] = ring
        return ring

    def _move_anchor(self, shift_s: float) -> None:
        for (pathway, _), ring in self._rings.items():
            anchored = ring.anchor_keys.shape[2]
            table = path_table(self._config, pathway)
            # Both cross-modal caches are the video stream's.
            owner = self._parallel.audio if pathway == "audio_self" else self._parallel.video
            turn = table.time_shift(shift_s, anchored, self.device)
            turn = turn.part(owner.heads(table.stream.heads), slice(None))
            ring.keys[:, :, :anchored] = turn(ring.anchor_keys)
        self._shift_s = shift_s


class CachedView:
    """One macro-block that sees the cache: stage III, evaluation and serving."""

    def __init__(
        self, cache: RollingCache, config: ModelConfig, block: MacroBlock, grid: tuple[int, int]
    ) -> None:
        self._cache = cache
        self._block = block
        self.sinks = config.layout.sinks if block.index == 0 else 0
        spans = BlockLayout(config.layout).spans_s(block)
        self.rotations = rotations_at(config, spans, grid, self.sinks, cache.device)
        tokens = PerStream(block.count.video * grid[0] * grid[1], block.count.audio + self.sinks)
        self._columns = tokens.map(
            lambda count: torch.zeros(count, dtype=torch.long, device=cache.device)
        )

    def token_blocks(self) -> PerStream[Tensor]:
        """One sigma for the whole block."""
        return self._columns

    def read(self, pathway: Pathway, layer: int, keys: Tensor, values: Tensor) -> KeysValuesMask:
        """History in the window, block 0, and this block's own keys."""
        return self._cache.put(pathway, layer, self._block.index, (keys, values))
