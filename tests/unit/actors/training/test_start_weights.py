"""A rank reads its own part of a weight, from a file or fresh."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.training.start_weights import CheckpointWeights, FreshWeights, made_network
from omniforcing_model.errors import WeightsError
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.checkpoint_files import load_model
from omniforcing_model.weights.stated_family import StatedFamily
from tests.worlds.training import small_run, write_model

CONFIG = small_run("model.layers=2")
FUSED = "video.layers.1.self_attention.to_qkv.weight"  # three tensors of a file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("start") / "model"
    write_model(CONFIG, place)
    return place


def test_any_part_of_a_weight_is_that_of_the_loaded_model(folder):
    whole = dict(load_model(folder).named_parameters())
    weights = CheckpointWeights(folder, StatedFamily.of(CONFIG.model))
    flat = whole[FUSED].flatten()
    for first, end in [(0, len(flat)), (3, 4), (17, 300), (250, 530), (len(flat) - 5, len(flat))]:
        assert torch.equal(weights.part(FUSED, first, end - first), flat[first:end])
    for name, parameter in whole.items():
        count = parameter.numel()
        assert torch.equal(weights.part(name, 0, count), parameter.flatten()), name


def test_a_network_made_of_a_checkpoint_is_the_loaded_model(folder):
    optimiser = CONFIG.stages.trained_stage("stage_1").optimiser
    made = made_network(CheckpointWeights(folder, StatedFamily.of(CONFIG.model)), optimiser, "cpu")
    loaded = load_model(folder).state_dict()
    assert made.state_dict().keys() == loaded.keys()
    for name, parameter in made.state_dict().items():
        assert torch.equal(parameter, loaded[name]), name


def test_fresh_weights_are_the_same_in_whatever_order_parts_are_read():
    names = [
        name for name, _ in DualStreamTransformer.without_memory(CONFIG.model).named_parameters()
    ]
    one, other = (FreshWeights(CONFIG.model, 7) for _ in range(2))
    there = {name: one.part(name, 0, 3) for name in names}
    back = {name: other.part(name, 0, 3) for name in reversed(names)}
    assert all(torch.equal(there[name], back[name]) for name in names)
    assert not torch.equal(there[FUSED], FreshWeights(CONFIG.model, 8).part(FUSED, 0, 3))
    assert not torch.equal(there[FUSED], there[FUSED.replace("layers.1", "layers.0")])


def test_a_fresh_model_predicts_no_velocity_yet():
    weights = FreshWeights(CONFIG.model, 7)
    assert not weights.part("video.proj_out.weight", 0, 8).any()
    assert weights.part("video.proj_in.weight", 0, 8).any()


def test_a_checkpoint_that_lacks_tensors_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="expected exactly the"):
        CheckpointWeights(tmp_path, StatedFamily.of(CONFIG.model))
