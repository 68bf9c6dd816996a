"""A model folder: model.safetensors and config.json, which carries the profile of the weights."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from omniforcing_model.config import ModelConfig
from omniforcing_model.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.errors import WeightsError
from omniforcing_model.exchange import Exchange
from omniforcing_model.per_stream import STREAMS

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
SHOWN_NAMES = 8


def save_model(
    folder: Path,
    model: DualStreamTransformer,
    notes: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the weights in `dtype`, and config.json with the model's config and `notes`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to(dtype).contiguous() for k, v in model.file_tensors().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    config = {"model": model.config.model_dump(mode="json"), **notes}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_model_config(folder: Path) -> ModelConfig:
    """The config of the model in `folder`; WeightsError if there is none."""
    try:
        values = json.loads((folder / CONFIG_FILE).read_text())
        return ModelConfig.model_validate(values["model"])
    except (OSError, ValueError, KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"expected a model folder with {CONFIG_FILE} and {WEIGHTS_FILE}, got {folder}: {reason}"
        ) from error


def load_model(
    folder: Path,
    halves: Collection[str] = STREAMS,
    exchange: Exchange | None = None,
) -> DualStreamTransformer:
    """The model of `folder` in float32 and evaluation mode, or the named halves of it.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape (all are listed).
    """
    model = DualStreamTransformer(read_model_config(folder), exchange, halves)
    wanted = model.file_tensors()
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names = {n for n in file.keys() if _belongs(n, halves)}  # noqa: SIM118  not a dict
            _refuse_differences(folder, names, set(wanted))
            tensors = {name: file.get_tensor(name).float() for name in names}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"expected readable weights in {folder}, got: {error}") from error
    shapes = {
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(wanted[n].shape)}"
        for n in names
        if tensors[n].shape != wanted[n].shape
    }
    _refuse_differences(folder, shapes, set())
    for name, view in wanted.items():
        view.copy_(tensors[name])
    return model.eval()


def folder_digest(folder: Path) -> str:
    """ "sha256:..." over the weights file and the model's config."""
    digest = hashlib.sha256()
    config = read_model_config(folder).model_dump_json(exclude_defaults=True)
    digest.update(config.encode())
    with (folder / WEIGHTS_FILE).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _refuse_differences(folder: Path, found: set[str], wanted: set[str]) -> None:
    if found == wanted:
        return
    missing, unexpected = sorted(wanted - found), sorted(found - wanted)
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN_NAMES])}"
        + " ..." * (len(names) > SHOWN_NAMES)
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    raise WeightsError(
        f"expected exactly the tensors of its {CONFIG_FILE} in {folder}, got {'; '.join(parts)}"
    )


def _belongs(name: str, halves: Collection[str]) -> bool:
    """Whether a tensor is of these halves; what belongs to no stream is never skipped."""
    stream = name.partition(".")[0]
    return stream in halves or stream not in STREAMS
