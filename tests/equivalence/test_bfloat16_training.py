"""In bfloat16 float32 masters learn from float32 weights, a resumed run is a straight one, and tiny
learns as in float32."""

import pytest
import torch
from safetensors.torch import load_file

from infra.runs.loss_curve import read_curve
from omniforcing_model.weights.checkpoint_files import load_model
from tests.worlds.beacon_training import (
    tiny_run,
    train_tiny,
    write_beacon_trajectories,
    write_beacons,
)
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import (
    random_model,
    run_worker,
    small_run,
    write_clips,
    write_model,
    write_trajectories,
)

STEPS = 4
LEARNT, LAST = 200, 51
# A step of `tiny` itself. Stage I's generator has ten turns in what is averaged: four clips each
# are too few to tell precisions from noise.
CLIPS_OF_TINY = 16
ROLES = ("generator", "critic", "teacher")


def run_of(stage, precision, zero_stage, *overrides, steps=STEPS):
    override = f"stages.{stage}.optimiser.precision={precision}"
    run = (*overrides, override, "model.layers=2")
    return small_run(*run, steps=steps, batch=4, micro_batch=1, zero_stage=zero_stage)


def train(folder, config, stage, data, stop_after=None):
    """Train to the end, or as if killed after so many steps; True if the passes' weights are the
    masters rounded, as they are when the worker has been made."""
    from actors.training.distillation_worker import DistillationWorker, StageWork

    starts = dict.fromkeys(ROLES, str(folder.parent / "model"))
    worker = DistillationWorker(StageWork(stage, config, str(folder), data, starts, ()))
    rounded = [passes_are_masters(engine) for engine in worker._engines.values()]
    run_worker(worker, stop_after)
    return all(rounded)


def passes_are_masters(engine):
    from actors.training.deepspeed_engines import deepspeed, quiet_deepspeed

    equal = []
    for name, (master, start) in engine.shards().items():
        parameter = engine._parameters[name]
        with (
            quiet_deepspeed(),
            deepspeed().zero.GatheredParameters(
                [parameter], enabled=hasattr(parameter, "ds_numel")
            ),
        ):
            own = parameter.detach().flatten()[start : start + len(master)]
            equal.append(own.equal(master.bfloat16()))
    return all(equal)


def starts_of_masters(folder, stage, data):
    """What a rank's masters and averages are made of before the first step, by ZeRO stage; the run
    is of no steps, and is published."""
    from actors.training.distillation_worker import DistillationWorker, StageWork

    found = []
    start = {k: p.flatten() for k, p in load_model(folder / "model").named_parameters()}
    for zero_stage in (1, 2, 3):
        config = run_of(stage, "bfloat16", zero_stage, steps=0)
        starts = dict.fromkeys(ROLES, str(folder / "model"))
        run = folder / f"none-{zero_stage}"
        worker = DistillationWorker(StageWork(stage, config, str(run), data, starts, ()))
        rounded = [passes_are_masters(engine) for engine in worker._engines.values()]
        states = [engine.shards() for engine in worker._engines.values()]
        states.append(worker._averages.state())
        exact = [
            shard.values.equal(start[name][shard.start : shard.start + len(shard.values)])
            for state in states
            for name, shard in state.items()
        ]
        worker.run()
        worker.close()
        found.append({"rounded": all(rounded), "exact": len(exact) > 0 and all(exact)})
    return found


def straight_and_killed(folder, stage, data):
    """Train with every ZeRO stage, straight and killed after step 3, of which step 2 is saved."""
    rounded = []
    for zero_stage in (1, 2, 3):
        config = run_of(stage, "bfloat16", zero_stage)
        train(folder / f"straight-{zero_stage}", config, stage, data)
        killed = folder / f"killed-{zero_stage}"
        train(killed, config, stage, data, stop_after=3)
        rounded.append(train(killed, config, stage, data))
    return rounded


def state_of(run, stage):
    place = run / "stages" / stage
    files = [*place.glob(f"checkpoints/step_{STEPS:06d}/*.safetensors"), *place.glob("model/*.s*")]
    return {f"{path.name}/{name}": t for path in files for name, t in load_file(path).items()}


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_2", "stage_3"])
def test_a_run_that_was_killed_ends_bit_for_bit_like_a_straight_one(tmp_path, stage, ranks):
    config = run_of(stage, "bfloat16", 1)
    write = write_trajectories if stage == "stage_2" else write_clips
    data = write(config, tmp_path / "data")
    write_model(config, tmp_path / "model")
    arguments = {"stage": stage, "data": data}
    rounded = run_in_ranks(straight_and_killed, ranks, tmp_path, arguments, timeout_s=900)
    assert rounded == [[True, True, True]] * ranks
    for zero_stage in (1, 2, 3):
        straight, killed = (
            state_of(tmp_path / f"{run}-{zero_stage}", stage) for run in ("straight", "killed")
        )
        assert straight.keys() == killed.keys()
        assert [name for name in straight if not straight[name].equal(killed[name])] == []
    norms = [norms_of(tmp_path / f"straight-{zero_stage}", stage) for zero_stage in (1, 2, 3)]
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert norms[2] == pytest.approx(norms[0], rel=0.05)


def norms_of(run, stage):
    """The norm of every gradient, by step and role."""
    curve = read_curve(run / "stages" / stage / "curve.jsonl")
    return {
        f"{figures['step']} {name}": value
        for figures in curve
        for name, value in figures.items()
        if name.endswith("grad_norm")
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", ["stage_1", "stage_2"])
def test_masters_and_averages_start_from_the_checkpoints_own_float32(tmp_path, stage, ranks):
    config = run_of(stage, "bfloat16", 1)
    write = write_trajectories if stage == "stage_2" else write_clips
    data = write(config, tmp_path / "data")
    write_model(config, tmp_path / "model")
    start = load_file(tmp_path / "model" / "model.safetensors")
    assert not start["audio.sinks.tokens"].bfloat16().float().equal(start["audio.sinks.tokens"])
    arguments = {"stage": stage, "data": data}
    found = run_in_ranks(starts_of_masters, ranks, tmp_path, arguments, timeout_s=500)
    assert found == [[{"rounded": True, "exact": True}] * 3] * ranks
    for zero_stage in (1, 2, 3):
        folder = tmp_path / f"none-{zero_stage}" / "stages" / stage / "model"
        published = load_file(folder / "model.safetensors")
        assert published.keys() == start.keys()
        assert [name for name in start if not published[name].equal(start[name])] == []


@pytest.mark.thorough
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_steps_below_the_last_digit_of_a_weight_add_up_in_its_master(tmp_path, zero_stage):
    """Of a weight of 0.05 the last digit is 2e-4 in bfloat16: steps of 1e-6 would be lost."""
    rates = "stages.teacher.optimiser.learning_rate=1.0e-6"
    config = run_of("teacher", "bfloat16", zero_stage, rates)
    data = write_clips(config, tmp_path / "clips")
    write_model(config, tmp_path / "model")
    folder = tmp_path / "run"
    # The teacher's stage starts from `generator` where it is given one.
    train(folder, config, "teacher", data)
    start = dict(random_model(config).named_parameters())
    moved = {
        name.removesuffix("/weight").partition("/")[2]: value  # flat
        for name, value in state_of(folder, "teacher").items()
        if name.startswith("generator") and name.endswith("/weight")
    }
    for name, master in moved.items():
        assert master.dtype == torch.float32
        distance = (master - start[name].detach().flatten()).abs()
        assert float(distance.max()) <= 1e-5, name
        assert float((distance > 0).float().mean()) > 0.5, name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_2", "stage_3"])
def test_tiny_learns_in_bfloat16_as_in_float32(tmp_path, stage):
    """Its own models and world: mean losses of steps 150 to 200, and how far weights travel."""
    batch = CLIPS_OF_TINY if stage == "stage_1" else 4
    runs = {of: tiny_run(stage, LEARNT, of, batch) for of in ("float32", "bfloat16")}
    clips = data = write_beacons(runs["float32"], tmp_path / "clips")
    if stage == "stage_2":
        data = write_beacon_trajectories(runs["float32"], tmp_path / "states", clips)
    means, travels = {}, {}
    for precision, config in runs.items():
        figures, travels[precision] = train_tiny(config, stage, data, tmp_path / precision)
        last = figures[-LAST:]
        for name in (f"{role}_loss" for role in travels[precision]):
            losses = [of_step[name] for of_step in last if name in of_step]
            means[precision, name] = sum(losses) / len(losses)
    for role, travel in travels["float32"].items():
        loss = f"{role}_loss"
        assert means["bfloat16", loss] == pytest.approx(means["float32", loss], rel=0.03), role
        assert travel > 0
        assert travels["bfloat16"][role] >= 0.9 * travel, role
