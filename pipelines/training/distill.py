"""The stages of a distillation in their order: what is there already is not made again.

    teacher -> stage_1 -> trajectories -> stage_2 -> stage_3

Everything lies in the run folder: stages/<stage>/{checkpoints,curve.jsonl,model}, trajectories/ and
MLflow's file. A run that was stopped, however, goes on from there.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.training.teacher_sampler import TrajectoryWork
from infra.config import RunConfig
from infra.dataset.manifest import read_manifest
from infra.ray_cluster import local_cluster
from infra.records import Record
from infra.runs.provenance import ModelManifest
from infra.runs.tracking import Tracker, default_tracking_uri
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import Progress
from pipelines.lineage.dataset_tracking import record_dataset
from pipelines.training.stage_plan import TRAJECTORIES, StagePlan, make_plan
from pipelines.training.stage_watch import stage_run, watch_training
from pipelines.training.trajectories import make_teacher_trajectories
from pipelines.training.worker_group import TrainingFit, fits_beside, training_groups


class StageSummary(Record):
    """One stage's result: its folder and digest, and what it took if it was made now."""

    stage: str
    result: str
    digest: str
    made_now: bool
    seconds: float
    figures: dict[str, float]


class DistillSummary(Record):
    """What a run has in the end: the stages, and the model of the last one."""

    stages: tuple[StageSummary, ...]
    model: str
    digest: str
    tracking: str
    seconds: float


def distill(
    config: RunConfig,
    dataset: str,
    out: str,
    stages: Sequence[str],
    start: Mapping[str, str],
    progress: Progress,
) -> DistillSummary:
    """Train `stages` on `dataset` in the run folder `out`.

    Args:
        config: of the whole run.
        dataset: URI of a dataset of latents.
        out: the run folder, one that all workers share.
        stages: of teacher, stage_1, trajectories, stage_2, stage_3; stage_2 brings trajectories.
        start: model URIs by role: "teacher" instead of a teacher trained here, "generator" where
            the first of `stages` starts, "critic" where critics start (else: the teacher).
        progress: gets each stage.

    Raises:
        ConfigError: unknown stages or roles, workers that do not divide the batch, a bad address.
        DatasetError: the dataset cannot be read.
        CheckpointError: a model to start from is missing, or the run folder holds another
            configuration's work.
        DivergenceError: a loss or gradient is not a finite number.
        ClusterError: Ray failed more often than it is restarted.
    """
    began = time.monotonic()
    plan = make_plan(config, dataset, out, tuple(stages), dict(start))
    tracking = default_tracking_uri(config.tracking.uri, Path(plan.run))
    pending = _pending(plan)
    seconds = _make(plan, pending, tracking, progress) if pending else {}
    summaries = tuple(_summary(plan, stage, seconds) for stage in plan.stages)
    last = summaries[-1]
    return DistillSummary(
        stages=summaries,
        model=last.result,
        digest=last.digest,
        tracking=tracking,
        seconds=time.monotonic() - began,
    )


def _pending(plan: StagePlan) -> tuple[str, ...]:
    """The first stage without its result, and all after it."""
    for number, stage in enumerate(plan.stages):
        if not plan.is_done(stage):
            return plan.stages[number:]
    return ()


def _make(
    plan: StagePlan, pending: tuple[str, ...], tracking: str, progress: Progress
) -> dict[str, float]:
    """Make the pending stages; seconds that each took."""
    Path(plan.run).mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with local_cluster(plan.config.cluster):
        beside = fits_beside(plan)
        groups = training_groups(pending, beside)
        fit: TrainingFit | None = None
        if groups and (beside or pending[0] != TRAJECTORIES):
            fit = TrainingFit(plan, groups.pop(0))  # starts while MLflow is connected
        tracker = Tracker(tracking, plan.config.tracking.experiment, Path(plan.run) / "mlartifacts")
        _record_dataset(plan, tracker)
        for stage in pending:
            began = time.monotonic()
            if stage == TRAJECTORIES:
                if fit is not None and not beside:
                    fit.join()  # it makes room
                    fit = None
                _make_trajectories(plan, tracker, progress)
            else:
                fit = fit or TrainingFit(plan, groups.pop(0))
                watch_training(plan.work(stage), plan.recipe(stage), tracker, progress, fit)
            seconds[stage] = time.monotonic() - began
        if fit is not None:
            fit.join()
    return seconds


def _record_dataset(plan: StagePlan, tracker: Tracker) -> None:
    """Give the dataset a run of its own, once, so that lineage in MLflow reaches the clips."""
    manifest = read_manifest(ObjectStore(plan.dataset))
    if manifest is not None:
        record_dataset(tracker, plan.config.name, manifest, plan.dataset)


def _make_trajectories(plan: StagePlan, tracker: Tracker, progress: Progress) -> None:
    work, recipe = plan.work(TRAJECTORIES), plan.recipe(TRAJECTORIES)
    folder = plan.folder(TRAJECTORIES)
    with stage_run(tracker, plan.config, recipe, work.inputs) as run:
        job = TrajectoryWork(plan.config, work.starts["generator"], plan.dataset, str(folder))
        manifest = make_teacher_trajectories(job, recipe, work.inputs, progress)
        run.made(manifest.digest, str(folder))


def _summary(plan: StagePlan, stage: str, seconds: Mapping[str, float]) -> StageSummary:
    manifest = plan.trajectories() if stage == TRAJECTORIES else plan.model(stage)
    assert manifest is not None, f"{stage} was made or is done"
    return StageSummary(
        stage=stage,
        result=str(plan.folder(stage)),
        digest=manifest.digest,
        made_now=stage in seconds,
        seconds=seconds.get(stage, 0.0),
        figures=manifest.metrics if isinstance(manifest, ModelManifest) else {},
    )
