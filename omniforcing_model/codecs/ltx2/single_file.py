"""Codecs and connectors from LTX-2's single file, as models of diffusers.

The file holds everything but Gemma and its tokenizer, under LTX-2's own names. Its
tensors show which release it is of; the sizes are that release's, by the fields of diffusers.
"""

import re
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.safetensors_file import TensorFile

Part = Literal["vae", "audio_vae", "vocoder", "connectors"]
_CODECS = "diffusers"
_LTX2 = "diffusers.pipelines.ltx2"
_TRANSFORMER = "model.diffusion_model."
_SHOWN = 3


class Release(NamedTuple):
    """A model of diffusers: where its class is, and where its config differs from the class's."""

    module: str
    kind: str
    config: Mapping[str, Any]


_VIDEO_20 = Release(
    _CODECS,
    "AutoencoderKLLTX2Video",
    {
        "decoder_causal": False,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
)
_VIDEO_23 = _VIDEO_20._replace(
    config={
        **_VIDEO_20.config,
        "block_out_channels": (256, 512, 1024, 1024),
        "layers_per_block": (4, 6, 4, 2, 2),
        "decoder_block_out_channels": (256, 512, 512, 1024),
        "decoder_layers_per_block": (4, 6, 4, 2, 2),
        "decoder_spatio_temporal_scaling": (True,) * 4,
        "decoder_inject_noise": (False,) * 5,
        "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        "upsample_residual": (False,) * 4,
        "upsample_factor": (2, 2, 1, 2),
        "decoder_spatial_padding_mode": "zeros",
    }
)
VIDEO_RELEASES = {"ltx-2.0": _VIDEO_20, "ltx-2.3": _VIDEO_23}  # by ModelConfig.architecture
_AUDIO = Release(_CODECS, "AutoencoderKLLTX2Audio", {})
_VOCODER_20 = Release(f"{_LTX2}.vocoder", "LTX2Vocoder", {})
_VOCODER_23 = Release(f"{_LTX2}.vocoder", "LTX2VocoderWithBWE", {})
_CONNECTORS_20 = Release(f"{_LTX2}.connectors", "LTX2TextConnectors", {"rope_type": "split"})
_CONNECTORS_23 = _CONNECTORS_20._replace(
    config={
        "rope_type": "split",
        "video_connector_num_attention_heads": 32,
        "video_connector_num_layers": 8,
        "video_gated_attn": True,
        "audio_connector_num_attention_heads": 32,
        "audio_connector_attention_head_dim": 64,
        "audio_connector_num_layers": 8,
        "audio_gated_attn": True,
        "per_modality_projections": True,
        "proj_bias": True,
    }
)

_PREFIXES: dict[Part, tuple[str, ...]] = {
    "vae": ("vae.",),
    "audio_vae": ("audio_vae.",),
    "vocoder": ("vocoder.",),
    # The first is where the connectors are, the others select their tensors there.
    "connectors": (
        _TRANSFORMER,
        "video_embeddings_connector.",
        "audio_embeddings_connector.",
        "text_embedding_projection.",
    ),
}
_MIDDLE = {"down": 8, "up": 0}


def _video_stage(match: re.Match[str]) -> str:
    """LTX-2 counts the stages, the samplers between them and the middle in one row."""
    half, way, number = match["half"], match["way"], int(match["number"])
    if number == _MIDDLE[way]:
        return f"{half}.mid_block."
    stage = number // 2 if way == "down" else (number - 1) // 2
    return f"{half}.{way}_blocks.{stage}." + (f"{way}samplers.0." if number % 2 else "")


_STATISTICS = {
    r"^per_channel_statistics\.mean-of-means$": "latents_mean",
    r"^per_channel_statistics\.std-of-means$": "latents_std",
}
_RENAMES: dict[Part, dict[str, str | Callable[[re.Match[str]], str]]] = {
    "vae": {
        r"^(?P<half>encoder|decoder)\.(?P<way>down|up)_blocks\.(?P<number>\d+)\.": _video_stage,
        r"\.res_blocks\.": ".resnets.",
        r"\.last_(time_embedder\.|scale_shift_table$)": r".\1",
        **_STATISTICS,
    },
    "audio_vae": {**_STATISTICS},
    "vocoder": {
        r"(^|\.)ups\.": r"\1upsamplers.",
        r"(^|\.)resblocks\.": r"\1resnets.",
        r"(^|\.)conv_pre\.": r"\1conv_in.",
        r"(^|\.)conv_post\.": r"\1conv_out.",
        r"(^|\.)act_post\.": r"\1act_out.",
        r"\.downsample\.lowpass\.": ".downsample.",
    },
    "connectors": {
        r"^(video|audio)_embeddings_connector\.": r"\1_connector.",
        r"^text_embedding_projection\.aggregate_embed\.": "text_proj_in.",
        r"^text_embedding_projection\.(video|audio)_aggregate_embed\.": r"\1_text_proj_in.",
        r"\.transformer_1d_blocks\.": ".transformer_blocks.",
        r"\.([qk])_norm\.": r".norm_\1.",
    },
}


def read_part(
    part: Part,
    file: Path,
    dtype: torch.dtype = torch.float32,
    sizes: Mapping[str, Any] | None = None,
) -> Any:
    """A model of diffusers from a single file.

    Args:
        part: which one.
        file: LTX-2's, of 2.0 or 2.3.
        dtype: of the model.
        sizes: config values that are not the release's, for a file of another size.

    Raises:
        WeightsError: the file is not readable, or does not hold exactly that model.
    """
    stored = TensorFile(file)
    names = names_of(part, stored.tensors)
    release = release_of(part, names)
    model = _build(release, {**release.config, **(sizes or {})})
    _require_exactly(model, {name: stored.tensors[own].shape for name, own in names.items()})
    tensors = {name: stored.tensor(own).to(dtype) for name, own in names.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.to(dtype)


def names_of(part: Part, stored: Collection[str]) -> dict[str, str]:
    """Name in the file, by name in diffusers, of every tensor of `part`."""
    prefix, *families = _PREFIXES[part]
    names = {}
    for source in stored:
        bare = source.removeprefix(prefix)
        if not (bare.startswith(tuple(families)) if families else source.startswith(prefix)):
            continue
        for pattern, replacement in _RENAMES[part].items():
            bare = re.sub(pattern, replacement, bare)
        # The other statistics are not for decoding.
        if not bare.startswith("per_channel_statistics."):
            names[bare] = source
    if not names:
        raise WeightsError(
            f"expected the tensors of {part} (in LTX-2's names) in the file, got none; take the"
            " single file of the release, or a folder in diffusers' layout"
        )
    return names


def release_of(part: Part, names: Collection[str]) -> Release:
    """The release that has tensors of these names, as diffusers builds it."""

    def has(start: str) -> bool:
        return any(name.startswith(start) for name in names)

    if part == "vae":
        release = _VIDEO_23 if has("decoder.up_blocks.3.") else _VIDEO_20
        conditioned = {"timestep_conditioning": has("decoder.time_embedder.")}
        return release._replace(config={**release.config, **conditioned})
    if part == "vocoder":
        return _VOCODER_23 if has("bwe_generator.") else _VOCODER_20
    if part == "connectors":
        return _CONNECTORS_23 if has("video_text_proj_in.") else _CONNECTORS_20
    return _AUDIO


def _build(release: Release, config: Mapping[str, Any]) -> Any:
    kind = getattr(import_module(release.module), release.kind)
    # Without memory, for the tensors of the file to take the places; but a vocoder computes some
    # of its filters, and is small.
    with torch.device("cpu" if release in (_VOCODER_20, _VOCODER_23) else "meta"):
        return kind.from_config(dict(config))


def _require_exactly(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for what, names in (
        ("without", needed.keys() - shapes.keys()),
        ("with the unknown", shapes.keys() - needed.keys()),
        ("with other shapes of", {n for n in needed.keys() & shapes if needed[n] != shapes[n]}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise WeightsError(
                f"expected exactly the tensors of {type(model).__name__} as LTX-2 released it, got"
                f" a file {what} {shown}; take the file of the release"
            )
