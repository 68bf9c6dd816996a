"""An opened checkpoint of the transformer: what it is, and its tensors by our names."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.per_stream import STREAMS
from omniforcing_model.transformer.sink_token import INITIAL_STD
from omniforcing_model.weights.tensor_differences import TensorDifferences, differences
from omniforcing_model.weights.tensor_names import SINKS, TensorName, tensor_table
from omniforcing_model.weights.tensor_source import TensorSource

Format = Literal["ours", "diffusers", "single-file", "shards"]

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: what it is, and its tensors by our names."""

    path: Path
    format: Format
    config: ModelConfig
    source: TensorSource
    names: Mapping[str, str]
    """Name in the file by our name, for all tensors that are there."""
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    """Tensors of other models, which are ignored."""
    prefix: str = ""
    """In the file, before the names of LTX-2."""
    table: Mapping[str, TensorName] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", {name.ours: name for name in tensor_table(self.config)})

    @property
    def fresh(self) -> tuple[str, ...]:
        """What starts new because LTX-2's formats do not have it: the sinks of the layout."""
        new = self.format != "ours" and self.config.layout.sinks > 0 and SINKS not in self.names
        return (SINKS,) if new else ()

    def shape(self, ours: str) -> tuple[int, ...]:
        """The shape of a tensor, whether it is there or not."""
        return self.table[ours].shape

    def tensor(self, ours: str, rows: slice | None = None) -> Tensor:
        """One tensor in the dtype of the file, or rows of its first axis."""
        rows_of_sinks = slice(None) if rows is None else rows
        if ours in self.fresh:
            return _new_sinks(self.shape(ours))[rows_of_sinks]
        if ours == SINKS and self.format != "ours":
            return self.source.tensor(self.names[ours])[0][rows_of_sinks]
        return self.source.tensor(self.names[ours], rows)

    def dtype(self, ours: str) -> str:
        """The dtype of a tensor in the format's spelling."""
        if ours in self.fresh:
            return "F32"
        return self.source.records[self.names[ours]].dtype

    def differences(self, halves: Collection[str] = STREAMS) -> TensorDifferences:
        """What is missing, unexpected or of another shape for these halves."""
        needed = {
            self._name_in_file(entry): entry.shape
            for entry in self.table.values()
            if is_of_halves(entry.ours, halves) and entry.ours not in self.fresh
        }
        present = {
            self._name_in_file(self.table[ours]): self._shape_in_file(ours)
            for ours in self.names
            if is_of_halves(ours, halves)
        }
        others = [n for n in self.unexpected if self.format != "ours" or is_of_halves(n, halves)]
        return differences(needed, present | dict.fromkeys(others, ()))

    def require(self, halves: Collection[str] = STREAMS) -> None:
        """WeightsError unless exactly the tensors of these halves are there, as numbers."""
        quantised = sorted(
            (self.dtype(ours), self.names[ours])
            for ours in self.names
            if is_of_halves(ours, halves) and self.dtype(ours) not in FLOATS
        )
        if quantised:
            dtype, name = quantised[0]
            raise WeightsError(
                f"expected tensors in {', '.join(FLOATS)}, got {len(quantised)} in {dtype}"
                f" ({name} is one) in {self.path}; take a checkpoint that is not quantised"
            )
        problems = self.differences(halves)
        if problems:
            count = sum(math.prod(entry.shape) > 0 for entry in self.table.values())
            raise WeightsError(
                f"expected exactly the {count} tensors of {self.config.architecture} with"
                f" {self.config.layers} layers in {self.path}, got {problems}; take a complete"
                " checkpoint"
            )

    def _shape_in_file(self, ours: str) -> tuple[int, ...]:
        shape = self.source.records[self.names[ours]].shape
        return shape[1:] if ours == SINKS and self.format != "ours" else shape

    def _name_in_file(self, entry: TensorName) -> str:
        """The name that the file has, or would have."""
        if entry.ours in self.names:
            return self.names[entry.ours]
        if self.format == "ours":
            return entry.ours
        return entry.diffusers or "" if self.format == "diffusers" else self.prefix + entry.ltx


def _new_sinks(shape: tuple[int, ...]) -> Tensor:
    """Sinks as a new model has them, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, device="cpu") * INITIAL_STD


def is_of_halves(name: str, halves: Collection[str]) -> bool:
    """Whether a tensor is of these halves; what is of no stream is never skipped."""
    stream = name.partition(".")[0]
    return stream in halves or stream not in STREAMS
