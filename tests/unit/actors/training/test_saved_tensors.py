import pytest
import torch
from safetensors.torch import save_file

from actors.training.saved_tensors import SavedTensors, tensor_file
from infra.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two ranks, with tensors of two kinds."""
    for rank in (0, 1):
        tensor = {f"part_{rank}": torch.full((2,), float(rank))}
        save_file(tensor, tensor_file(tmp_path, "critic", rank))
        save_file({"other": torch.zeros(1)}, tensor_file(tmp_path, "ema", rank))
    return tmp_path


def test_a_file_is_named_for_its_kind_and_rank(tmp_path):
    assert tensor_file(tmp_path, "ema", 7).name == "ema.rank_07.safetensors"


def test_tensors_of_one_kind_are_read_whichever_rank_wrote_them(folder):
    saved = SavedTensors(folder, "critic")
    assert saved.names == {"part_0", "part_1"}
    assert saved.read("part_0").tolist() == [0, 0]
    assert saved.read("part_1").tolist() == [1, 1]


def test_a_file_that_cannot_be_read_is_named_with_a_way_out(folder):
    damaged = tensor_file(folder, "critic", 1)
    damaged.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=rf"{damaged}.*delete its folder to resume"):
        SavedTensors(folder, "critic")
