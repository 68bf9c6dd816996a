"""A model folder holds exactly its tensors, or loading says which are wrong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.presets import load_preset
from omniforcing_model.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = load_preset("tiny").model.model_copy(update={"layers": 1})
    save_model(tmp_path, DualStreamTransformer(config), {"stage": "teacher"})
    return tmp_path


def test_a_saved_model_loads_as_it_was(folder: Path) -> None:
    loaded = load_model(folder).state_dict()
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(loaded[name], tensor)


def test_a_half_loads_without_the_other(folder: Path) -> None:
    model = load_model(folder, halves=["audio"])
    assert model.video is None
    assert model.audio is not None


def rewrite(folder: Path, change: dict[str, str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({change.get(n, n): t for n, t in tensors.items()}, folder / "model.safetensors")


def test_missing_and_unexpected_tensors_are_named(folder: Path) -> None:
    rewrite(folder, {"video.proj_in.weight": "video.proj_into.weight"})
    with pytest.raises(
        WeightsError, match=r"missing: video.proj_in.weight.*unexpected: video.proj_into"
    ):
        load_model(folder)


def test_a_tensor_of_no_stream_is_refused(folder: Path) -> None:
    rewrite(folder, {"video.proj_in.weight": "vae.proj_in.weight"})
    with pytest.raises(WeightsError, match=r"unexpected: vae\.proj_in\.weight"):
        load_model(folder, halves=["video"])


def test_a_transposed_tensor_is_named_with_both_shapes(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["audio.proj_in.weight"] = tensors["audio.proj_in.weight"].T.contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"audio.proj_in.weight \(16, 64\) instead of \(64, 16\)"
    ):
        load_model(folder)


def test_a_folder_that_is_no_model_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a model folder"):
        load_model(tmp_path / "nothing")


def test_the_digest_changes_with_a_weight(folder: Path) -> None:
    before = folder_digest(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["audio.proj_in.bias"] = tensors["audio.proj_in.bias"] + 1
    save_file(tensors, folder / "model.safetensors")
    assert folder_digest(folder) != before
