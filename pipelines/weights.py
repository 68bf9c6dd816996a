"""Looks at checkpoints, checks them, and writes them in other formats; one tensor in memory."""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from infra.errors import ConfigError
from infra.runs.checkpoint_store import publish
from infra.terminal.progress import Progress
from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint import Checkpoint
from omniforcing_model.weights.checkpoint_files import folder_digest
from omniforcing_model.weights.checkpoint_format import CONFIG_FILE, OUR_SECTION, open_checkpoint
from omniforcing_model.weights.checkpoint_writing import (
    SHARD_BYTES,
    write_diffusers,
    write_ours,
    write_single_file,
)
from omniforcing_model.weights.safetensors_file import DTYPES, SUFFIX, TensorToWrite
from omniforcing_model.weights.stated_family import StatedFamily
from omniforcing_model.weights.tensor_names import SINKS

Target = Literal["ours", "diffusers", "single-file"]
DTYPE_OPTIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
LAYER_PART = 3  # of a tensor's name: stream.layers.N.part
SHOWN = 8


class Conversion(NamedTuple):
    """What to write: where, in which format, in which dtype (None: as it is)."""

    target: Path
    format: Target
    dtype: str | None = None
    shard_bytes: int = SHARD_BYTES


def inspect(path: Path, stated: StatedFamily) -> dict[str, Any]:
    """What a checkpoint is and holds, from its headers alone."""
    checkpoint = open_checkpoint(path, stated)
    config, differences = checkpoint.config, checkpoint.differences()
    return {
        "path": str(path),
        "format": checkpoint.format,
        "architecture": config.architecture,
        "layers": config.layers,
        "profile": {
            "pairs": config.rotary.pairs,
            "frequencies": config.rotary.frequencies,
            "gate_timestep_scale": config.gate_timestep_scale,
        },
        "layout": config.layout.model_dump(mode="json"),
        "family": config.family,
        "tensors": len(checkpoint.names),
        "parameters": sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names),
        "parameters_by_part": _parameters_by_part(checkpoint),
        "dtypes": dict(Counter(checkpoint.dtype(name) for name in checkpoint.names)),
        "files": [str(file) for file in checkpoint.source.files],
        "bytes": sum(file.stat().st_size for file in checkpoint.source.files),
        "missing": list(differences.missing),
        "unexpected": list(differences.unexpected),
        "misshaped": list(differences.misshaped),
        "dropped": list(checkpoint.dropped),
        "fresh": list(checkpoint.fresh),
    }


def verify(
    path: Path, stated: StatedFamily, progress: Progress, sample: int | None
) -> dict[str, Any]:
    """Check that every tensor is there, in its shape, and finite; and say its digest.

    Args:
        path: the checkpoint.
        stated: what the caller says of it.
        progress: shows how far it is.
        sample: how many tensors to read, evenly spread; None for all.

    Raises:
        WeightsError: something is wrong with it.
    """
    checkpoint = open_checkpoint(path, stated)
    checkpoint.require()
    names = sorted(checkpoint.names)
    step = 1 if sample is None else math.ceil(len(names) / sample)
    read, wrong = names[::step], []
    with progress.stage("verify", len(read)) as stage:
        for name in read:
            if not bool(checkpoint.tensor(name).isfinite().all()):
                wrong.append(checkpoint.names[name])
            stage.advance()
    if wrong:
        raise WeightsError(
            f"expected finite numbers in {path}, got others in {len(wrong)} tensors:"
            f" {', '.join(wrong[:SHOWN])}; take another copy"
        )
    return {
        "path": str(path),
        "format": checkpoint.format,
        "architecture": checkpoint.config.architecture,
        "tensors": len(names),
        "tensors_read": len(read),
        "digest": folder_digest(path),
    }


def convert(
    source: Path, conversion: Conversion, stated: StatedFamily, progress: Progress
) -> dict[str, Any]:
    """Write a checkpoint in another format or dtype; the target appears when it is complete.

    Raises:
        ConfigError: the target is there already, or has another name than its format needs.
        WeightsError: the checkpoint is not complete, or the format has no place for it.
    """
    target = conversion.target
    _refuse_target(conversion)
    checkpoint = open_checkpoint(source, stated)
    checkpoint.require()
    if stated.layout is not None and checkpoint.config.layout != stated.layout:
        raise ConfigError(
            f"expected a checkpoint without a layout, got one that has its own in {source}; leave"
            " the layout out"
        )
    config, left_out = checkpoint.config, list(checkpoint.dropped)
    if conversion.format == "diffusers" and config.layout.sinks:  # no place for them there
        layout = config.layout.model_copy(update={"sinks": 0})
        config = config.model_copy(update={"layout": layout})
        left_out.append(SINKS)
    names = [name for name in (*checkpoint.names, *checkpoint.fresh) if name not in left_out]
    with progress.stage(f"convert to {conversion.format}", len(names)) as stage:
        tensors = [
            _tensor_to_write(checkpoint, name, conversion.dtype, stage.advance)
            for name in sorted(names)
        ]
        _write(conversion, config, tensors, _notes(checkpoint))
    return {
        "path": str(target),
        "format": conversion.format,
        "architecture": config.architecture,
        "tensors": len(names),
        "bytes": sum(file.stat().st_size for file in _files(target)),
        "left_out": left_out,
        "fresh": list(checkpoint.fresh) if config.layout.sinks else [],
    }


def _parameters_by_part(checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
    """Parameters of each stream, of the kinds of parts of its layers and of what is around."""
    counts: dict[str, dict[str, int]] = {}
    for name in sorted(checkpoint.names):
        stream, *parts = name.split(".")
        part = parts[LAYER_PART - 1] if parts[0] == "layers" else "around_layers"
        of_stream = counts.setdefault(stream, {})
        of_stream[part] = of_stream.get(part, 0) + math.prod(checkpoint.shape(name))
    return counts


def _refuse_target(conversion: Conversion) -> None:
    target = conversion.target
    if target.exists():
        raise ConfigError(f"expected a new target, got {target}, which is there; name another")
    if (conversion.format == "single-file") != target.name.endswith(SUFFIX):
        expected = f"a file name that ends with {SUFFIX}"
        expected = expected if conversion.format == "single-file" else "the name of a folder"
        raise ConfigError(
            f"expected {expected} for {conversion.format}, got {target}; name another"
        )


def _tensor_to_write(
    checkpoint: Checkpoint, name: str, dtype: str | None, done: Callable[[], None]
) -> TensorToWrite:
    chosen = DTYPES[checkpoint.dtype(name)] if dtype is None else DTYPE_OPTIONS[dtype]
    return TensorToWrite(
        name, chosen, checkpoint.shape(name), partial(_read, checkpoint, name, done)
    )


def _read(checkpoint: Checkpoint, name: str, done: Callable[[], None]) -> Tensor:
    tensor = checkpoint.tensor(name)
    done()
    return tensor


def _notes(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a folder of ours says besides the model, or where another format came from."""
    if checkpoint.format != "ours":
        return {"converted_from": {"format": checkpoint.format, "name": checkpoint.path.name}}
    notes = json.loads((checkpoint.path / CONFIG_FILE).read_text(encoding="utf-8"))
    return {key: value for key, value in notes.items() if key != OUR_SECTION}


def _write(
    conversion: Conversion, config: ModelConfig, tensors: list[TensorToWrite], notes: dict[str, Any]
) -> None:
    target = conversion.target
    if conversion.format == "single-file":
        write_single_file(target, config, tensors)
        return
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        if conversion.format == "ours":
            write_ours(unfinished, config, tensors, notes, conversion.shard_bytes)
        else:
            write_diffusers(unfinished, config, tensors, conversion.shard_bytes)
        publish(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _files(target: Path) -> list[Path]:
    return [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
