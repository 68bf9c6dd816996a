"""Training's engines on one rank, on random weights and data: what a step takes, and holds.

A worker of the run trains each stage for a few steps, saves and publishes; what it holds in each
phase stands beside what the plan says of the same settings on one rank. Without a device that
computes, the plan's figures stand alone.
"""

import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import torch

from actors.training.deepspeed_engines import DTYPES
from actors.training.distillation_worker import DistillationWorker, StageWork
from infra.config import RunConfig
from infra.machine import GIB
from infra.presets import with_changes
from infra.records import Record
from infra.stages import DistributionMatchingConfig
from pipelines.benchmarks.machine.gemm_rate import SQUARE_SIDE, GemmRate, square
from pipelines.benchmarks.training.random_batches import RandomBatches
from pipelines.benchmarks.training.step_watch import StepWatch, Stretch
from pipelines.planning.memory import stage_memory
from pipelines.planning.training_costs import passes_of

Advance = Callable[[], None]


class PhaseFigures(Record):
    """`planned_gib`: what tensors hold by the plan. `measured_gib`, `seconds`: of a step, None
    where nothing was measured, and where a phase is no part of a step."""

    planned_gib: float
    measured_gib: float | None = None
    seconds: float | None = None


class TurnFigures(Record):
    """A role's turn in a step.

    `operations`: counted, as a mean over the steps that samples leave their chain after; those of
    layers that run again are among them. `planned_s`: by the configuration's GPU. `seconds`:
    measured. `utilisation`: operations per second over those of one large product.
    """

    operations: float
    planned_s: float
    seconds: float | None = None
    utilisation: float | None = None


class StageFigures(Record):
    """One stage. `step_s`: of a step, in which a generator has its turn as often as configured;
    None where nothing was measured. `peak_gib`: of all phases."""

    precision: str
    zero_stage: int
    recomputes: bool
    micro_batch: int
    phases: dict[str, PhaseFigures]
    turns: dict[str, TurnFigures]
    planned_peak_gib: float
    planned_step_s: float
    peak_gib: float | None = None
    step_s: float | None = None


class TrainBench(Record):
    """What `omniforcing bench train` says.

    `measured`: whether anything ran; without, all figures are the plan's. `layers`: of the model's
    `all_layers`. `steps`: that were timed, of each stage. `gemm_flops`: operations per second of a
    large product, by precision; empty where nothing ran.
    """

    config: str
    device: str
    measured: bool
    layers: int
    all_layers: int
    seconds: int
    height: int
    width: int
    steps: int
    gemm_flops: dict[str, float]
    stages: dict[str, StageFigures]


def timed_steps(config: RunConfig) -> int:
    """Of each stage: samples leave their chain after every one of its steps once."""
    return len(config.sampling.student_sigmas)


def bench_train(
    config: RunConfig, device: torch.device, layers: int, saves: bool, advance: Advance
) -> TrainBench:
    """Train every stage for some steps on one rank.

    Args:
        config: of the run.
        device: meta runs nothing.
        layers: of the model, at most as many as it has.
        saves: whether a checkpoint and the model are written too, to a folder that goes again.
        advance: is called after each step, or stage that is planned.
    """
    layers = min(layers, config.model.layers)
    rates: dict[str, GemmRate] = {}
    figures = {}
    for stage in config.stages.with_steps:
        alone = on_one_rank(config, stage, layers)
        planned = _planned(config, alone, stage)
        if device.type == "meta":
            advance()
            figures[stage] = planned
            continue
        precision = planned.precision
        if precision not in rates:
            shape = square(SQUARE_SIDE[device.type])
            rates[precision] = GemmRate((shape,), DTYPES[precision], device)
        measured = MeasuredStage(alone, stage, device, rates[precision])
        with default_device(device):
            measured.run(saves, advance)
        figures[stage] = _beside(config, planned, measured, rate_of(rates[precision], device))
    return TrainBench(
        config=config.name,
        device=device.type,
        measured=device.type != "meta",
        layers=layers,
        all_layers=config.model.layers,
        seconds=config.data.seconds,
        height=config.data.height,
        width=config.data.width,
        steps=0 if device.type == "meta" else timed_steps(config),
        gemm_flops={name: rate_of(rate, device) for name, rate in rates.items()},
        stages=figures,
    )


def on_one_rank(config: RunConfig, stage: str, layers: int) -> RunConfig:
    """The run with so many layers and one worker, whose steps are a micro-batch, in which every
    role has its turn."""
    settings = config.stages.trained_stage(stage)
    changes = [
        f"model.layers={layers}",
        "cluster.distillation_worker.replicas=1",
        f"stages.{stage}.optimiser.batch={settings.optimiser.micro_batch}",
        f"stages.{stage}.optimiser.steps={1 + timed_steps(config)}",
    ]
    if isinstance(settings, DistributionMatchingConfig):
        changes.append(f"stages.{stage}.critic_ratio=1")
    return with_changes(config, changes)


class MeasuredStage:
    """A stage's worker, followed. `stretches`: of each timed step. `peaks`: bytes by phase."""

    def __init__(self, config: RunConfig, stage: str, device: torch.device, rate: GemmRate) -> None:
        """config: on one rank. rate: is measured after every step."""
        self._config, self.stage, self._device, self._rate = config, stage, device, rate
        self._watch = StepWatch(device)
        self.stretches: list[list[Stretch]] = []

    @property
    def peaks(self) -> dict[str, float]:
        """Most bytes by phase."""
        return self._watch.peaks

    def run(self, saves: bool, advance: Advance) -> None:
        """From construction to publishing."""
        with TemporaryDirectory() as folder:
            with self._watch.phase("construction"):
                worker = self._worker(folder)
            self._watch.follow(worker.modules)
            self._train(worker, advance)
            if saves:
                with self._watch.phase("save"):
                    worker.save()
                with self._watch.phase("publish"):
                    worker.publish()
            worker.close()
        del worker
        gc.collect()  # engines and their hooks know each other

    def _worker(self, folder: str) -> DistillationWorker:
        watch = self._watch
        device = str(self._device)
        batches = RandomBatches(
            self._config, self.stage, device, watch.begin_turn, watch.begin_update
        )
        work = StageWork(self.stage, self._config, folder, data="", starts={}, inputs=())
        return DistillationWorker(work, device, batches=batches)

    def _train(self, worker: DistillationWorker, advance: Advance) -> None:
        with self._watch.meter.counting():
            worker.step()  # the first one makes what stays: it is not timed
        self._watch.end_step()
        advance()
        for _ in range(timed_steps(self._config)):
            worker.step()
            self.stretches.append(self._watch.end_step())
            self._rate.measure()
            advance()


@contextmanager
def default_device(device: torch.device) -> Iterator[None]:
    """A worker on a GPU makes it the default for all that follows; here not for longer."""
    before = torch.get_default_device()
    try:
        yield
    finally:
        if device.type != "cpu":
            torch.set_default_device(before)


def rate_of(rate: GemmRate, device: torch.device) -> float:
    """Operations per second of a large product."""
    return rate.per_second(square(SQUARE_SIDE[device.type]))


def _planned(config: RunConfig, alone: RunConfig, stage: str) -> StageFigures:
    """What the plan says of a stage on one rank."""
    memory = stage_memory(alone, stage)
    settings = alone.stages.trained_stage(stage)
    per_second = config.planning.operations_per_second
    turns = {}
    for role in settings.roles:
        operations = passes_of(alone, stage, role.name).operations
        turns[role.name] = TurnFigures(operations=operations, planned_s=operations / per_second)
    return StageFigures(
        precision=settings.optimiser.precision,
        zero_stage=settings.optimiser.zero_stage,
        recomputes=settings.optimiser.recomputes,
        micro_batch=settings.optimiser.micro_batch,
        phases={name: PhaseFigures(planned_gib=size / GIB) for name, size in memory.totals.items()},
        turns=turns,
        planned_peak_gib=memory.peak / GIB,
        planned_step_s=_of_a_step(config, stage, {k: turn.planned_s for k, turn in turns.items()}),
    )


def _beside(
    config: RunConfig, planned: StageFigures, measured: MeasuredStage, per_second: float
) -> StageFigures:
    """The plan's figures with what was measured."""
    stage, steps = measured.stage, measured.stretches
    by_turn = {role: mean_seconds(steps, turn=role) for role in planned.turns}
    turns = {
        role: turn.model_copy(
            update={
                "seconds": by_turn[role],
                "utilisation": turn.operations / by_turn[role] / per_second,
            }
        )
        for role, turn in planned.turns.items()
    }
    in_steps = {stretch.phase for step in steps for stretch in step}
    phases = {
        name: phase.model_copy(
            update={
                "measured_gib": measured.peaks[name] / GIB if name in measured.peaks else None,
                "seconds": mean_seconds(steps, phase=name) if name in in_steps else None,
            }
        )
        for name, phase in planned.phases.items()
    }
    return planned.model_copy(
        update={
            "turns": turns,
            "phases": phases,
            "peak_gib": max(measured.peaks.values()) / GIB,
            "step_s": _of_a_step(config, stage, by_turn),
        }
    )


def mean_seconds(
    steps: list[list[Stretch]], turn: str | None = None, phase: str | None = None
) -> float:
    """Of a step, over the stretches of a turn or of a phase."""
    return statistics.mean(
        sum(
            stretch.seconds
            for stretch in step
            if turn in (None, stretch.turn) and phase in (None, stretch.phase)
        )
        for step in steps
    )


def _of_a_step(config: RunConfig, stage: str, turns: dict[str, float]) -> float:
    """Seconds of a mean step of the run."""
    every = {role.name: role.every for role in config.stages.trained_stage(stage).roles}
    return sum(seconds / every[role] for role, seconds in turns.items())
