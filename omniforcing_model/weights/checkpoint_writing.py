"""Checkpoints written tensor by tensor: our folder, diffusers' folder, LTX-2's single file."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint_format import (
    CONFIG_FILE,
    DIFFUSERS_PART,
    DIFFUSERS_STEM,
    OUR_SECTION,
    OUR_STEM,
)
from omniforcing_model.weights.ltx2_checkpoint import (
    HEADER_KEY,
    HEADER_SECTION,
    LTX_PREFIX,
    OUR_KEY,
    VERSION_KEY,
)
from omniforcing_model.weights.ltx2_config import diffusers_config_of, header_of
from omniforcing_model.weights.safetensors_file import SUFFIX, TensorToWrite, write_file
from omniforcing_model.weights.tensor_names import SINKS, tensor_table
from omniforcing_model.weights.tensor_source import INDEX_SUFFIX, WEIGHT_MAP

SHARD_BYTES = 5_000_000_000
LIBRARY_METADATA = {"format": "pt"}  # what diffusers and transformers look for


def write_ours(
    folder: Path,
    config: ModelConfig,
    tensors: Sequence[TensorToWrite],
    notes: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `tensors`, by our names, and config.json with `config` and `notes`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(folder, OUR_STEM, tensors, {}, shard_bytes)
    _write_json(folder / CONFIG_FILE, {OUR_SECTION: config.model_dump(mode="json"), **notes})


def write_diffusers(
    folder: Path,
    config: ModelConfig,
    tensors: Sequence[TensorToWrite],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `tensors`, by our names, as transformer/ in `folder`.

    Raises:
        WeightsError: there are sinks, for which diffusers has no place.
    """
    if config.layout.sinks:
        raise WeightsError(
            f"expected a model without sinks for diffusers, got {config.layout.sinks}: its format"
            " has no place for them; leave them out, or write another format"
        )
    names = {entry.ours: entry.diffusers for entry in tensor_table(config)}
    renamed = [
        tensor._replace(name=name) for tensor in tensors if (name := names[tensor.name]) is not None
    ]
    part = folder / DIFFUSERS_PART
    part.mkdir(parents=True, exist_ok=True)
    metadata = LIBRARY_METADATA | _noted_values(config)
    _write_shards(part, DIFFUSERS_STEM, renamed, metadata, shard_bytes)
    _write_json(part / CONFIG_FILE, diffusers_config_of(config))


def write_single_file(path: Path, config: ModelConfig, tensors: Sequence[TensorToWrite]) -> None:
    """Write `tensors`, by our names, as one file with LTX-2's names and header."""
    names = {entry.ours: LTX_PREFIX + entry.ltx for entry in tensor_table(config)}
    renamed = [
        _released_sinks(tensor)._replace(name=names[tensor.name])
        for tensor in tensors
        if tensor.bytes
    ]
    metadata = {
        HEADER_KEY: json.dumps({HEADER_SECTION: header_of(config)}),
        VERSION_KEY: config.architecture.removeprefix("ltx-"),
        **_noted_values(config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, renamed, metadata)


def _noted_values(config: ModelConfig) -> dict[str, str]:
    return {OUR_KEY: config.model_dump_json(exclude_defaults=True)}


def _released_sinks(tensor: TensorToWrite) -> TensorToWrite:
    """Sinks have a batch axis in the files that OmniForcing released."""
    if tensor.name != SINKS:
        return tensor
    read: Callable[[], Tensor] = tensor.read
    return tensor._replace(shape=(1, *tensor.shape), read=lambda: read()[None])


def _write_shards(
    folder: Path,
    stem: str,
    tensors: Sequence[TensorToWrite],
    metadata: Mapping[str, str],
    shard_bytes: int,
) -> None:
    """Write one file, or shards of at most `shard_bytes` with their index; nothing else stays."""
    shards = list(_shards(tensors, shard_bytes))
    count = len(shards)
    files = [
        f"{stem}{SUFFIX}" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}{SUFFIX}"
        for number in range(1, count + 1)
    ]
    index = folder / f"{stem}{INDEX_SUFFIX}"
    for old in {*folder.glob(f"{stem}-*-of-*{SUFFIX}"), folder / f"{stem}{SUFFIX}", index}:
        if old.name not in files:
            old.unlink(missing_ok=True)
    for file, shard in zip(files, shards, strict=True):
        write_file(folder / file, shard, metadata)
    if count > 1:
        places = {t.name: file for file, shard in zip(files, shards, strict=True) for t in shard}
        total = sum(tensor.bytes for tensor in tensors)
        _write_json(index, {"metadata": {"total_size": total}, WEIGHT_MAP: places})


def _shards(tensors: Sequence[TensorToWrite], limit: int) -> Iterator[list[TensorToWrite]]:
    """The tensors in their order, cut where the next would make a shard larger than `limit`."""
    shard: list[TensorToWrite] = []
    filled = 0
    for tensor in tensors:
        if shard and filled + tensor.bytes > limit:
            yield shard
            shard, filled = [], 0
        shard.append(tensor)
        filled += tensor.bytes
    yield shard


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
