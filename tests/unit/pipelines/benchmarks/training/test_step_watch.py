"""The phases of a step, told by who passes and how."""

import time

import pytest
import torch

from actors.training.distillation_worker import DistillationWorker, StageWork
from pipelines.benchmarks.training.random_batches import RandomBatches
from pipelines.benchmarks.training.step_watch import StepWatch, TensorMeter, phase_of
from tests.worlds.training import small_run

CPU = torch.device("cpu")
IN_TURNS = {
    "teacher": [("generator", "generator"), ("generator", "update")],
    "stage_1": [
        *(("critic", phase) for phase in ("rollout", "critic", "update")),
        # Its samples keep their graph while they are scored.
        *(("generator", phase) for phase in ("rollout", "generator", "update")),
    ],
    "stage_2": [("generator", "generator"), ("generator", "update")],
    "stage_3": [
        *(("critic", phase) for phase in ("rollout", "critic", "update")),
        *(("generator", phase) for phase in ("rollout", "scores", "generator", "update")),
    ],
}


@pytest.mark.parametrize("stage", IN_TURNS)
def test_a_step_is_its_phases_one_after_the_other(tmp_path, stage):
    config = small_run("stages.stage_1.critic_ratio=1", "stages.stage_3.critic_ratio=1")
    watch = StepWatch(CPU)
    batches = RandomBatches(config, stage, "cpu", watch.begin_turn, watch.begin_update)
    work = StageWork(stage, config, str(tmp_path), data="", starts={}, inputs=())
    worker = DistillationWorker(work, batches=batches)
    watch.follow(worker.modules)
    began = time.perf_counter()
    worker.step()
    stretches = watch.end_step()
    took = time.perf_counter() - began
    worker.close()
    # Of two micro-batches, each goes through all phases before the update.
    once = list(dict.fromkeys((stretch.turn, stretch.phase) for stretch in stretches))
    assert once == IN_TURNS[stage]
    assert all(stretch.seconds > 0 for stretch in stretches)
    assert sum(stretch.seconds for stretch in stretches) <= took
    assert set(watch.peaks) == {phase for _, phase in IN_TURNS[stage]}


def test_passes_after_a_generators_first_with_gradients_are_its_own():
    for role in ("critic", "teacher", "generator"):
        assert phase_of("generator", role, has_gradients=False, present="generator") == "generator"
    assert phase_of("generator", "teacher", has_gradients=False, present="rollout") == "scores"


def test_a_phase_holds_what_is_made_in_it_and_what_was_left():
    watch = StepWatch(CPU)
    with watch.phase("construction"):
        kept = torch.zeros(1000)
        torch.ones(5000)
    with watch.phase("save"):
        torch.ones(2000)
    assert kept.nbytes == 4000
    assert watch.peaks == {"construction": 24000.0, "save": 12000.0}


def test_what_is_made_between_phases_is_of_none():
    meter = TensorMeter()
    watch = StepWatch(CPU)
    with watch.phase("construction"):
        torch.zeros(10)
    with watch.meter.counting():
        torch.zeros(10_000)
    with watch.phase("save"):
        torch.zeros(20)
    assert watch.peaks == {"construction": 40.0, "save": 80.0}
    assert meter.live() == 0
