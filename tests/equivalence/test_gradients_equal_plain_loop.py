"""However a stage is spread, its gradients are those of a plain loop over whole models."""

from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import small_run, write_clips, write_model, write_trajectories

STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
BATCH = 8
# One way of each kind with every change, all of them in the long suite.
QUICK = (("stage_3", 2, 2),)
ROLES = ("generator", "critic", "teacher")


def run_of(ranks, zero_stage, accumulation, recomputes):
    """A step of 8 clips, whose gradients are not clipped, through a window that rolls."""
    return small_run(
        "model.layers=2",
        "model.layout.window_blocks=1",
        "data.seconds=3",
        "sampling.student_sigmas=[1.0, 0.8, 0.5]",
        *(f"stages.{stage}.optimiser.clip_norm=1.0e9" for stage in STAGES),
        *(f"stages.{stage}.optimiser.recomputes={recomputes}" for stage in STAGES),
        # The generator has its turn in the first step.
        *(f"stages.{stage}.critic_ratio=1" for stage in ("stage_1", "stage_3")),
        # Its critic, which is updated before, is still where it started.
        *(f"stages.{stage}.critic_learning_rate=1.0e-30" for stage in ("stage_1", "stage_3")),
        steps=1,
        batch=BATCH,
        micro_batch=BATCH // (ranks * accumulation),
        zero_stage=zero_stage,
    )


def leave_gradients(folder, stage, data, ranks, zero_stages, accumulation, recomputes):
    """What AdamW has kept of the first step's gradients, of each way in a file."""
    from torch import distributed as dist

    from actors.training.distillation_worker import DistillationWorker, StageWork

    for zero_stage in zero_stages:
        config = run_of(ranks, zero_stage, accumulation, recomputes)
        starts = dict.fromkeys(ROLES, str(folder / "model"))
        run = str(folder / f"run-{zero_stage}")
        worker = DistillationWorker(StageWork(stage, config, run, data, starts, ()))
        worker.step()
        momentum = config.stages.trained_stage(stage).optimiser.betas[0]
        for role, engine in worker._engines.items():
            kept = engine.state()
            gradients = {}
            for name in engine.learning:
                own = kept.get(f"{name}/exp_avg")
                whole = engine.whole(name, None if own is None else own.values)
                gradients[name] = whole / (1 - momentum)
            if dist.get_rank() == 0:
                save_file(gradients, folder / f"{role}-{zero_stage}.safetensors")
        worker.close()


def leave_plain_gradients(folder, stage, data, ranks, accumulation):
    from tests.worlds.plain_training import plain_gradients

    config = run_of(ranks, 1, accumulation, False)
    for role, gradients in plain_gradients(config, stage, data, folder / "model").items():
        save_file(gradients, folder / f"{role}-plain.safetensors")


@pytest.mark.parametrize(
    ("stage", "ranks", "accumulation"),
    [
        pytest.param(*way, marks=pytest.mark.thorough if way in QUICK else pytest.mark.slow)
        for way in product(STAGES, (1, 2, 4), (1, 2))
    ],
)
def test_gradients_are_those_of_a_plain_loop(tmp_path, stage, ranks, accumulation):
    config = run_of(ranks, 1, accumulation, False)
    data = write_clips(config, tmp_path / "clips")
    if stage == "stage_2":
        data = write_trajectories(config, tmp_path / "trajectories")
    write_model(config, tmp_path / "model")
    shape = {"stage": stage, "data": data, "ranks": ranks, "accumulation": accumulation}
    run_in_ranks(leave_plain_gradients, 1, tmp_path, shape)
    # With one form of activations on fewer ranks, the other one on more.
    run_in_ranks(
        leave_gradients,
        ranks,
        tmp_path,
        shape | {"zero_stages": [1, 2, 3], "recomputes": ranks > 1},
    )
    for role in [role.name for role in config.stages.trained_stage(stage).roles]:
        plain = load_file(tmp_path / f"{role}-plain.safetensors")
        largest = max(float(gradient.abs().max()) for gradient in plain.values())
        for zero_stage in (1, 2, 3):
            spread = load_file(tmp_path / f"{role}-{zero_stage}.safetensors")
            for name, gradient in spread.items():
                expected = plain.get(name, torch.zeros_like(gradient))
                error = float((gradient - expected).abs().max())
                assert error <= 1e-5 * largest, (role, zero_stage, name)
