"""The four-way asymmetric block-causal mask (paper equations 3 to 5, figure 3) over a whole clip.

Attention is bidirectional inside a macro-block and causal between blocks, with the same block index
for both modalities; block 0 (the global prefix and the sinks) is visible to all. With a window,
older blocks but 0 disappear, and block 0 is seen at its anchored distance
(`BlockLayout.anchor_shift_s`): exactly what the rolling cache shows block by block.
"""

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import (
    CPU,
    KEY_STREAM,
    KeysValuesMask,
    Pathway,
    TokenColumns,
    block_of_tokens,
    path_table,
    rotations_at,
)
from omniforcing_model.transformer.rope import Span

QUERY_STREAM: dict[Pathway, str] = {
    "video_self": "video",
    "audio_self": "audio",
    "audio_to_video": "video",
    "video_to_audio": "audio",
}


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
        self._shifts = sorted({self._layout.anchor_shift_s(k) for k in range(self.blocks)})
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
        """All keys of the clip, block 0 once per anchored distance, under the pathway's mask."""
        del layer
        mask = self._masks[pathway]
        anchored = int((self._key_blocks(pathway) == 0).sum())
        table = path_table(self._config, pathway)
        anchor_keys, anchor_values = keys[:, :, :anchored], values[:, :, :anchored]
        moved = [
            table.time_shift(shift, anchored, keys.device)(anchor_keys)
            for shift in self._shifts[1:]
        ]
        keys = torch.cat([keys, *moved], dim=2)
        values = torch.cat([values, *[anchor_values for _ in moved]], dim=2)
        return KeysValuesMask(keys, values, mask)

    def _key_blocks(self, pathway: Pathway) -> Tensor:
        blocks = self._token_blocks
        return blocks.video if KEY_STREAM[pathway] == "video" else blocks.audio

    def _mask(self, pathway: Pathway) -> Tensor:
        """(queries, keys + copies of block 0) bool, True where visible."""
        blocks = self._token_blocks
        query_blocks = blocks.video if QUERY_STREAM[pathway] == "video" else blocks.audio
        key_blocks = self._key_blocks(pathway)
        shifts = [self._layout.anchor_shift_s(k) for k in range(self.blocks)]
        rule = torch.zeros(self.blocks, self.blocks + len(self._shifts) - 1, dtype=torch.bool)
        for query in range(self.blocks):
            for key in range(1, self.blocks):
                rule[query, key] = self._layout.is_visible(key, query)
            copy = self._shifts.index(shifts[query])
            rule[query, 0 if copy == 0 else self.blocks + copy - 1] = True
        anchored = int((key_blocks == 0).sum())
        copies = torch.arange(self.blocks, rule.shape[1]).repeat_interleave(anchored)
        return rule[query_blocks][:, torch.cat([key_blocks, copies])]
