"""What ranks do together: errors that all of them meet, and what the first one gets of all."""

import pytest
from torch import distributed as dist

from actors.training.ranks import backend_of, gathered, own_rank, raised_by_all
from infra.errors import ConfigError, DatasetError
from tests.worlds.ranks import run_in_ranks


def met_and_gathered(folder, failing):
    """Rank, the error that it meets, whether it went on after it, and what it gathers then."""
    error = None
    went_on = False
    try:
        with raised_by_all():
            if dist.get_rank() in failing:
                raise DatasetError(f"of rank {dist.get_rank()}")
        went_on = True
    except DatasetError as met:
        error = str(met)
    return own_rank(), error, went_on, gathered(dist.get_rank() * 10)


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_an_error_of_any_rank_is_that_of_all_and_none_waits_for_ever(tmp_path):
    two = run_in_ranks(met_and_gathered, 2, tmp_path / "two", {"failing": [1]}, timeout_s=500)
    assert two == [[[0, 2], "of rank 1", False, [0, 10]], [[1, 2], "of rank 1", False, []]]
    both = run_in_ranks(met_and_gathered, 2, tmp_path / "both", {"failing": [0, 1]}, timeout_s=500)
    assert [of_rank[1] for of_rank in both] == ["of rank 0", "of rank 0"]
    none = run_in_ranks(met_and_gathered, 2, tmp_path / "none", {"failing": []}, timeout_s=500)
    assert [of_rank[1:3] for of_rank in none] == [[None, True], [None, True]]


def test_a_process_without_others_raises_its_own_error_and_gathers_its_own():
    assert own_rank().of == 1
    assert gathered("own") == ["own"]
    with pytest.raises(ConfigError, match="mine"), raised_by_all():
        raise ConfigError("mine")


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:0", "nccl")])
def test_ranks_speak_by_what_their_device_has(device, backend):
    assert backend_of(device) == backend
