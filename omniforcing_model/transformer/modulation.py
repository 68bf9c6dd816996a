"""Modulation of a stream by sigma: scales, shifts and gates of every layer (AdaLN-single).

A noise level has one column per distinct sigma: one for a clip or a macro-block, one per block
under a causal mask. Streaming uses five sigmas only, so their rows are computed once and kept.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from omniforcing_model.kernels.operands import ScaleShift
from omniforcing_model.per_stream import PerStream


class LayerRows(NamedTuple):
    """One layer's modulation, (batch, tokens or 1, width) each; text rows from LTX-2.3 on."""

    attention: ScaleShift
    attention_gate: Tensor
    feed_forward: ScaleShift
    feed_forward_gate: Tensor
    text: ScaleShift | None
    text_gate: Tensor | None
    audio_to_video: ScaleShift
    video_to_audio: ScaleShift
    cross_gate: Tensor


class ModulatedLayer(Protocol):
    """A layer's learned tables, to which AdaLN's output is added."""

    @property
    def table(self) -> Tensor:
        """Rows of the stream's own branches, (6 or 9, width)."""
        ...

    @property
    def cross_table(self) -> Tensor:
        """Rows of the cross-modal branches, (5, width)."""
        ...


class Modulation(Protocol):
    """One stream's modulation in a pass."""

    @property
    def columns(self) -> int:
        """Distinct sigmas of a row of the batch."""
        ...

    def rows(self, index: int, layer: ModulatedLayer, columns: Tensor) -> LayerRows:
        """Modulation of layer `index`, whose tables are `layer`'s; `columns` of every token."""
        ...

    def output(self, table: Tensor, columns: Tensor) -> ScaleShift:
        """Modulation before the output projection."""
        ...


class StreamModulation:
    """AdaLN outputs of one noise level, (batch, columns, rows, width): shared by all layers."""

    def __init__(
        self,
        within: Tensor,
        across: Tensor,
        gate: Tensor,
        embedded: Tensor,
        prompt: Tensor | None,
    ) -> None:
        self.within = within
        self.across = across
        self.gate = gate
        self.embedded = embedded
        self.prompt = prompt
        self._cached: dict[int, LayerRows] = {}

    @property
    def columns(self) -> int:
        """Distinct sigmas."""
        return self.within.shape[1]

    def rows(self, index: int, layer: ModulatedLayer, columns: Tensor) -> LayerRows:
        """Modulation of layer `index`.

        Args:
            index: of the layer.
            layer: its tables.
            columns: the column of every token, (tokens,); not read where there is one only.
        """
        if torch.is_grad_enabled() or self.columns > 1:
            return self._rows(layer, columns)
        if index not in self._cached:
            self._cached[index] = self._rows(layer, columns)
        return self._cached[index]

    def _rows(self, layer: ModulatedLayer, columns: Tensor) -> LayerRows:
        shift, scale, gate, ff_shift, ff_scale, ff_gate, *text = self._spread(
            self.within, layer.table, columns
        )
        # The cross-modal table holds scale before shift, unlike the first one (LTX-2).
        cross = self._spread(self.across, layer.cross_table[:4], columns)
        (cross_gate,) = self._spread(self.gate, layer.cross_table[4:], columns)
        return LayerRows(
            ScaleShift(1 + scale, shift),
            gate,
            ScaleShift(1 + ff_scale, ff_shift),
            ff_gate,
            ScaleShift(1 + text[1], text[0]) if text else None,
            text[2] if text else None,
            ScaleShift(1 + cross[0], cross[1]),
            ScaleShift(1 + cross[2], cross[3]),
            cross_gate,
        )

    def output(self, table: Tensor, columns: Tensor) -> ScaleShift:
        """Modulation before the output projection."""
        shift, scale = self._spread(self.embedded[:, :, None, :], table, columns)
        return ScaleShift(1 + scale, shift)

    def _spread(self, output: Tensor, table: Tensor, columns: Tensor) -> Sequence[Tensor]:
        """Table plus AdaLN output, one (batch, tokens or 1, width) tensor per row."""
        rows = output + table.to(output.dtype)
        if self.columns > 1:
            rows = rows[:, columns]
        return rows.unbind(dim=2)


class NoiseLevel(NamedTuple):
    """Modulation of both streams, made by `DualStreamTransformer.at_noise_level` or picked from a
    table (level_table.py)."""

    modulation: PerStream[Modulation]
