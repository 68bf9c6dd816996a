"""Clips of two sizes through all stages: whoever computes what, and whenever it was stopped."""

import pytest
import torch
from safetensors.torch import load_file

from actors.training.distillation_worker import DistillationWorker, StageWork
from actors.training.guided_sampling import trajectory_sigmas
from actors.training.teacher_sampler import TeacherSampler, TrajectoryWork
from actors.training.trajectory_shards import prompt_table, trajectory_shards
from infra.dataset.manifest import commit
from infra.runs.run_folder import result_folder
from tests.worlds.ranks import run_in_ranks
from tests.worlds.sized_clips import SQUARE, TWO_SIZES, WIDE, write_sized_clips
from tests.worlds.training import run_worker, small_run

STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
ROLES = ("generator", "critic", "teacher")
STEPS = 6
KILLED_AFTER = 3  # a checkpoint stands at step 2


def sized_run(ranks=1):
    """Two micro-batches a step: both of one rank, or one of each of two."""
    return small_run(
        TWO_SIZES,
        "model.layout.window_blocks=1",
        "data.seconds=2",
        "stages.stage_3.rollout_seconds=[2, 4]",
        steps=STEPS,
        batch=4,
        micro_batch=2,
        zero_stage=3 if ranks > 1 else 1,
    )


def work_of(stage, folder, ranks=1, run="run"):
    """A stage with what the stages before it have left in `folder`/run."""
    before = {"stage_1": "teacher", "stage_2": "stage_1", "stage_3": "stage_2"}
    starts = {}
    if stage != "teacher":
        starts = dict.fromkeys(ROLES, str(result_folder(str(folder / "run"), "teacher")))
        starts["generator"] = str(result_folder(str(folder / "run"), before[stage]))
    data = folder / ("trajectories" if stage == "stage_2" else "clips")
    return StageWork(stage, sized_run(ranks), str(folder / run), str(data), starts, ())


def train(work, stop_after=None):
    """Train to the end, or as if killed after so many steps; the grid of each pass of the roles
    that learn, by step."""
    worker, grids = DistillationWorker(work), {}
    for models in worker._models.values():
        noted = note_grids(worker, grids)
        models._run = noted(models._run)
    run_worker(worker, stop_after)
    return grids


def note_grids(worker, grids):
    def noted(run):
        def call(latents, *arguments):
            step = grids.setdefault(worker.steps_done, set())
            step.add(tuple(latents.video.shape[3:]))
            return run(latents, *arguments)

        return call

    return noted


def write_trajectories(folder):
    config, model = sized_run(), str(result_folder(str(folder / "run"), "stage_1"))
    clips, out = str(folder / "clips"), folder / "trajectories"
    sampler = TeacherSampler(TrajectoryWork(config, model, clips, str(out)))
    count = len(trajectory_shards(config, prompt_table(config, clips)))
    place = {"role": "clips", "kind": "dataset", "name": "clips", "digest": "sha256:1"}
    provenance = {
        "sigmas": trajectory_sigmas(config, config.model),
        "inputs": [place | {"uri": clips}],
    }
    commit(out, "trajectories", [sampler.write(n) for n in range(count)], provenance)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with all stages trained by one rank, and the grids of each stage's steps."""
    folder = tmp_path_factory.mktemp("sizes")
    write_sized_clips(sized_run(), folder / "clips", {SQUARE: 5, WIDE: 6})
    grids = {}
    for stage in STAGES:
        if stage == "stage_2":
            write_trajectories(folder)
        grids[stage] = train(work_of(stage, folder))
    return folder, grids


def weights_of(folder, stage, run="run"):
    return load_file(result_folder(str(folder / run), stage) / "model.safetensors")


@pytest.mark.thorough
@pytest.mark.parametrize("stage", STAGES)
def test_every_pass_of_a_step_is_of_one_size_and_every_size_is_trained(trained, stage):
    grids = trained[1][stage]
    assert len(grids) == STEPS
    assert all(len(of_step) == 1 for of_step in grids.values())
    assert set.union(*grids.values()) == {(1, 1), (1, 2)}


@pytest.mark.thorough
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_two_sizes_that_was_killed_ends_like_a_straight_one(trained, stage):
    folder, _ = trained
    killed = work_of(stage, folder, run="killed")
    train(killed, stop_after=KILLED_AFTER)
    train(killed)
    straight = weights_of(folder, stage)
    for name, tensor in weights_of(folder, stage, "killed").items():
        assert torch.equal(tensor, straight[name]), name


def train_on_a_rank(folder):
    """Every stage, from where one rank has started it."""
    grids = {stage: train(work_of(stage, folder, ranks=2, run="ranks")) for stage in STAGES}
    return {
        stage: {step: sorted(of_step) for step, of_step in of_stage.items()}
        for stage, of_stage in grids.items()
    }


@pytest.fixture(scope="module")
def grids_of_two_ranks(trained):
    return run_in_ranks(train_on_a_rank, 2, trained[0], {}, 280)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_size_that_one_with_two_micro_batches_takes(
    trained, grids_of_two_ranks, stage
):
    folder, grids = trained
    expected = {str(step): [list(g) for g in of_step] for step, of_step in grids[stage].items()}
    assert [of_rank[stage] for of_rank in grids_of_two_ranks] == [expected] * 2
    one = weights_of(folder, stage)
    for name, tensor in weights_of(folder, stage, "ranks").items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-6, msg=name)
