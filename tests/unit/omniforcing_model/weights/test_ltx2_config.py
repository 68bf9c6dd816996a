"""What LTX-2's header and diffusers' config.json say is honoured, and nothing else is assumed."""

from pathlib import Path
from typing import Any

import pytest

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.ltx2_config import (
    Origin,
    config_of_diffusers,
    config_of_header,
    diffusers_config_of,
    header_of,
)
from omniforcing_model.weights.stated_family import StatedFamily
from tests.unit.omniforcing_model.weights.conftest import small_config

ORIGIN = Origin(Path("ltx.safetensors"), StatedFamily())
# The header of LTX-2.3 as it was released, in the part that concerns the transformer.
RELEASED: dict[str, Any] = {
    "_class_name": "AVTransformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 128,
    "caption_channels": 3840,
    "cross_attention_dim": 4096,
    "dropout": 0.0,
    "in_channels": 128,
    "norm_eps": 1e-06,
    "num_attention_heads": 32,
    "num_layers": 48,
    "num_vector_embeds": None,
    "out_channels": 128,
    "qk_norm": "rms_norm",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "causal_temporal_positioning": True,
    "audio_num_attention_heads": 32,
    "audio_attention_head_dim": 64,
    "audio_out_channels": 128,
    "audio_cross_attention_dim": 2048,
    "audio_positional_embedding_max_pos": [20],
    "use_middle_indices_grid": True,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "connector_num_layers": 8,
    "rope_type": "split",
    "frequencies_precision": "float64",
}


def read(**changes: Any) -> ModelConfig:
    values = {key: value for key, value in (RELEASED | changes).items() if value != "absent"}
    return config_of_header(values, ORIGIN)


def test_the_released_header_is_understood() -> None:
    config = read()
    assert config.architecture == "ltx-2.3"
    assert (config.video.width, config.audio.width, config.text_width) == (4096, 2048, 4096)
    assert config.rotary.phases == "float32"
    assert config.gate_timestep_scale == 1000
    assert config.layout.sinks == 0


@pytest.mark.parametrize(
    ("key", "value", "read_as"),
    [
        ("rope_type", "interleaved", lambda config: config.rotary.pairs == "interleaved"),
        ("frequencies_precision", "float32", lambda c: c.rotary.frequencies == "float32"),
        ("av_ca_timestep_scale_multiplier", 1.0, lambda c: c.gate_timestep_scale == 1),
        ("timestep_scale_multiplier", 500, lambda c: c.timestep_scale == 500),
        ("positional_embedding_theta", 500.0, lambda c: c.rotary.theta == 500),
        ("positional_embedding_max_pos", [20, 1024, 512], lambda c: c.rotary.max_width == 512),
        ("num_layers", 3, lambda c: c.layers == 3),
    ],
)
def test_every_value_that_changes_the_function_is_read(key: str, value: Any, read_as) -> None:
    assert not read_as(read())
    assert read_as(read(**{key: value}))


SIZES_IN_A_HEADER = (
    "num_layers",
    "in_channels",
    "num_attention_heads",
    "attention_head_dim",
    "audio_num_attention_heads",
    "audio_attention_head_dim",
    "caption_channels",
    "timestep_scale_multiplier",
    "positional_embedding_theta",
)


def test_a_header_without_sizes_is_that_of_the_release() -> None:
    assert read(**dict.fromkeys(SIZES_IN_A_HEADER, "absent")) == read()
    assert read().audio.latent_channels == 128


def test_without_gates_it_is_ltx_2_0() -> None:
    config = read(apply_gated_attention=False, cross_attention_adaln=False)
    assert config.architecture == "ltx-2.0"
    assert config.text_width == 3840


def test_the_tensors_tell_the_architecture_where_the_header_does_not() -> None:
    values = {k: v for k, v in RELEASED.items() if k not in ("cross_attention_adaln",)}
    assert config_of_header(values, ORIGIN._replace(gated=True)).architecture == "ltx-2.3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm 'layer_norm' instead of 'rms_norm'"),
        ({"norm_eps": 1e-5}, "norm_eps"),
        ({"patch_size": 2}, "patch_size 2 instead of 1"),
        ({"ff_bias": False}, "ff_bias False instead of True"),  # LTX-2.5
        ({"use_keyframes_abs_pos_embedding": True}, "use_keyframes_abs_pos_embedding"),
        ({"rope_type": "spiral"}, "expected rope_type of split, interleaved, got 'spiral'"),
        ({"frequencies_precision": "float16"}, "frequencies_precision"),
        ({"apply_gated_attention": False}, "both .* or neither"),
        ({"audio_num_attention_heads": 16, "audio_cross_attention_dim": 1024}, "as many heads"),
        ({"audio_positional_embedding_max_pos": [10]}, "the same horizon"),
        ({"out_channels": 64}, "out_channels 64 instead of 128"),
        ({"cross_attention_dim": 2048}, "cross_attention_dim 2048 instead of 4096"),
        ({"num_layers": 0}, "layers"),
        ({"rope_type": "absent"}, "got no pairs; state the family"),
        ({"av_ca_timestep_scale_multiplier": "absent"}, "got no gate_timestep_scale"),
    ],
)
def test_what_we_do_not_compute_or_know_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read(**changes)


def test_a_stated_profile_fills_in_what_a_header_leaves_open() -> None:
    values = {k: v for k, v in RELEASED.items() if k != "av_ca_timestep_scale_multiplier"}
    stated = ORIGIN._replace(stated=StatedFamily(family="ltx-2"))
    assert config_of_header(values, stated).gate_timestep_scale == 1000


@pytest.mark.parametrize("pairs", ["split", "interleaved"])
@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_a_config_survives_both_formats(architecture: str, pairs: str) -> None:
    config = small_config(architecture, pairs=pairs, frequencies="float32", max_seconds=12.5)
    assert config_of_header(header_of(config), ORIGIN) == config
    assert config_of_diffusers(diffusers_config_of(config), ORIGIN) == config


def test_pixels_per_latent_survive_diffusers_only(config: ModelConfig) -> None:
    config = config.model_copy(update={"spatial_stride": 16})
    assert config_of_diffusers(diffusers_config_of(config), ORIGIN) == config
    with pytest.raises(WeightsError, match="no word for it"):
        header_of(config)


def test_another_class_of_diffusers_is_refused(config: ModelConfig) -> None:
    values = diffusers_config_of(config) | {"_class_name": "LTXVideoTransformer3DModel"}
    with pytest.raises(WeightsError, match="got one of LTXVideoTransformer3DModel"):
        config_of_diffusers(values, ORIGIN)
