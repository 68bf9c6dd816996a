"""A sampler of several ranks makes the shards of one alone, whoever has how many of its batches."""

import pytest

from actors.training.teacher_sampler import TeacherSampler, TrajectoryWork
from infra.errors import DatasetError
from omniforcing_model.errors import DivergenceError
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import small_run, write_clips, write_model

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]
# Two shards of 7 and 3 trajectories in batches of 2: four batches and two, the last ones of 1.
ROWS = tuple(
    f"stages.trajectories.{key}"
    for key in ("count=10", "batch=2", "rows_per_shard=7", "precision=float32")
)
GUIDED = ("stages.trajectories.guided=true", "sampling.teacher_steps=8")
SHARDS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Clips, and a model of three layers."""
    folder = tmp_path_factory.mktemp("world")
    config = small_run("model.layers=3")
    return write_clips(config, folder / "clips"), write_model(config, folder / "model")


def work_of(clips, model, out, overrides):
    config = small_run("model.layers=3", *ROWS, *overrides)
    return TrajectoryWork(config, model, clips, str(out))


def write_all(folder, clips, model, overrides):
    """What each rank does; the records of its shards, and how much of the model it keeps."""
    sampler = TeacherSampler(work_of(clips, model, folder / "out", overrides))
    records = [sampler.write(number) for number in range(SHARDS)]
    network = sampler._role.network
    kept = sum(own.ds_tensor.numel() for own in network.parameters() if not own.ds_persist)
    spread = sum(own.ds_numel for own in network.parameters() if not own.ds_persist)
    whole = sum(own.ds_numel for own in network.parameters())
    return {
        "records": [record and record.model_dump(mode="json") for record in records],
        "kept": kept / spread,
        "spread": spread / whole,
    }


def refused(folder, clips, model, overrides):
    """The error that each rank meets."""
    try:
        write_all(folder, clips, model, overrides)
    except (DatasetError, DivergenceError) as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("overrides", "ranks"),
    [
        pytest.param((), 2, id="few_steps-2"),
        pytest.param((), 3, id="few_steps-3", marks=pytest.mark.slow),
        pytest.param(GUIDED, 2, id="guided-2", marks=pytest.mark.slow),
        pytest.param(GUIDED, 3, id="guided-3", marks=pytest.mark.slow),
    ],
)
def test_ranks_with_unequal_rows_write_the_files_of_one_alone(world, tmp_path, ranks, overrides):
    alone = TeacherSampler(work_of(*world, tmp_path / "alone", overrides))
    expected = [alone.write(number).model_dump(mode="json") for number in range(SHARDS)]
    arguments = {"clips": world[0], "model": world[1], "overrides": overrides}
    first, *others = run_in_ranks(write_all, ranks, tmp_path, arguments, timeout_s=500)
    assert first["records"] == expected
    assert [record["rows"] for record in expected] == [7, 3]
    assert all(other["records"] == [None] * SHARDS for other in others)
    for rank in (first, *others):
        assert rank["spread"] > 0.5
        assert rank["kept"] == pytest.approx(1 / ranks, rel=0.05)


def test_what_one_rank_meets_ends_all_of_them(world, tmp_path):
    """A row that cannot be used is in the batch of one rank; the others do not wait for it."""
    clips, model = world
    arguments = {"clips": clips, "model": model, "overrides": ["codec.text_tokens=9"]}
    one, other = run_in_ranks(refused, 2, tmp_path, arguments, timeout_s=500)
    assert one == other
    assert "text of row" in one
