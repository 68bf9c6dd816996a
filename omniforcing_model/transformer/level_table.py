"""Modulation rows of a few noise levels, made once and picked by index inside a pass.

A stream has five levels: four of its denoising steps and 0. Their rows for all layers are one
tensor per stream; a pass gathers those of each of its rows, so what changes between passes is one
index per row and no kernel more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.kernels.operands import ScaleShift
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.modulation import (
    LayerRows,
    ModulatedLayer,
    NoiseLevel,
    StreamModulation,
)

ROWS_WITH_TEXT = 14


class StreamLevels(NamedTuple):
    """One stream's rows.

    layers: (levels, layers, rows of `LayerRows`, width). output: scale and shift before the output
    projection, (levels, 2, width).
    """

    layers: Tensor
    output: Tensor


class LevelTable(NamedTuple):
    """Rows of both streams at `sigmas` (levels,), float32."""

    sigmas: Tensor
    streams: PerStream[StreamLevels]

    def at(self, level: PerStream[Tensor]) -> NoiseLevel:
        """The rows of each batch row's level, (rows,) int64."""
        return NoiseLevel(self.streams.map(PickedModulation, level))


class PickedModulation:
    """What `StreamModulation` is for one noise level, for a level per row of the batch."""

    columns = 1
    prompt = None

    def __init__(self, levels: StreamLevels, level: Tensor) -> None:
        self.level = level
        self._layers = levels.layers.index_select(0, level)
        self._output = levels.output.index_select(0, level)

    def rows(self, index: int, layer: ModulatedLayer, columns: Tensor) -> LayerRows:
        """Modulation of layer `index`, (rows, 1, width) each."""
        del layer, columns
        return _unstacked(self._layers[:, index, :, None].unbind(1))

    def output(self, table: Tensor, columns: Tensor) -> ScaleShift:
        """Modulation before the output projection."""
        del table, columns
        return ScaleShift(*self._output[:, :, None].unbind(1))


def stream_levels(
    modulations: Sequence[StreamModulation], layers: Sequence[ModulatedLayer], table_out: Tensor
) -> StreamLevels:
    """Rows of one stream at several levels, each a `StreamModulation` of one row and column."""
    none = torch.zeros(0, dtype=torch.long, device=table_out.device)
    stacked = [
        torch.stack([_stacked(level.rows(k, layer, none)) for k, layer in enumerate(layers)])
        for level in modulations
    ]
    output = [torch.cat(level.output(table_out, none), dim=1)[0] for level in modulations]
    return StreamLevels(torch.stack(stacked), torch.stack(output))


def _stacked(rows: LayerRows) -> Tensor:
    """Rows (1, 1, width) as (rows, width)."""
    parts: list[Tensor] = []
    for value in rows:
        if isinstance(value, ScaleShift):
            parts += value
        elif value is not None:
            parts.append(value)
    return torch.cat(parts, dim=1)[0]


def _unstacked(parts: tuple[Tensor, ...]) -> LayerRows:
    has_text = len(parts) == ROWS_WITH_TEXT
    rest = iter(parts)

    def pair() -> ScaleShift:
        return ScaleShift(next(rest), next(rest))

    return LayerRows(
        pair(),
        next(rest),
        pair(),
        next(rest),
        pair() if has_text else None,
        next(rest) if has_text else None,
        pair(),
        pair(),
        next(rest),
    )
