"""Stages on one rank: measured where something computes, and the plan's figures alone elsewhere."""

import pytest
import torch

from infra.machine import GIB
from pipelines.benchmarks.training.step_watch import Stretch
from pipelines.benchmarks.training.train_bench import (
    bench_train,
    mean_seconds,
    on_one_rank,
)
from pipelines.planning.memory import stage_memory
from pipelines.planning.training_costs import passes_of
from tests.worlds.training import STAGES, small_run

META, CPU = torch.device("meta"), torch.device("cpu")


def run_of(*stages):
    """A small run on two ranks in which only these stages have steps."""
    without = [f"stages.{name}.optimiser.steps=0" for name in STAGES if name not in stages]
    ranks = "cluster.distillation_worker.replicas=2"
    return small_run("model.layers=3", ranks, *without)


def nothing():
    pass


def test_without_a_device_the_figures_are_the_plans_and_nothing_is_measured():
    config = run_of("stage_2")
    looks = []
    bench = bench_train(config, META, 2, True, lambda: looks.append(1))
    assert not bench.measured
    assert bench.steps == 0
    assert bench.gemm_flops == {}
    assert (bench.layers, bench.all_layers) == (2, 3)
    assert list(bench.stages) == ["stage_2"]
    assert len(looks) == 1
    stage = bench.stages["stage_2"]
    memory = stage_memory(on_one_rank(config, "stage_2", 2), "stage_2")
    planned = {name: phase.planned_gib * GIB for name, phase in stage.phases.items()}
    assert planned == pytest.approx(memory.totals)
    assert stage.planned_peak_gib * GIB == pytest.approx(memory.peak)
    assert stage.peak_gib is stage.step_s is None
    for phase in stage.phases.values():
        assert phase.measured_gib is phase.seconds is None
    for turn in stage.turns.values():
        assert turn.seconds is turn.utilisation is None
        assert turn.operations > 0


def test_a_plan_is_of_one_rank_a_micro_batch_and_every_roles_turn():
    config = run_of("stage_3")
    alone = on_one_rank(config, "stage_3", 2)
    assert alone.model.layers == 2
    assert alone.cluster.distillation_worker.replicas == 1
    settings = alone.stages.stage_3
    assert settings.optimiser.batch == settings.optimiser.micro_batch == 2
    assert settings.critic_ratio == 1
    assert config.stages.with_steps == ("stage_3",)


@pytest.mark.parametrize("stage", ["stage_2", pytest.param("stage_3", marks=pytest.mark.thorough)])
def test_where_something_computes_every_phase_is_measured_beside_the_plan(stage):
    config = run_of(stage)
    looks = []
    bench = bench_train(config, CPU, 2, True, lambda: looks.append(1))
    assert bench.measured
    assert bench.steps == len(config.sampling.student_sigmas)
    assert len(looks) == 1 + bench.steps
    (of_stage,) = bench.stages.values()
    rate = bench.gemm_flops[of_stage.precision]
    alone = on_one_rank(config, stage, 2)
    for role, turn in of_stage.turns.items():
        assert turn.operations == passes_of(alone, stage, role).operations
        assert turn.utilisation == pytest.approx(turn.operations / turn.seconds / rate)
    in_steps = [phase for phase in of_stage.phases.values() if phase.seconds is not None]
    turns = sum(turn.seconds for turn in of_stage.turns.values())
    assert sum(phase.seconds for phase in in_steps) == pytest.approx(turns)
    measured = {name: phase.measured_gib for name, phase in of_stage.phases.items()}
    assert all(size is not None and size > 0 for size in measured.values())
    assert of_stage.peak_gib == max(measured.values())
    # A step of the run has a generator's turn as often as it is configured.
    shares = {role.name: 1 / role.every for role in config.stages.trained_stage(stage).roles}
    if stage == "stage_3":
        assert shares == {"critic": 1, "generator": 0.5}
    for mean, figure in ((of_stage.step_s, "seconds"), (of_stage.planned_step_s, "planned_s")):
        parts = (shares[role] * getattr(turn, figure) for role, turn in of_stage.turns.items())
        assert mean == pytest.approx(sum(parts))


def test_nothing_is_written_where_that_is_not_asked_for():
    bench = bench_train(run_of("stage_2"), CPU, 1, False, nothing)
    phases = bench.stages["stage_2"].phases
    assert phases["save"].measured_gib is phases["publish"].measured_gib is None
    assert phases["generator"].measured_gib is not None


def test_seconds_are_means_over_steps_of_a_turn_or_a_phase():
    steps = [
        [Stretch("critic", "update", 1.0), Stretch("generator", "update", 2.0)],
        [Stretch("critic", "update", 3.0), Stretch("generator", "update", 6.0)],
    ]
    assert mean_seconds(steps, turn="critic") == 2.0
    assert mean_seconds(steps, phase="update") == 6.0
