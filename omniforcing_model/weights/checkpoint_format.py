"""Which of four formats a checkpoint has, without reading its tensors.

ours         a folder with config.json and model.safetensors, or its shards
diffusers    LTX-2's folder as diffusers writes it, or its part transformer/
single-file  LTX-2's own file, whose header carries the configuration
shards       files with LTX-2's names and no configuration, as OmniForcing released them
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint import Checkpoint
from omniforcing_model.weights.ltx2_checkpoint import open_ltx_files, with_noted_values
from omniforcing_model.weights.ltx2_config import Origin, config_of_diffusers
from omniforcing_model.weights.stated_family import (
    StatedFamily,
    resolve_profile,
    with_stated_family,
)
from omniforcing_model.weights.tensor_names import tensor_table
from omniforcing_model.weights.tensor_source import has_named, open_files, open_named

OUR_STEM = "model"
DIFFUSERS_STEM = "diffusion_pytorch_model"
DIFFUSERS_PART = "transformer"
CONFIG_FILE = "config.json"
OUR_SECTION = "model"  # of our config.json
CLASS_KEY = "_class_name"  # of diffusers' config.json


def open_checkpoint(path: Path, stated: StatedFamily | None = None) -> Checkpoint:
    """Open the checkpoint at `path`: read names, shapes and configuration.

    Raises:
        WeightsError: it has none of the formats, or is not of the stated family.
    """
    stated = stated or StatedFamily()
    checkpoint = _open_any(path, stated)
    config = with_stated_family(checkpoint.config, stated, path)
    if stated.phases is not None:
        rotary = config.rotary.model_copy(update={"phases": stated.phases})
        config = config.model_copy(update={"rotary": rotary})
    return checkpoint if config == checkpoint.config else replace(checkpoint, config=config)


def _open_any(path: Path, stated: StatedFamily) -> Checkpoint:
    if not path.exists():
        raise WeightsError(
            f"expected a model folder or a safetensors file at {path}, got nothing; check the path"
        )
    if path.is_dir():
        for folder in (path, path / DIFFUSERS_PART):
            values = _json_of(folder / CONFIG_FILE)
            if OUR_SECTION in values:
                return _open_ours(folder, values, stated)
            if CLASS_KEY in values:
                return _open_diffusers(folder, values, stated)
    return open_ltx_files(path, open_files(path), stated)


def _json_of(path: Path) -> dict[str, Any]:
    """The values of a JSON file, none if there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"expected JSON in {path}, got: {error}; copy it again") from error


def _open_ours(folder: Path, values: Mapping[str, Any], stated: StatedFamily) -> Checkpoint:
    try:
        config = ModelConfig.model_validate(values[OUR_SECTION])
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"expected a model's configuration in {folder / CONFIG_FILE}, got: {reason}; it was"
            " written by another version"
        ) from error
    config = _with_profile(config, folder, stated)
    source = open_named(folder, OUR_STEM)
    known = {entry.ours for entry in tensor_table(config)}
    names = {name: name for name in source.records if name in known}
    unexpected = tuple(name for name in source.records if name not in known)
    return Checkpoint(folder, "ours", config, source, names, unexpected)


def _with_profile(config: ModelConfig, path: Path, stated: StatedFamily) -> ModelConfig:
    rotary = config.rotary
    own = {
        "pairs": rotary.pairs,
        "frequencies": rotary.frequencies,
        "gate_timestep_scale": config.gate_timestep_scale,
    }
    profile = resolve_profile(own, stated, path, "its configuration says so")
    update = {"pairs": profile.pairs, "frequencies": profile.frequencies}
    return config.model_copy(
        update={
            "rotary": rotary.model_copy(update=update),
            "gate_timestep_scale": profile.gate_timestep_scale,
        }
    )


def _open_diffusers(folder: Path, values: Mapping[str, Any], stated: StatedFamily) -> Checkpoint:
    if not has_named(folder, DIFFUSERS_STEM) and list(folder.glob("*.safetensors")):
        raise WeightsError(
            f"expected {DIFFUSERS_STEM}.safetensors or its shards in {folder}, got other names;"
            " rename a variant's files to use it"
        )
    source = open_named(folder, DIFFUSERS_STEM)
    config = config_of_diffusers(values, Origin(folder, stated))
    config = with_noted_values(config, source, folder, stated)
    ours = {entry.diffusers: entry.ours for entry in tensor_table(config)}
    names = {ours[name]: name for name in source.records if name in ours}
    unexpected = tuple(name for name in source.records if name not in ours)
    return Checkpoint(folder, "diffusers", config, source, names, unexpected)
