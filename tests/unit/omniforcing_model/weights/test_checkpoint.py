from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniforcing_model.errors import WeightsError
from omniforcing_model.transformer.sink_token import INITIAL_STD
from omniforcing_model.weights.checkpoint import is_of_halves
from omniforcing_model.weights.checkpoint_files import save_model
from omniforcing_model.weights.checkpoint_format import open_checkpoint
from omniforcing_model.weights.checkpoint_writing import write_single_file
from omniforcing_model.weights.safetensors_file import TensorToWrite
from omniforcing_model.weights.tensor_names import SINKS
from tests.worlds.small_models import random_small_model, small_model_config

CONFIG = small_model_config(sinks=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", random_small_model(CONFIG), {})
    return tmp_path / "model"


def change(folder: Path, **tensors) -> None:
    file = folder / "model.safetensors"
    stored = load_file(file) | tensors
    save_file({name: value for name, value in stored.items() if value is not None}, file)


@pytest.mark.parametrize(
    ("name", "of_video"), [("video.table", True), ("audio.table", False), ("shared.x", True)]
)
def test_a_tensor_is_of_its_stream_and_others_are_of_every_half(name: str, of_video: bool) -> None:
    assert is_of_halves(name, ("video",)) is of_video
    assert is_of_halves(name, ("video", "audio"))


def test_a_whole_checkpoint_is_what_is_required(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    checkpoint.require()
    assert checkpoint.format == "ours"
    assert checkpoint.config == CONFIG
    assert checkpoint.fresh == ()
    assert checkpoint.shape(SINKS) == (2, 8)
    assert checkpoint.dtype(SINKS) == "F32"
    assert torch.equal(checkpoint.tensor(SINKS), load_file(folder / "model.safetensors")[SINKS])


def test_a_half_needs_its_own_tensors_alone(folder: Path) -> None:
    change(folder, **{"audio.table_out": None, "video.more": torch.zeros(1)})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.differences(("video",)).missing == ()
    assert checkpoint.differences(("video",)).unexpected == ("video.more",)
    assert checkpoint.differences(("audio",)).missing == ("audio.table_out",)
    assert checkpoint.differences(("audio",)).unexpected == ()
    count = len(checkpoint.table)
    message = f"exactly the {count} tensors of ltx-2.0 with 1 layers in .*got 1 missing: audio.tab"
    with pytest.raises(WeightsError, match=message):
        checkpoint.require(("audio",))


def test_numbers_in_codes_are_refused(folder: Path) -> None:
    change(folder, **{"video.table_out": torch.zeros(2, 16, dtype=torch.int8)})
    checkpoint = open_checkpoint(folder)
    message = r"in F64, F32, F16, BF16, got 1 in I8 \(video.table_out is one\)"
    with pytest.raises(WeightsError, match=message):
        checkpoint.require()
    checkpoint.require(("audio",))


def test_sinks_that_a_file_of_ltx_2_lacks_start_new_and_the_same_each_time(tmp_path: Path) -> None:
    model = random_small_model(CONFIG)
    tensors = [
        TensorToWrite(name, torch.float32, tuple(view.shape), lambda view=view: view)
        for name, view in model.file_tensors().items()
        if name != SINKS
    ]
    write_single_file(tmp_path / "ltx.safetensors", CONFIG, tensors)
    checkpoint = open_checkpoint(tmp_path / "ltx.safetensors")
    checkpoint.require()
    assert checkpoint.format == "single-file"
    assert checkpoint.config == CONFIG
    assert checkpoint.fresh == (SINKS,)
    assert checkpoint.dtype(SINKS) == "F32"
    expected = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)) * INITIAL_STD
    assert torch.equal(checkpoint.tensor(SINKS), expected)
    with torch.device("meta"):  # as a worker sets the device that it trains on
        assert torch.equal(checkpoint.tensor(SINKS, slice(1, 2)), expected[1:])
