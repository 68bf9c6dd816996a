import pytest
import torch

from actors.training.saved_tensors import SavedTensors, Shard, write_shards
from infra.errors import CheckpointError

WHOLE = torch.arange(10.0)


def shard(start, end, whole=WHOLE):
    return Shard(whole[start:end], start)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of three ranks, with tensors of two kinds; one of them is on one rank alone."""
    for rank, (start, end) in enumerate([(0, 4), (4, 8), (8, 10)]):
        own = {"cut": shard(start, end)} | ({"small": shard(2, 5)} if rank == 1 else {})
        write_shards(tmp_path, "critic", rank, own)
        write_shards(tmp_path, "ema", rank, {"other": shard(0, 1)} if rank == 0 else {})
    return tmp_path


def test_a_file_is_named_for_its_kind_and_rank(tmp_path):
    assert write_shards(tmp_path, "ema", 7, {}).name == "ema.rank_07.safetensors"


def test_any_part_is_put_together_whichever_ranks_wrote_it(folder):
    saved = SavedTensors(folder, "critic")
    assert saved.names == {"cut", "small"}
    for first in range(10):
        for count in range(1, 11 - first):
            assert torch.equal(saved.part("cut", first, count), WHOLE[first : first + count])
    assert saved.part("small", 3, 2).tolist() == [3, 4]
    assert saved.part("cut", 10, 0).tolist() == []


def test_elements_that_no_file_holds_are_missed_by_name(folder):
    (folder / "critic.rank_01.safetensors").unlink()
    saved = SavedTensors(folder, "critic")
    assert saved.part("cut", 8, 2).tolist() == [8, 9]
    with pytest.raises(CheckpointError, match="elements 2 to 9 of cut of the critic, got those"):
        saved.part("cut", 2, 7)


def test_a_file_that_cannot_be_read_is_named_with_a_way_out(folder):
    damaged = folder / "critic.rank_01.safetensors"
    damaged.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=rf"{damaged}.*delete its folder to resume"):
        SavedTensors(folder, "critic")
