"""The tensors of a checkpoint, by name, of which each rank has written the part that it holds.

A rank writes without asking another one and with one tensor in memory, and reads whatever part of
a tensor it needs: how many ranks there were, and how they were spread, is of no matter.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from infra.errors import CheckpointError
from omniforcing_model.weights.safetensors_file import TensorToWrite, write_file

STARTS = "starts"  # of the metadata: where a part begins in its flat tensor, by name


class Shard(NamedTuple):
    """Part of a tensor: where it begins in the flat tensor, and its values, flat."""

    values: Tensor
    start: int


def write_shards(folder: Path, kind: str, rank: int, shards: Mapping[str, Shard]) -> Path:
    """Write what `rank` holds of the tensors of `kind`: a role, or the averages; returns where."""
    path = folder / f"{kind}.rank_{rank:02d}.safetensors"
    tensors = [
        TensorToWrite(name, values.dtype, tuple(values.shape), partial(Tensor.detach, values))
        for name, (values, _) in shards.items()
    ]
    starts = {name: shard.start for name, shard in shards.items()}
    write_file(path, tensors, {STARTS: json.dumps(starts)})
    return path


class _Place(NamedTuple):
    """A part of a tensor in a file: elements [start, end) of the flat tensor."""

    path: Path
    start: int
    end: int


class SavedTensors:
    """All tensors of one kind in a checkpoint folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Look up their names; CheckpointError if a file cannot be read."""
        self._kind = kind
        self._places: dict[str, list[_Place]] = {}
        for path in sorted(folder.glob(f"{kind}.rank_*.safetensors")):
            for name, place in _places_in(path):
                self._places.setdefault(name, []).append(place)

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors."""
        return frozenset(self._places)

    def part(self, name: str, first: int, count: int) -> Tensor:
        """Elements [first, first + count) of the flat tensor, on the CPU.

        CheckpointError if no rank has written some of them.
        """
        parts, at = [torch.empty(0)] if count == 0 else list[Tensor](), first
        for path, start, end in sorted(self._places[name], key=lambda place: place.start):
            if start <= at < min(end, first + count):
                stop = min(end, first + count)
                with _open_file(path) as file:
                    parts.append(file.get_slice(name)[at - start : stop - start])
                at = stop
        if at < first + count:
            raise CheckpointError(
                f"expected elements {first} to {first + count} of {name} of the {self._kind}, got"
                f" those before {at}: a rank's file is missing; delete the checkpoint's folder to"
                " resume from the one before it"
            )
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _places_in(path: Path) -> Iterator[tuple[str, _Place]]:
    with _open_file(path) as file:
        starts: dict[str, int] = json.loads((file.metadata() or {}).get(STARTS, "{}"))
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            start = starts[name]
            yield name, _Place(path, start, start + file.get_slice(name).get_shape()[0])


def _open_file(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected a readable checkpoint file {path}, got: {error}; delete its folder to"
            " resume from the checkpoint before it"
        ) from error
