"""LTX-2's own names: its single file, and the files that OmniForcing released.

Both may hold other models too (VAE, vocoder, connectors of the text encoder), which are ignored.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from omniforcing_model.config import FamilyName, LayoutConfig, ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.families import FAMILIES, LAYOUTS
from omniforcing_model.weights.checkpoint import Checkpoint, Format
from omniforcing_model.weights.ltx2_config import Origin, config_of_header
from omniforcing_model.weights.stated_family import StatedFamily
from omniforcing_model.weights.tensor_names import RELEASED_SINKS, tensor_table
from omniforcing_model.weights.tensor_source import TensorSource

HEADER_KEY = "config"  # LTX-2's, in the metadata of its file
VERSION_KEY = "model_version"
HEADER_SECTION = "transformer"
OUR_KEY = "omniforcing"  # ours, for what LTX-2's formats have no field for
LTX_PREFIX = "model.diffusion_model."
PREFIXES = (LTX_PREFIX, "model.velocity_model.", "model.", "")
WRAPPERS = ("module", "_fsdp_wrapped_module")  # of DDP and FSDP, anywhere in a name
OTHER_MODELS = (
    "vae.",
    "audio_vae.",
    "vocoder.",
    "text_embedding_projection.",
    "video_embeddings_connector.",
    "audio_embeddings_connector.",
)
RELEASED_HEADS = 32
WITHOUT_HEADER_FAMILY: FamilyName = "omniforcing-5s"
WITHOUT_HEADER = "it has no header, as the weights that OmniForcing released, which were trained so"


def open_ltx_files(path: Path, source: TensorSource, stated: StatedFamily) -> Checkpoint:
    """The transformer in files with LTX-2's names.

    Raises:
        WeightsError: the configuration is not one of ours, or the profile is not the stated one.
    """
    bare = {name: _bare_name(name) for name in source.records}
    tensors = _by_bare_name(path, bare)
    gated = any(short.endswith(".to_gate_logits.weight") for short in tensors)
    text = source.metadata.get(HEADER_KEY)
    kind: Format = "shards" if text is None else "single-file"
    if text is None:
        config = _config_of_shapes(path, source, tensors, stated, gated)
    else:
        config = config_of_header(_header(path, text), Origin(path, stated, gated))
    config = with_noted_values(config, source, path, stated)
    dropped = [name for name, short in bare.items() if short.startswith(OTHER_MODELS)]
    if RELEASED_SINKS in tensors and not config.layout.sinks:
        dropped.append(tensors.pop(RELEASED_SINKS))
    ours = {entry.ltx: entry.ours for entry in tensor_table(config)}
    names = {ours[short]: name for short, name in tensors.items() if short in ours}
    unexpected = tuple(name for short, name in tensors.items() if short not in ours)
    prefixes = Counter(name.removesuffix(short) for short, name in tensors.items())
    (prefix, _), *_ = prefixes.most_common(1)
    return Checkpoint(path, kind, config, source, names, unexpected, tuple(sorted(dropped)), prefix)


def with_noted_values(
    config: ModelConfig, source: TensorSource, path: Path, stated: StatedFamily
) -> ModelConfig:
    """`config` with the layout, family and phases that `weights convert` notes in what it writes.

    LTX-2's formats have no field for them. WeightsError if the rest of the note is not `config`.
    """
    text = source.metadata.get(OUR_KEY)
    if text is None:
        return config
    try:
        noted = ModelConfig.model_validate_json(text)
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"expected a model's configuration in the note {OUR_KEY} of {path}, got: {reason}; it"
            " was written by another version"
        ) from error
    rotary = config.rotary.model_copy(update={"phases": noted.rotary.phases})
    noted_values = {"layout": noted.layout, "family": noted.family, "rotary": rotary}
    config = config.model_copy(update=noted_values)
    if config != noted and not stated.override:
        raise WeightsError(
            f"expected the configuration that was noted when {path} was written, got another beside"
            " it: one of them was edited; convert the checkpoint again"
        )
    return config


def _bare_name(name: str) -> str:
    """LTX-2's name of a tensor, without what training wraps around modules and checkpoints."""
    unwrapped = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    prefix = next(prefix for prefix in PREFIXES if unwrapped.startswith(prefix))
    return unwrapped.removeprefix(prefix)


def _by_bare_name(path: Path, bare: Mapping[str, str]) -> dict[str, str]:
    """Name in the file of each of the transformer's tensors; WeightsError if one is there twice."""
    tensors: dict[str, str] = {}
    for name, short in bare.items():
        if short.startswith(OTHER_MODELS):
            continue
        if short in tensors:
            raise WeightsError(
                f"expected every tensor once, got {tensors[short]} and {name} in {path}; keep the"
                " generator alone, without its average or its critic"
            )
        tensors[short] = name
    known = {"patchify_proj.weight", "audio_patchify_proj.weight", "proj_out.weight"}
    if not known & tensors.keys():
        shown = ", ".join(list(bare)[:3]) or "none"
        raise WeightsError(
            f"expected the names of LTX-2's transformer (patchify_proj.weight, ...) in {path}, got"
            f" {shown}; name the folder where the tensors lie beside a config.json"
        )
    return tensors


def _header(path: Path, text: str) -> dict[str, Any]:
    """The transformer's section of LTX-2's header."""
    try:
        return dict(json.loads(text)[HEADER_SECTION])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"expected JSON with {HEADER_SECTION!r} in the header key {HEADER_KEY!r} of {path}, got"
            f" {error!r}; take the file as it was released"
        ) from error


def _config_of_shapes(
    path: Path, source: TensorSource, tensors: Mapping[str, str], stated: StatedFamily, gated: bool
) -> ModelConfig:
    """The config of files without a header: sizes from shapes, profile as OmniForcing's."""

    def shape(name: str) -> tuple[int, ...]:
        return source.records[tensors[name]].shape if name in tensors else ()

    layers = {int(n.split(".")[1]) for n in tensors if n.startswith("transformer_blocks.")}
    values: dict[str, Any] = {"num_layers": max(layers, default=-1) + 1}
    for prefix in ("", "audio_"):
        projection = shape(f"{prefix}patchify_proj.weight")
        if len(projection) != 2 or projection[0] % RELEASED_HEADS:
            raise WeightsError(
                f"expected {prefix}patchify_proj.weight of {RELEASED_HEADS} heads in {path}, got"
                f" {projection or 'none'}: files without a header are read as LTX-2's sizes; take"
                " the file with its header"
            )
        values[f"{prefix}in_channels"] = projection[1]
        values[f"{prefix}num_attention_heads"] = RELEASED_HEADS
        values[f"{prefix}attention_head_dim"] = projection[0] // RELEASED_HEADS
    caption = shape("caption_projection.linear_1.weight")
    if len(caption) == 2:
        values["caption_channels"] = caption[1]
    if not gated:  # LTX-2.3 was never released without a header
        pairs, frequencies, multiplier = FAMILIES[WITHOUT_HEADER_FAMILY].profile
        values |= {
            "rope_type": pairs,
            "frequencies_precision": frequencies,
            "av_ca_timestep_scale_multiplier": multiplier,
        }
    if stated.layout is None and stated.family is None:
        stated = replace(stated, layout=_released_layout(shape(RELEASED_SINKS)))
    config = config_of_header(values, Origin(path, stated, gated, WITHOUT_HEADER))
    if gated or stated.family is not None or config.layout != LAYOUTS["released"]:
        return config
    return config.model_copy(update={"family": WITHOUT_HEADER_FAMILY})


def _released_layout(sinks: tuple[int, ...]) -> LayoutConfig:
    """The weights with sinks (1, sinks, width) have the paper's layout, those without their own."""
    if len(sinks) == 3:
        return LAYOUTS["paper"].model_copy(update={"sinks": sinks[1]})
    return LAYOUTS["released"]
