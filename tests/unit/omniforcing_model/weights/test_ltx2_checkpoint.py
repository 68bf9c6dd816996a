"""OmniForcing's files in every spelling, and LTX-2's single file among other models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.terminal.progress import SilentProgress
from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.families import FAMILIES, LAYOUTS
from omniforcing_model.weights.checkpoint_files import load_model, save_model
from omniforcing_model.weights.checkpoint_format import open_checkpoint
from omniforcing_model.weights.ltx2_config import header_of
from omniforcing_model.weights.stated_family import StatedFamily
from omniforcing_model.weights.tensor_names import tensor_table
from pipelines.weights import Conversion, convert
from tests.unit.omniforcing_model.weights.conftest import ltx_tensors, small_config
from tests.worlds.layouts import layout_of

Shards = Callable[..., Path]
SPELLINGS = [
    "model.diffusion_model.",
    "model.velocity_model.",
    "model.",
    "",
    "module.",
    "_fsdp_wrapped_module.",
    "module.model.diffusion_model.",
    "model._fsdp_wrapped_module.",
]
OTHERS = {
    name: torch.ones(2)
    for name in (
        "vae.decoder.conv_in.weight",
        "audio_vae.per_channel_statistics.mean-of-means",
        "vocoder.conv_pre.weight",
        "text_embedding_projection.aggregate_embed.weight",
        "model.diffusion_model.video_embeddings_connector.learnable_registers",
        "model.audio_embeddings_connector.transformer_1d_blocks.0.attn1.to_q.weight",
    )
}


@pytest.mark.parametrize("prefix", SPELLINGS)
def test_every_spelling_of_the_shards_loads_every_tensor(
    shards: Shards, config: ModelConfig, prefix: str
) -> None:
    path = shards(config, prefix, OTHERS)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "shards"
    assert checkpoint.dropped == tuple(sorted(OTHERS))
    loaded, expected = load_model(path).file_tensors(), ltx_tensors(config)
    assert all(
        torch.equal(loaded[entry.ours], expected[entry.ltx])
        for entry in tensor_table(checkpoint.config)
        if entry.diffusers
    )


def test_shards_have_the_profile_and_layout_of_the_release(
    shards: Shards, config: ModelConfig
) -> None:
    read = open_checkpoint(shards(config)).config
    assert (read.rotary.pairs, read.rotary.frequencies) == ("interleaved", "float32")
    assert read.gate_timestep_scale == 1
    assert read.layout == LAYOUTS["released"]
    assert read.family == "omniforcing-5s"
    assert read.video == config.video
    assert read.text_width == config.text_width


def test_shards_under_ltx_2s_profile_are_refused_unless_it_is_meant(
    shards: Shards, config: ModelConfig
) -> None:
    path = shards(config)
    with pytest.raises(WeightsError, match=r"interleaved instead of split.*it has no header"):
        load_model(path, stated=StatedFamily(family="ltx-2"))
    meant = open_checkpoint(path, StatedFamily(family="ltx-2", override=True)).config
    assert meant.rotary.pairs == "split"


def test_ltx_2_3_without_a_header_needs_a_profile(shards: Shards) -> None:
    path = shards(small_config("ltx-2.3"))
    with pytest.raises(WeightsError, match="got no pairs, frequencies, gate_timestep_scale"):
        open_checkpoint(path)
    read = open_checkpoint(path, StatedFamily(family="ltx-2")).config
    assert read == small_config("ltx-2.3").model_copy(update={"family": "ltx-2"})


def test_released_sinks_are_kept_for_the_papers_layout(shards: Shards, config: ModelConfig) -> None:
    tokens = torch.randn(1, 3, config.audio.width)
    path = shards(config, "model.", {"model.audio_sink_tokens": tokens})
    assert open_checkpoint(path).config.layout.sinks == 3
    assert torch.equal(load_model(path).file_tensors()["audio.sinks.tokens"], tokens[0])
    assert torch.equal(
        open_checkpoint(path).tensor("audio.sinks.tokens", slice(1, 3)), tokens[0, 1:]
    )
    layout = layout_of("released", sinks=0, window_blocks=4)
    without = open_checkpoint(path, StatedFamily(layout=layout))
    assert without.dropped == ("model.audio_sink_tokens",)
    without.require()
    other = layout_of("paper", sinks=5, window_blocks=4)
    with pytest.raises(WeightsError, match=r"audio_sink_tokens \(3, 64\) instead of \(5, 64\)"):
        open_checkpoint(path, StatedFamily(layout=other)).require()


def test_sinks_that_no_file_has_start_new_and_equal(shards: Shards, config: ModelConfig) -> None:
    stated = StatedFamily(layout=layout_of("paper", sinks=4, window_blocks=2))
    path = shards(config)
    assert open_checkpoint(path, stated).fresh == ("audio.sinks.tokens",)
    sinks = [load_model(path, stated=stated).file_tensors()["audio.sinks.tokens"] for _ in "12"]
    assert torch.equal(*sinks)
    assert 0.01 < sinks[0].std() < 0.03


def test_a_generator_beside_its_average_is_refused(shards: Shards, config: ModelConfig) -> None:
    twice = {f"model.velocity_model.{n}": t for n, t in ltx_tensors(config).items()}
    with pytest.raises(WeightsError, match="expected every tensor once"):
        open_checkpoint(shards(config, "model.", twice))


def test_layers_that_fsdp_wrapped_one_by_one_are_known(shards: Shards, config: ModelConfig) -> None:
    path = shards(config, "_fsdp_wrapped_module.")
    tensors = {
        name.replace("transformer_blocks.0.", "transformer_blocks.0._fsdp_wrapped_module."): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)
    loaded, expected = load_model(path).file_tensors(), ltx_tensors(config)
    name = "video.layers.0.self_attention.to_q.weight"
    assert torch.equal(loaded[name], expected["transformer_blocks.0.attn1.to_q.weight"])


def test_a_missing_tensor_is_named_as_the_file_spells_it(
    shards: Shards, config: ModelConfig
) -> None:
    path = shards(config, "model.velocity_model.")
    tensors = load_file(path)
    del tensors["model.velocity_model.transformer_blocks.0.attn1.q_norm.weight"]
    save_file(tensors, path)
    message = r"1 missing: model\.velocity_model\.transformer_blocks\.0\.attn1\.q_norm\.weight"
    with pytest.raises(WeightsError, match=message):
        load_model(path)


def single_file(folder: Path, config: ModelConfig, text: str | None = None) -> Path:
    tensors = {f"model.diffusion_model.{n}": t for n, t in ltx_tensors(config).items()}
    path = folder / "ltx.safetensors"
    header = json.dumps({"transformer": header_of(config), "vae": {}}) if text is None else text
    save_file(tensors | OTHERS, path, {"config": header, "model_version": "2.0"})
    return path


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_the_header_of_a_single_file_is_honoured(architecture: str, tmp_path: Path) -> None:
    config = small_config(architecture, theta=500.0)
    checkpoint = open_checkpoint(single_file(tmp_path, config))
    assert checkpoint.format == "single-file"
    assert checkpoint.config == config
    checkpoint.require()


def test_a_file_that_cannot_show_its_family_gets_the_stated_one_and_keeps_it(
    tmp_path: Path,
) -> None:
    """Bare names and LTX-2.3's header: nothing in it tells which blocks its attentions may see."""
    path = single_file(tmp_path, small_config("ltx-2.3"))
    assert open_checkpoint(path).config.layout.cross_view == "history"
    stated = StatedFamily(family="lightx2v-ar")
    model = load_model(path, stated=stated)
    assert model.config.layout == FAMILIES["lightx2v-ar"].layout
    save_model(tmp_path / "ours", model, {})
    assert open_checkpoint(tmp_path / "ours").config == model.config
    assert open_checkpoint(tmp_path / "ours", stated).config.family == "lightx2v-ar"
    with pytest.raises(WeightsError, match="got family lightx2v-ar"):
        open_checkpoint(tmp_path / "ours", StatedFamily(family="ltx-2"))


def test_blocks_that_a_run_states_are_held_against_the_family(tmp_path: Path) -> None:
    path = single_file(tmp_path, small_config("ltx-2.3"))
    stated = StatedFamily(LAYOUTS["paper"], family="echo-wm-flash")
    with pytest.raises(WeightsError, match="pinned_blocks 1 instead of 3, prompt_sigma own"):
        open_checkpoint(path, stated)


def test_a_note_in_a_file_keeps_the_family(tmp_path: Path) -> None:
    path = single_file(tmp_path, small_config("ltx-2.3"))
    convert(
        path,
        Conversion(tmp_path / "noted.safetensors", "single-file"),
        StatedFamily(family="lightx2v-ar"),
        SilentProgress(),
    )
    noted = open_checkpoint(tmp_path / "noted.safetensors").config
    assert (noted.family, noted.layout.cross_view) == ("lightx2v-ar", "own")


@pytest.mark.parametrize("text", ["{", "[]", '{"vae": {}}'])
def test_a_broken_header_is_refused(tmp_path: Path, config: ModelConfig, text: str) -> None:
    with pytest.raises(WeightsError, match="expected JSON with 'transformer'"):
        open_checkpoint(single_file(tmp_path, config, text))


def test_quantised_tensors_are_refused_by_dtype(shards: Shards, config: ModelConfig) -> None:
    path = shards(config)
    tensors = load_file(path)
    name = "transformer_blocks.0.attn1.to_q.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=rf"got 1 in F8_E4M3 \({name} is one\)"):
        load_model(path)


def test_a_file_of_another_model_says_what_was_expected(tmp_path: Path) -> None:
    save_file({"down_blocks.0.weight": torch.ones(2)}, tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"patchify_proj.*got down_blocks\.0\.weight"):
        open_checkpoint(tmp_path / "vae.safetensors")
