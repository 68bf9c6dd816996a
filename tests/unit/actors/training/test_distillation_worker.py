"""One rank of training, in this process: what it computes, saves, resumes and publishes."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.training.distillation_worker import DistillationWorker, StageWork
from infra.errors import CheckpointError, ConfigError, DatasetError, OwnershipError
from infra.leases.fence import Fence
from infra.leases.holder import this_process
from infra.runs.loss_curve import read_curve
from infra.runs.provenance import ArtifactRef, read_model_manifest
from infra.runs.stage_recipe import stage_recipe
from omniforcing_model.errors import DivergenceError
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model
from tests.worlds.config_trace import reads_of, unanswered
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import (
    run_worker,
    small_run,
    write_clips,
    write_model,
    write_trajectories,
)
from tests.worlds.training_ranks import STAGES as RANKED_STAGES
from tests.worlds.training_ranks import model_of, stop_one_rank, train_in_ranks
from tests.worlds.waiting import wait_until

STEPS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data and a model that every stage here starts from."""
    folder = tmp_path_factory.mktemp("world")
    config = small_run()
    return {
        "clips": write_clips(config, folder / "clips"),
        "trajectories": write_trajectories(config, folder / "trajectories"),
        "model": write_model(config, folder / "model"),
    }


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Models of two ranks that train together, of each stage with samples, by ZeRO stage."""
    folder = tmp_path_factory.mktemp("ranks")
    train_in_ranks(folder, ranks=2, timeout_s=240)
    return folder


@pytest.fixture
def work(world, tmp_path):
    def of(stage, *overrides, run="run", **settings):
        roles = () if stage == "teacher" else ("generator", "critic", "teacher")
        inputs = [
            ArtifactRef(role="clips", kind="dataset", name="clips", digest="sha256:1", uri="/clips")
        ]
        return StageWork(
            stage,
            small_run(*overrides, steps=STEPS, **settings),
            str(tmp_path / run),
            world["trajectories" if stage == "stage_2" else "clips"],
            dict.fromkeys(roles, world["model"]),
            tuple(inputs),
        )

    return of


def train(work, stop_after=None):
    """Train to the end, or as if killed after so many steps; the figures of every step."""
    return run_worker(DistillationWorker(work), stop_after)


def state_of(work, step=STEPS):
    place = work.folder / "checkpoints" / f"step_{step:06d}"
    return {
        f"{path.stem}/{name}": tensor
        for path in place.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def weights_of(work):
    return load_file(work.folder / "model" / "model.safetensors")


@pytest.mark.thorough
# Checkpoints come after steps 2 and 4: before the first one, at one, and after it.
@pytest.mark.parametrize(
    ("stage", "kills"),
    [("teacher", [3]), ("stage_1", [3]), ("stage_2", [1, 2]), ("stage_3", [1, 2, 3])],
)
def test_a_run_killed_after_any_step_ends_bit_for_bit_like_a_straight_one(work, stage, kills):
    straight = work(stage, run="straight")
    figures = train(straight)
    for kill_after in kills:
        killed = work(stage, run=f"killed-{kill_after}")
        train(killed, stop_after=kill_after)
        train(killed)
        assert_same_bits(state_of(straight), state_of(killed))
        assert_same_bits(weights_of(straight), weights_of(killed))
        curve = read_curve(killed.folder / "curve.jsonl")
        assert curve == [{"step": n, **f} for n, f in enumerate(figures, start=1)]


@pytest.mark.thorough
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_streams_longer_than_the_clips_train_and_resume_bit_for_bit(work, zero_stage):
    longer = ("stages.stage_3.rollout_seconds=[2, 6]", "stages.stage_3.gradient_blocks=1")
    straight = work("stage_3", *longer, run="straight", zero_stage=zero_stage)
    figures = train(straight)
    killed = work("stage_3", *longer, run="killed", zero_stage=zero_stage)
    train(killed, stop_after=3)
    train(killed)
    assert_same_bits(weights_of(straight), weights_of(killed))
    assert figures != train(work("stage_3", run="as-clips", zero_stage=zero_stage))


def test_the_critic_learns_in_every_step_and_the_generator_in_every_second(work):
    figures = train(work("stage_3"))
    assert all("critic_loss" in of_step for of_step in figures)
    assert ["generator_loss" in of_step for of_step in figures] == [False, True, False, True]


def test_the_frozen_teacher_stays_as_it_is(work, world):
    stage = work("stage_1")
    worker = DistillationWorker(stage)
    before = {k: v.clone() for k, v in load_model(Path(world["model"])).state_dict().items()}
    worker.step()
    worker.step()
    assert_same_bits(before, worker._frozen["teacher"].network.state_dict())
    critic = worker._engines["critic"].network.state_dict()
    assert not torch.equal(before["video.proj_out.weight"], critic["video.proj_out.weight"])
    worker.close()


def test_sinks_learn_only_where_a_stage_uses_them(work, world):
    name = "audio.sinks.tokens"
    start = load_model(Path(world["model"])).state_dict()[name]
    for stage, learns in (("stage_1", False), ("stage_2", True), ("stage_3", True)):
        of_stage = work(stage)
        train(of_stage)
        assert torch.equal(weights_of(of_stage)[name], start) != learns, stage


@pytest.mark.thorough
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_every_zero_stage_computes_the_same(work, zero_stage):
    one, other = work("stage_1", run="one"), work("stage_1", run="other", zero_stage=zero_stage)
    train(one)
    train(other, stop_after=2)
    train(other)  # resumed, so that its way of saving is compared too
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(weights_of(other)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", RANKED_STAGES)
def test_two_ranks_train_together_with_every_zero_stage(two_ranks, stage):
    """Sharded weights are gathered pass by pass: all ranks have to make the same passes."""
    whole = load_file(model_of(two_ranks, stage, zero_stage=1))
    for zero_stage in (2, 3):
        for name, tensor in load_file(model_of(two_ranks, stage, zero_stage)).items():
            torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
def test_a_checkpoint_of_one_zero_stage_continues_in_another(work):
    straight, moved = work("teacher", run="straight"), work("teacher", run="moved", zero_stage=2)
    train(straight)
    train(moved, stop_after=2)
    train(replace(moved, config=small_run(steps=STEPS, zero_stage=3)))
    for name, tensor in weights_of(straight).items():
        torch.testing.assert_close(weights_of(moved)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
def test_a_half_written_checkpoint_is_as_good_as_none(work):
    straight, cut = work("stage_1", run="straight"), work("stage_1", run="cut")
    train(straight)
    train(cut)
    shutil.rmtree(cut.folder / "model")
    newest = cut.folder / "checkpoints" / f"step_{STEPS:06d}"
    (newest / "manifest.json").unlink()
    worker = DistillationWorker(cut)
    assert worker.steps_done == 2
    worker.close()
    train(cut)
    assert_same_bits(state_of(straight), state_of(cut))


def test_a_checkpoint_with_a_short_file_is_as_good_as_none(work):
    cut = work("teacher")
    train(cut)
    file = next((cut.folder / "checkpoints" / f"step_{STEPS:06d}").glob("generator*"))
    file.write_bytes(file.read_bytes()[:-8])
    worker = DistillationWorker(cut)
    assert worker.steps_done == 2
    worker.close()


def damage(work, step):
    """Turn over one bit of a checkpoint."""
    file = next((work.folder / "checkpoints" / f"step_{step:06d}").glob("generator*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.thorough
def test_after_a_changed_bit_the_checkpoint_before_it_is_taken(work, caplog):
    straight, changed = work("stage_1", run="straight"), work("stage_1", run="changed")
    train(straight)
    train(changed)
    damage(changed, STEPS)
    worker = DistillationWorker(changed)
    worker.close()
    assert worker.steps_done == 2
    assert f"step_{STEPS:06d}/generator.rank_00.safetensors" in caplog.text
    train(changed)
    assert_same_bits(state_of(straight), state_of(changed))


def test_checkpoints_that_are_all_damaged_are_refused_and_not_trained_over(work):
    changed = work("teacher")
    train(changed)
    for step in (2, STEPS):
        damage(changed, step)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"step_000002/generator.*delete .*checkpoints"):
            DistillationWorker(changed)


@pytest.mark.thorough
def test_a_worker_that_is_asked_to_stop_saves_the_step_that_it_has_come_to(work, tmp_path):
    rare = "stages.teacher.optimiser.checkpoint_every=100000"
    stage = work("teacher", "stages.teacher.optimiser.steps=100000", rare)
    (tmp_path / "work").write_bytes(pickle.dumps(stage))
    program = (
        "import pickle, sys; from pathlib import Path;"
        "from actors.training.distillation_worker import DistillationWorker;"
        "DistillationWorker(pickle.loads(Path(sys.argv[1]).read_bytes())).run()"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, tmp_path / "work"])
    curve = stage.folder / "curve.jsonl"
    try:
        wait_until(lambda: curve.exists() and len(read_curve(curve)) >= 3, timeout_s=90)
    except AssertionError as error:
        raise TimeoutError("expected a worker that trains, got none") from error
    finally:
        worker.terminate()
        worker.wait(timeout=20)
    saved = [path.parent.name for path in stage.folder.glob("checkpoints/*/manifest.json")]
    assert saved == [f"step_{len(read_curve(curve)):06d}"]
    assert worker.returncode == -signal.SIGTERM


@pytest.mark.parametrize("stage", ["teacher", "stage_3"])
def test_a_run_that_was_asked_to_stop_ends_bit_for_bit_like_a_straight_one(work, stage):
    rare = f"stages.{stage}.optimiser.checkpoint_every=100"
    straight, stopped = work(stage, rare, run="straight"), work(stage, rare, run="stopped")
    train(straight)
    steps = []
    worker = DistillationWorker(stopped)
    assert not worker.run(lambda step, _: steps.append(step), lambda: len(steps) == 3)
    worker.close()
    assert steps == [1, 2, 3]
    train(stopped)
    assert_same_bits(state_of(straight), state_of(stopped))
    assert_same_bits(weights_of(straight), weights_of(stopped))


def test_what_is_saved_already_is_not_saved_once_more(work):
    stage = work("teacher")
    train(stage, stop_after=2)
    place = stage.folder / "checkpoints" / "step_000002"
    before = files_below(place), place.stat().st_ino
    worker = DistillationWorker(stage)
    assert not worker.run(is_asked_to_stop=lambda: True)
    worker.close()
    assert (files_below(place), place.stat().st_ino) == before


def test_a_run_that_is_asked_to_stop_before_its_first_step_leaves_no_checkpoint(work):
    stage = work("teacher")
    worker = DistillationWorker(stage)
    assert not worker.run(is_asked_to_stop=lambda: True)
    worker.close()
    assert not (stage.folder / "checkpoints").exists()


@pytest.mark.thorough
def test_all_ranks_save_the_same_step_when_one_of_them_is_asked_to_stop(tmp_path):
    steps = run_in_ranks(stop_one_rank, 2, tmp_path, {})
    assert steps == [3, 3]
    assert [path.name for path in tmp_path.glob("run/stages/teacher/checkpoints/*")] == [
        "step_000003"
    ]


@pytest.mark.parametrize("taken_over_after", [0, 1, 2, STEPS])
def test_a_worker_of_a_run_that_was_taken_over_saves_and_publishes_nothing(work, taken_over_after):
    stage = work("teacher")
    run = Path(stage.run_folder)
    stage = replace(stage, fence=Fence(str(run), 1))

    def own(attempt):
        record = run / ".owner" / f"{attempt:06d}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(this_process("distill", attempt, lease_s=60.0).model_dump_json())
        return files_below(run)

    def after_step(step, _):
        if step == taken_over_after:
            before.update(own(2))

    own(1)
    before = own(2) if taken_over_after == 0 else {}
    worker = DistillationWorker(stage)
    with pytest.raises(OwnershipError, match="attempt 2 has taken it over: distill by"):
        worker.run(after_step)
    worker.close()
    after = files_below(run)
    curve = stage.folder / "curve.jsonl"  # lines are only added
    assert {**after, curve: None} == {**before, curve: None}


def files_below(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_two_checkpoints_are_kept(work):
    stage = work("teacher", "stages.teacher.optimiser.checkpoint_every=1")
    train(stage)
    checkpoints = sorted(path.name for path in (stage.folder / "checkpoints").iterdir())
    assert checkpoints == ["step_000003", "step_000004"]


def test_another_configuration_does_not_resume_and_hears_which_keys_differ(work):
    train(work("stage_1"), stop_after=2)
    with pytest.raises(CheckpointError, match=r"settings\.critic_ratio: 2 -> 3") as refusal:
        DistillationWorker(work("stage_1", "stages.stage_1.critic_ratio=3"))
    assert "delete that folder" in str(refusal.value)


@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_2", "stage_3"])
def test_whatever_training_reads_of_its_configuration_its_recipe_answers_for(work, stage):
    of_stage = work(stage)
    with reads_of(of_stage.config) as read:
        worker = DistillationWorker(of_stage)
        worker.step()
        worker.step()
        worker.close()
    assert {"data.seconds", "codec.text_tokens", f"stages.{stage}.optimiser.batch"} <= read
    assert unanswered(read, stage, stage_recipe(of_stage.config, stage, ())) == set()


def test_how_often_it_saves_may_change_between_runs(work):
    train(work("teacher"), stop_after=2)
    worker = DistillationWorker(work("teacher", "stages.teacher.optimiser.checkpoint_every=3"))
    assert worker.steps_done == 2
    worker.close()


def test_a_loss_that_is_not_finite_is_named_and_nothing_is_saved(work):
    wild = work("stage_1", "stages.stage_1.critic_learning_rate=1e30")
    with pytest.raises(DivergenceError, match=r"stage_1, step 2, critic: .*NaN or infinity in"):
        train(wild)
    assert not (wild.folder / "checkpoints").exists()
    assert not (wild.folder / "model").exists()


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_gradient_that_is_not_finite_is_named_and_not_skipped(work, zero_stage):
    """ZeRO would leave such an update out without a word."""
    stage = work("stage_2", zero_stage=zero_stage)
    worker = DistillationWorker(stage)
    network = worker._engines["generator"].network
    network.audio.proj_out.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(DivergenceError, match=r"stage_2, step 1, generator: .*grad_norm"):
        worker.step()
    worker.close()


def test_workers_that_do_not_divide_the_batch_are_refused(work):
    with pytest.raises(ConfigError, match="batch 4, micro_batch 3 and 1 workers"):
        DistillationWorker(work("teacher", micro_batch=3))


def test_a_start_of_another_shape_is_refused_by_key(work):
    with pytest.raises(ConfigError, match="layers: 1 -> 2"):
        DistillationWorker(work("stage_1", "model.layers=2"))


def test_data_that_is_not_there_is_named(work, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        DistillationWorker(replace(work("teacher"), data=str(tmp_path / "nowhere")))


def test_the_published_model_says_where_it_comes_from(work):
    stage = work("stage_1")
    train(stage)
    folder = stage.folder / "model"
    manifest = read_model_manifest(folder)
    assert manifest.digest == folder_digest(folder)
    assert manifest.stage == "stage_1"
    assert [ref.digest for ref in manifest.inputs] == ["sha256:1"]
    assert manifest.step == STEPS
    assert manifest.metrics["critic_loss"] > 0
    assert json.loads((folder / "config.json").read_text())["name"] == "tiny-stage_1"
    load_model(folder)


def test_the_published_model_is_the_average_not_the_last_step(work):
    stage = work("teacher")
    train(stage)
    last = state_of(stage)["generator.rank_00/video.proj_out.weight/weight"]
    assert not torch.equal(weights_of(stage)["video.proj_out.weight"], last)
