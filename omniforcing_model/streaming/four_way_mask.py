"""The four-way asymmetric block-causal mask (paper equations 3 to 5, figure 3) over a whole clip.

Attention is bidirectional inside a macro-block and causal between blocks, with the same block index
for both modalities; the pinned blocks (the global prefix and the sinks in the paper) are visible to
all. With a window, other blocks disappear once they are old, and the pinned ones are seen at their
anchored distance (`BlockLayout.anchor_shift_s`): exactly what the rolling cache shows block by
block.
"""

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import (
    CPU,
    KEY_STREAM,
    QUERY_STREAM,
    KeysValuesMask,
    Pathway,
    TokenColumns,
    block_of_tokens,
    is_across,
    path_table,
    rotations_at,
)
from omniforcing_model.transformer.rope import Span


class CausalView:
    """A whole clip under the four-way mask: stage II, and the reference for the rolling cache."""

    def __init__(
        self,
        config: ModelConfig,
        latents: PerStream[int],
        grid: tuple[int, int],
        device: torch.device = CPU,
    ) -> None:
        self._config = config
        self._layout = BlockLayout(config.layout)
        self.sinks = config.layout.sinks
        self.blocks = self._layout.blocks_of(latents)
        of_latent = self._layout.block_of_latent(latents)
        self._token_blocks = PerStream(
            block_of_tokens(of_latent.video, grid[0] * grid[1]),
            block_of_tokens(of_latent.audio, 1, self.sinks),
        )
        spans: PerStream[list[Span]] = PerStream([], [])
        for index in range(self.blocks):
            block = self._layout.spans_s(self._layout.block(index))
            spans = PerStream(spans.video + block.video, spans.audio + block.audio)
        self.rotations = rotations_at(config, spans, grid, self.sinks, device)
        self._shifts = [self._layout.anchor_shift_s(k) for k in range(self.blocks)]
        # Once: a number that comes from a device is waited for.
        self._pinned = {pathway: self._pinned_tokens(pathway) for pathway in KEY_STREAM}
        self._masks = {pathway: self._mask(pathway).to(device) for pathway in KEY_STREAM}
        # One sigma per block (tau of equation 3).
        self.columns = self._token_blocks.map(
            lambda blocks: TokenColumns(
                blocks.to(device), tuple(torch.bincount(blocks, minlength=self.blocks).tolist())
            )
        )

    def slot(self, pathway: Pathway, layer: int) -> None:
        """Nowhere: nothing is kept."""

    def read(self, pathway: Pathway, layer: int, keys: Tensor, values: Tensor) -> KeysValuesMask:
        """All keys of the clip, the pinned once per anchored distance, under the pathway's mask."""
        del layer
        mask = self._masks[pathway]
        pinned = self._pinned[pathway]
        table = path_table(self._config, pathway)
        pinned_keys, pinned_values = keys[:, :, :pinned], values[:, :, :pinned]
        moved = [
            table.time_shift(shift, pinned, keys.device)(pinned_keys)
            for shift in self._distances(pathway)
        ]
        keys = torch.cat([keys, *moved], dim=2)
        values = torch.cat([values, *[pinned_values for _ in moved]], dim=2)
        return KeysValuesMask(keys, values, mask)

    def _key_blocks(self, pathway: Pathway) -> Tensor:
        blocks = self._token_blocks
        return blocks.video if KEY_STREAM[pathway] == "video" else blocks.audio

    def _pinned_tokens(self, pathway: Pathway) -> int:
        """Keys of pinned blocks, which are the first ones."""
        return int((self._key_blocks(pathway) < self._config.layout.pinned_blocks).sum())

    def _distances(self, pathway: Pathway) -> list[float]:
        """Seconds by which copies of the pinned blocks are moved, where a pathway sees them."""
        if self._layout.sees_own_block_alone(is_across(pathway)):
            return []
        return sorted(set(self._shifts) - {0.0})

    def _mask(self, pathway: Pathway) -> Tensor:
        """(queries, keys + copies of the pinned blocks) bool, True where visible."""
        blocks = self._token_blocks
        query_blocks = blocks.video if QUERY_STREAM[pathway] == "video" else blocks.audio
        key_blocks = self._key_blocks(pathway)
        across, distances = is_across(pathway), self._distances(pathway)
        rule = torch.zeros(self.blocks, self.blocks + len(distances), dtype=torch.bool)
        for query, shift in enumerate(self._shifts):
            at_own_time = shift not in distances
            for key in range(self.blocks):
                visible = self._layout.is_visible(key, query, across)
                rule[query, key] = visible and (at_own_time or not self._layout.is_pinned(key))
            if not at_own_time:  # all pinned blocks lie behind the window by then
                rule[query, self.blocks + distances.index(shift)] = True
        copies = torch.arange(self.blocks, rule.shape[1])
        copies = copies.repeat_interleave(self._pinned[pathway])
        return rule[query_blocks][:, torch.cat([key_blocks, copies])]
