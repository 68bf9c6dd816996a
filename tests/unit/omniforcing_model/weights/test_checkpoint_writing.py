import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint_format import open_checkpoint
from omniforcing_model.weights.checkpoint_writing import (
    write_diffusers,
    write_ours,
    write_single_file,
)
from omniforcing_model.weights.safetensors_file import TensorToWrite
from omniforcing_model.weights.tensor_names import SINKS
from tests.worlds.small_models import random_small_model, small_model_config


def to_write(sinks: int = 0) -> tuple:
    config = small_model_config(sinks=sinks)
    views = random_small_model(config).file_tensors()
    return config, [
        TensorToWrite(name, torch.float32, tuple(view.shape), lambda view=view: view)
        for name, view in views.items()
    ]


def names_in(path: Path) -> set[str]:
    return set(load_file(path))


def bytes_of(path: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(path).values())


def test_notes_stand_beside_the_model(tmp_path: Path) -> None:
    config, tensors = to_write()
    write_ours(tmp_path / "new" / "folder", config, tensors, {"stage": "stage_1"})
    values = json.loads((tmp_path / "new" / "folder" / "config.json").read_text("utf-8"))
    assert values == {"model": config.model_dump(mode="json"), "stage": "stage_1"}
    files = sorted(file.name for file in (tmp_path / "new" / "folder").iterdir())
    assert files == ["config.json", "model.safetensors"]


def test_shards_are_as_large_as_they_may_be_and_replace_what_was_there(tmp_path: Path) -> None:
    config, tensors = to_write()
    write_ours(tmp_path, config, tensors, {})
    whole = names_in(tmp_path / "model.safetensors")
    limit = sum(tensor.bytes for tensor in tensors) // 3
    write_ours(tmp_path, config, tensors, {}, limit)
    shards = sorted(tmp_path.glob("*.safetensors"))
    count = len(shards)
    assert 3 <= count <= 5
    assert [file.name for file in shards] == [
        f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)
    ]
    assert all(bytes_of(file) <= limit for file in shards)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == sum(tensor.bytes for tensor in tensors)
    assert {name: tmp_path / file for name, file in index["weight_map"].items()} == {
        name: file for file in shards for name in names_in(file)
    }
    write_ours(tmp_path, config, tensors, {})
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert names_in(tmp_path / "model.safetensors") == whole


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    config, tensors = to_write()
    write_ours(tmp_path, config, tensors[:4], {}, shard_bytes=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_diffusers_has_no_place_for_sinks(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a model without sinks for diffusers, got 2"):
        write_diffusers(tmp_path, *to_write(sinks=2))
    write_diffusers(tmp_path, *to_write())
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    with safe_open(file, framework="pt") as stored:
        assert stored.metadata()["format"] == "pt"
    assert "audio_proj_in.weight" in names_in(file)
    assert open_checkpoint(tmp_path).format == "diffusers"


def test_sinks_have_a_batch_axis_in_a_single_file(tmp_path: Path) -> None:
    config, tensors = to_write(sinks=2)
    path = tmp_path / "deep" / "ltx.safetensors"
    write_single_file(path, config, tensors)
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        shape = stored.get_slice("model.diffusion_model.audio_sink_tokens").get_shape()
    assert shape == [1, 2, 8]
    assert metadata["model_version"] == "2.0"
    assert "transformer" in json.loads(metadata["config"])
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    sinks = next(tensor.read() for tensor in tensors if tensor.name == SINKS)
    assert torch.equal(checkpoint.tensor(SINKS), sinks)
