import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint_files import save_model
from omniforcing_model.weights.checkpoint_format import open_checkpoint
from omniforcing_model.weights.checkpoint_writing import write_diffusers
from omniforcing_model.weights.safetensors_file import TensorToWrite
from omniforcing_model.weights.stated_family import StatedFamily
from tests.worlds.small_models import random_small_model, small_model_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", random_small_model(small_model_config()), {})
    return tmp_path / "model"


def test_a_path_without_anything_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="got nothing; check the path"):
        open_checkpoint(tmp_path / "nowhere")


def test_the_phases_of_any_checkpoint_may_be_stated(folder: Path) -> None:
    assert open_checkpoint(folder).config.rotary.phases == "float64"
    stated = StatedFamily(phases="float32")
    assert open_checkpoint(folder, stated).config.rotary.phases == "float32"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON in .*config.json"),
        ("[1]", "expected JSON in .*config.json"),
        ('{"model": {"layers": 1}}', "expected a model's configuration in .*another version"),
    ],
)
def test_a_damaged_configuration_is_an_error(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text, "utf-8")
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(folder)


def test_a_profile_may_be_overridden(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text("utf-8"))
    values["model"]["gate_timestep_scale"] = 3.0
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    assert open_checkpoint(folder).config.gate_timestep_scale == 3
    with pytest.raises(WeightsError, match=r"gate_timestep_scale 3.0 instead of 1000.0"):
        open_checkpoint(folder, StatedFamily(family="ltx-2"))
    config = open_checkpoint(folder, StatedFamily(family="omniforcing-5s", override=True)).config
    assert config.gate_timestep_scale == 1
    assert (config.rotary.pairs, config.rotary.frequencies) == ("interleaved", "float32")


def test_variants_of_diffusers_are_to_be_renamed(folder: Path) -> None:
    values = {"_class_name": "LTX2VideoTransformer3DModel"}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(WeightsError, match="got other names; rename a variant's files"):
        open_checkpoint(folder)


def test_a_tensor_that_diffusers_does_not_have_is_unexpected(tmp_path: Path) -> None:
    config = small_model_config(sinks=0)
    tensors = [
        TensorToWrite(name, torch.float32, tuple(view.shape), lambda view=view: view)
        for name, view in random_small_model(config).file_tensors().items()
    ]
    write_diffusers(tmp_path, config, tensors)
    open_checkpoint(tmp_path).require()
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"more.weight": torch.zeros(1)}, file, {"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.differences().unexpected == ("more.weight",)
    assert checkpoint.differences().missing == ()
