"""Random clips and trajectories as a stage takes them, and what they tell on the way."""

import pytest
import torch

from actors.training.stage_batches import StageBatches
from omniforcing_model.distillation.latent_batch import TrajectoryBatch
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from pipelines.benchmarks.training.random_batches import RandomBatches
from tests.worlds.training import small_run, write_clips, write_trajectories


def nothing(*_):
    pass


def shapes_of(batch):
    pairs = [value for value in batch if isinstance(value, PerStream)]
    clips = [value for value in batch if isinstance(value, ClipShape)]
    return [tuple(tensor.shape) for pair in pairs for tensor in pair], clips


@pytest.mark.parametrize("stage", ["stage_1", "stage_2"])
def test_they_are_like_rows_of_a_dataset(tmp_path, stage):
    from torch import distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = small_run()
    write = write_trajectories if stage == "stage_2" else write_clips
    rows = StageBatches(config, stage, write(config, tmp_path / "data"), "cpu")
    drawn = RandomBatches(config, stage, "cpu", nothing, nothing)
    assert len(drawn) == len(rows)
    pairs = zip(drawn.of_step("generator", 0), rows.of_step("generator", 0), strict=True)
    for (batch, generator), (row, _) in pairs:
        assert type(batch) is type(row)
        assert shapes_of(batch) == shapes_of(row)
        assert generator.device == torch.device("cpu")
        if isinstance(batch, TrajectoryBatch):
            assert torch.equal(batch.sigmas, row.sigmas)


def test_samples_leave_the_chain_after_every_step_once():
    config = small_run("sampling.student_sigmas=[1.0, 0.8, 0.5, 0.2]")
    batches = RandomBatches(config, "stage_3", "cpu", nothing, nothing)
    after = [
        [int(4 * batch.exit_draw) for batch, _ in batches.of_step(role, step)]
        for role in ("critic", "generator")
        for step in range(5)
    ]
    last, *others = after[:5]
    assert last == [3, 3]
    assert others == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert after[5:] == after[:5]


def test_a_turn_begins_before_its_batches_and_ends_when_the_last_one_is_done():
    said = []
    batches = RandomBatches(
        small_run(), "stage_3", "cpu", said.append, lambda: said.append("gradients are taken")
    )
    for _ in batches.of_step("critic", 0):
        said.append("a batch")
    assert said == ["critic", "a batch", "a batch", "gradients are taken"]
