"""The table of names is the model's own, and its LTX-2 names are those of the released files."""

import pytest
import torch

from omniforcing_model.config import ModelConfig
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.tensor_names import tensor_table
from tests.unit.omniforcing_model.weights.conftest import small_config


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_the_table_lists_the_models_tensors(architecture: str, sinks: int) -> None:
    config = small_config(architecture, sinks)
    with torch.device("meta"):
        model = DualStreamTransformer(config)
    shapes = {name: tuple(view.shape) for name, view in model.file_tensors().items()}
    table = tensor_table(config)
    assert {entry.ours: entry.shape for entry in table} == shapes
    assert len({entry.ltx for entry in table}) == len(table)


@pytest.mark.parametrize(
    ("ours", "ltx", "diffusers"),
    [
        ("video.proj_in.weight", "patchify_proj.weight", "proj_in.weight"),
        (
            "video.gate_embed.linear_1.weight",
            "av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_1.weight",
            "av_cross_attn_video_a2v_gate.emb.timestep_embedder.linear_1.weight",
        ),
        ("audio.time_embed.linear.bias", "audio_adaln_single.linear.bias", None),
        (
            "video.layers.0.cross_queries.norm_q.weight",
            "transformer_blocks.0.audio_to_video_attn.q_norm.weight",
            "transformer_blocks.0.audio_to_video_attn.norm_q.weight",
        ),
        (
            "video.layers.0.cross_keys.to_v.bias",
            "transformer_blocks.0.video_to_audio_attn.to_v.bias",
            "transformer_blocks.0.video_to_audio_attn.to_v.bias",
        ),
        (
            "audio.layers.0.cross_table",
            "transformer_blocks.0.scale_shift_table_a2v_ca_audio",
            "transformer_blocks.0.audio_a2v_cross_attn_scale_shift_table",
        ),
        (
            "audio.layers.0.feed_forward.up.weight",
            "transformer_blocks.0.audio_ff.net.0.proj.weight",
            None,
        ),
    ],
)
def test_names_are_those_of_the_released_files(
    config: ModelConfig, ours: str, ltx: str, diffusers: str | None
) -> None:
    (entry,) = (entry for entry in tensor_table(config) if entry.ours == ours)
    assert entry.ltx == ltx
    assert diffusers in (None, entry.diffusers)
