"""ModelConfig from the configuration in LTX-2's checkpoints, and back.

LTX-2's single file carries JSON in the header key `config`; diffusers writes config.json. Each has
field names of its own. Some fields are fixed in our transformer: another value is refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.families import LAYOUTS
from omniforcing_model.latent_clock import AUDIO_TEMPORAL_STRIDE, VIDEO_TEMPORAL_STRIDE
from omniforcing_model.per_stream import STREAMS
from omniforcing_model.weights.stated_family import StatedFamily, resolve_profile

DIFFUSERS_CLASS = "LTX2VideoTransformer3DModel"
DEFAULT_LAYOUT = LAYOUTS["paper"]
PIXELS_PER_LATENT = 32
FRAMES_PER_LATENT = VIDEO_TEMPORAL_STRIDE
GEMMA_WIDTH = 3840
PAIRS = ("split", "interleaved")
PRECISIONS = ("float64", "float32")

# What is fixed in our transformer, by the fields of LTX-2's header; an absent field means the same.
HEADER_FIXED: dict[str, Any] = {
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "causal_temporal_positioning": True,
    "use_middle_indices_grid": True,
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
    "use_prompt_adaln_single": True,
    "ff_bias": True,
    "audio_ff_bias": True,
    "use_keyframes_abs_pos_embedding": False,
    "patch_size": 1,
}
# The same by the fields of diffusers' config.json.
DIFFUSERS_FIXED: dict[str, Any] = {
    "patch_size": 1,
    "patch_size_t": 1,
    "audio_patch_size": 1,
    "audio_patch_size_t": 1,
    "audio_scale_factor": AUDIO_TEMPORAL_STRIDE,
    "audio_sampling_rate": 16_000,
    "audio_hop_length": 160,
    "activation_fn": "gelu-approximate",
    "qk_norm": "rms_norm_across_heads",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "attention_bias": True,
    "attention_out_bias": True,
    "causal_offset": 1,
    "ff_bias": True,
    "audio_ff_bias": True,
    "use_prompt_adaln_single": True,
    "use_keyframes_abs_pos_embedding": False,
}
# Our value, its name in the header, its name in config.json, and its value in every LTX-2 so far.
SIZES: tuple[tuple[str, str, str, float], ...] = (
    ("layers", "num_layers", "num_layers", 48),
    ("video_channels", "in_channels", "in_channels", 128),
    ("video_heads", "num_attention_heads", "num_attention_heads", 32),
    ("video_head_dim", "attention_head_dim", "attention_head_dim", 128),
    ("audio_channels", "audio_in_channels", "audio_in_channels", 128),
    ("audio_heads", "audio_num_attention_heads", "audio_num_attention_heads", 32),
    ("audio_head_dim", "audio_attention_head_dim", "audio_attention_head_dim", 64),
    ("text_width", "caption_channels", "caption_channels", GEMMA_WIDTH),
    ("timestep_scale", "timestep_scale_multiplier", "timestep_scale_multiplier", 1000),
    ("theta", "positional_embedding_theta", "rope_theta", 10_000.0),
)


class Origin(NamedTuple):
    """The checkpoint that a config is read from: its path, what the caller states, its tensors."""

    path: Path
    stated: StatedFamily
    gated: bool = False  # whether its tensors are those of LTX-2.3
    reason: str = "its configuration says so"


def config_of_header(values: Mapping[str, Any], origin: Origin) -> ModelConfig:
    """The model that the section `transformer` of LTX-2's header describes.

    Raises:
        WeightsError: a value is one that our transformer does not compute, or the profile is
            missing or not the stated one.
    """
    _refuse_others(values, HEADER_FIXED, origin)
    sizes = {ours: values.get(header, usual) for ours, header, _, usual in SIZES}
    _refuse_other_widths(values, sizes, origin)
    horizons = values.get("positional_embedding_max_pos", [20, 2048, 2048])
    audio_horizons = values.get("audio_positional_embedding_max_pos", [20])
    sizes |= dict(zip(("seconds", "height", "width"), horizons, strict=False))
    sizes |= dict(zip(("audio_seconds",), audio_horizons, strict=False))
    sizes["stride"] = PIXELS_PER_LATENT
    own = _drop_none(
        pairs=_choice_of(values, "rope_type", PAIRS, origin),
        frequencies=_choice_of(values, "frequencies_precision", PRECISIONS, origin),
        gate_timestep_scale=values.get("av_ca_timestep_scale_multiplier"),
    )
    gates = [
        values.get("apply_gated_attention", origin.gated),
        values.get("cross_attention_adaln", origin.gated),
    ]
    return _config(sizes, gates, own, origin)


def config_of_diffusers(values: Mapping[str, Any], origin: Origin) -> ModelConfig:
    """The model that diffusers' config.json describes; raises as `config_of_header` does."""
    if values.get("_class_name") != DIFFUSERS_CLASS:
        raise WeightsError(
            f"expected the configuration of a {DIFFUSERS_CLASS}, got one of"
            f" {values.get('_class_name')} in {origin.path}; name the folder of the transformer"
        )
    strides = values.get(
        "vae_scale_factors", [FRAMES_PER_LATENT, PIXELS_PER_LATENT, PIXELS_PER_LATENT]
    )
    fixed = DIFFUSERS_FIXED | {"vae_scale_factors": [FRAMES_PER_LATENT, *[strides[-1]] * 2]}
    _refuse_others(values, fixed, origin)
    sizes = {ours: values.get(theirs, usual) for ours, _, theirs, usual in SIZES}
    _refuse_other_widths(values, sizes, origin)
    sizes |= {
        "seconds": values.get("pos_embed_max_pos", 20),
        "audio_seconds": values.get("audio_pos_embed_max_pos", 20),
        "height": values.get("base_height", 2048),
        "width": values.get("base_width", 2048),
        "stride": strides[-1],
    }
    double = _choice_of(values, "rope_double_precision", (True, False), origin)
    own = _drop_none(
        pairs=_choice_of(values, "rope_type", PAIRS, origin),
        frequencies=None if double is None else PRECISIONS[0] if double else PRECISIONS[1],
        gate_timestep_scale=values.get("cross_attn_timestep_scale_multiplier"),
    )
    names = ("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod")
    gates = [values.get(name, False) for name in names]
    return _config(sizes, [*gates, not values.get("use_prompt_embeddings", True)], own, origin)


def header_of(config: ModelConfig) -> dict[str, Any]:
    """The section `transformer` of LTX-2's header; WeightsError for what it has no field for."""
    if config.spatial_stride != PIXELS_PER_LATENT:
        raise WeightsError(
            f"expected {PIXELS_PER_LATENT} pixels per latent, got {config.spatial_stride}: LTX-2's"
            " header has no word for it; write another format"
        )
    sizes, rotary = _sizes_of(config), config.rotary
    horizons = [_as_number(x) for x in (rotary.max_seconds, rotary.max_height, rotary.max_width)]
    return {
        "_class_name": "AVTransformer3DModel",
        **HEADER_FIXED,
        **{header: sizes[ours] for ours, header, _, _ in SIZES},
        "out_channels": config.video.latent_channels,
        "audio_out_channels": config.audio.latent_channels,
        "cross_attention_dim": config.video.width,
        "audio_cross_attention_dim": config.audio.width,
        "positional_embedding_max_pos": horizons,
        "audio_positional_embedding_max_pos": horizons[:1],
        "rope_type": rotary.pairs,
        "frequencies_precision": rotary.frequencies,
        "av_ca_timestep_scale_multiplier": _as_number(config.gate_timestep_scale),
        "apply_gated_attention": config.gated_attention,
        "cross_attention_adaln": config.modulated_text,
        "caption_proj_before_connector": config.modulated_text,
    }


def diffusers_config_of(config: ModelConfig) -> dict[str, Any]:
    """diffusers' config.json."""
    sizes, rotary = _sizes_of(config), config.rotary
    gated, modulated = config.gated_attention, config.modulated_text
    return {
        "_class_name": DIFFUSERS_CLASS,
        **DIFFUSERS_FIXED,
        **{theirs: sizes[ours] for ours, _, theirs, _ in SIZES},
        "vae_scale_factors": [FRAMES_PER_LATENT, config.spatial_stride, config.spatial_stride],
        "out_channels": config.video.latent_channels,
        "audio_out_channels": config.audio.latent_channels,
        "cross_attention_dim": config.video.width,
        "audio_cross_attention_dim": config.audio.width,
        "pos_embed_max_pos": _as_number(rotary.max_seconds),
        "audio_pos_embed_max_pos": _as_number(rotary.max_seconds),
        "base_height": _as_number(rotary.max_height),
        "base_width": _as_number(rotary.max_width),
        "rope_type": rotary.pairs,
        "rope_double_precision": rotary.frequencies == PRECISIONS[0],
        "cross_attn_timestep_scale_multiplier": _as_number(config.gate_timestep_scale),
        "gated_attn": gated,
        "audio_gated_attn": gated,
        "cross_attn_mod": modulated,
        "audio_cross_attn_mod": modulated,
        "use_prompt_embeddings": not modulated,
        "perturbed_attn": modulated,  # its spatio-temporal guidance is of the kind "values"
    }


def _config(
    sizes: Mapping[str, Any], gates: list[Any], own: Mapping[str, Any], origin: Origin
) -> ModelConfig:
    if len({bool(gate) for gate in gates}) != 1:
        raise WeightsError(
            "expected gated attention and modulated text both (LTX-2.3) or neither (2.0), got one"
            f" of them in {origin.path}; take a released checkpoint"
        )
    if sizes["seconds"] != sizes["audio_seconds"] or sizes["video_heads"] != sizes["audio_heads"]:
        raise WeightsError(
            "expected the same horizon in seconds and as many heads in both streams, got"
            f" {sizes['seconds']} and {sizes['audio_seconds']} s, {sizes['video_heads']} and"
            f" {sizes['audio_heads']} heads in {origin.path}; take a released checkpoint"
        )
    profile = resolve_profile(own, origin.stated, origin.path, origin.reason)
    new = bool(gates[0])
    video, audio = (
        {
            "latent_channels": sizes[f"{stream}_channels"],
            "heads": sizes[f"{stream}_heads"],
            "head_dim": sizes[f"{stream}_head_dim"],
        }
        for stream in STREAMS
    )
    rotary = {
        "pairs": profile.pairs,
        "frequencies": profile.frequencies,
        "phases": "float32",
        "theta": sizes["theta"],
        "max_seconds": sizes["seconds"],
        "max_height": sizes.get("height"),
        "max_width": sizes.get("width"),
    }
    values = {
        "architecture": "ltx-2.3" if new else "ltx-2.0",
        "layers": sizes["layers"],
        "video": video,
        "audio": audio,
        "text_width": sizes["video_heads"] * sizes["video_head_dim"]
        if new
        else sizes["text_width"],
        "spatial_stride": sizes["stride"],
        "timestep_scale": sizes["timestep_scale"],
        "gate_timestep_scale": profile.gate_timestep_scale,
        "rotary": rotary,
        "layout": origin.stated.layout_of_family or DEFAULT_LAYOUT,
    }
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"expected the sizes of a transformer in {origin.path}, got: {reason}; take a released"
            " checkpoint"
        ) from error


def _sizes_of(config: ModelConfig) -> dict[str, Any]:
    """Values of SIZES for `config`."""
    video, audio = config.video, config.audio
    return {
        "layers": config.layers,
        "video_channels": video.latent_channels,
        "video_heads": video.heads,
        "video_head_dim": video.head_dim,
        "audio_channels": audio.latent_channels,
        "audio_heads": audio.heads,
        "audio_head_dim": audio.head_dim,
        "text_width": GEMMA_WIDTH if config.modulated_text else config.text_width,
        "timestep_scale": _as_number(config.timestep_scale),
        "theta": config.rotary.theta,
    }


def _refuse_others(values: Mapping[str, Any], fixed: Mapping[str, Any], origin: Origin) -> None:
    other = [
        f"{name} {values[name]!r} instead of {value!r}"
        for name, value in fixed.items()
        if name in values and values[name] != value
    ]
    if other:
        raise WeightsError(
            f"expected a transformer as of LTX-2.0 or 2.3, got {'; '.join(other)} in"
            f" {origin.path}; other ones are not supported"
        )


def _refuse_other_widths(
    values: Mapping[str, Any], sizes: Mapping[str, Any], origin: Origin
) -> None:
    """Output channels are those of the input, and attention is as wide as its stream."""
    widths = {
        "out_channels": sizes["video_channels"],
        "audio_out_channels": sizes["audio_channels"],
        "cross_attention_dim": sizes["video_heads"] * sizes["video_head_dim"],
        "audio_cross_attention_dim": sizes["audio_heads"] * sizes["audio_head_dim"],
    }
    present = {name: value for name, value in values.items() if value is not None}
    _refuse_others(present, widths, origin)


def _choice_of(
    values: Mapping[str, Any], name: str, allowed: tuple[Any, ...], origin: Origin
) -> Any:
    """The value of a field, None if it is absent; WeightsError unless it is an allowed one."""
    value = values.get(name)
    if value is not None and value not in allowed:
        raise WeightsError(
            f"expected {name} of {', '.join(map(str, allowed))}, got {value!r} in {origin.path};"
            " other ones are not supported"
        )
    return value


def _drop_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _as_number(number: float) -> float:
    """A whole number as an integer, as LTX-2's files have it."""
    return int(number) if float(number).is_integer() else number
