"""The stages of a distillation in their order: what is there already is not made again.

The table of stages is infra/stages.py. Everything lies in the run folder: the folders of
infra/runs/run_folder.py and MLflow's file. However a run was stopped, the same call continues it.
A stage without steps hands on the model that it starts from, and starts nothing for it.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actors.training.distillation_worker import CHECKPOINTS, StageWork
from actors.training.teacher_sampler import TrajectoryWork
from infra.config import RunConfig
from infra.leases.output_lease import OutputLease, hold_output
from infra.ray_cluster import local_cluster
from infra.records import Record
from infra.runs.checkpoint_store import CheckpointStore
from infra.runs.provenance import ModelManifest
from infra.runs.tracking import Tracker, default_tracking_uri
from infra.stages import STAGES
from infra.terminal.progress import Progress
from pipelines.training.linked_stage import link_stage
from pipelines.training.stage_plan import ResolvedStage, StagePlan, make_plan
from pipelines.training.stage_records import StageRecords
from pipelines.training.stage_watch import stage_run, watch_training
from pipelines.training.trajectories import make_teacher_trajectories
from pipelines.training.worker_group import TrainingFit, fits_beside, training_groups

LOG = logging.getLogger(__name__)


class StageSummary(Record):
    """One stage's result: its folder and digest, and what it took if it was made now."""

    stage: str
    result: str
    digest: str
    made_now: bool
    seconds: float
    figures: dict[str, float]


class DistillSummary(Record):
    """The stages of a run, and the model of the last one."""

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

    SIGINT and SIGTERM unwind it after the workers have saved the step that they are in.

    Args:
        config: of the whole run.
        dataset: URI of a dataset of latents.
        out: the run folder, one that all workers share.
        stages: names of the table; one that reads trajectories brings them.
        start: model URIs by role: "teacher" instead of a teacher trained here, "generator" where
            the first of `stages` starts, "critic" where critics start (else: the teacher),
            "STAGE.generator" where that stage starts.
        progress: gets each stage.

    Raises:
        ConfigError: unknown stages or roles, no dataset, workers that do not divide the batch, a
            bad address.
        DatasetError: the dataset cannot be read.
        CheckpointError: a model to start from is missing, or the run folder holds another
            configuration's work.
        DivergenceError: a loss or gradient is not a finite number.
        ClusterError: Ray failed more often than it is restarted.
        OwnershipError: another run is at work in `out`, or has taken it over.
    """
    began = time.monotonic()
    plan = make_plan(config, dataset, out, tuple(stages), dict(start))
    tracking = default_tracking_uri(config.tracking.uri, Path(plan.run))
    records = StageRecords(plan, tracking)
    plan, finished = _finished_stages(plan)
    summaries = [_summary(stage, None) for stage in finished]
    if plan.pending:
        with hold_output(plan.run, "distill", config.output.lease_s) as lease:
            # Once more: a run that has just ended may have made it.
            plan, made = _links_first(replace(plan, fence=lease.fence), records, lease)
            if plan.pending:
                made += _make_pending(plan, records, lease, progress)
            finished += [stage for stage, _ in made]
            summaries += [_summary(stage, seconds) for stage, seconds in made]
            lease.check()
            records.catch_up(finished)
    else:
        records.catch_up(finished)
    last = summaries[-1]
    return DistillSummary(
        stages=tuple(summaries),
        model=last.result,
        digest=last.digest,
        tracking=tracking,
        seconds=time.monotonic() - began,
    )


def _finished_stages(plan: StagePlan) -> tuple[StagePlan, list[ResolvedStage]]:
    """The stages up to the first one without a result, and the plan from there on."""
    stages: list[ResolvedStage] = []
    for name in plan.pending:
        stage = plan.resolve(name)
        if stage.result is None:
            break
        plan = plan.with_result(stage)
        stages.append(stage)
    return plan, stages


def _links_first(
    plan: StagePlan, records: StageRecords, lease: OutputLease
) -> tuple[StagePlan, list[tuple[ResolvedStage, float | None]]]:
    """As `_finished_stages`, with stages made that only hand on what they start from: that needs no
    workers. Each comes with its seconds if it was made."""
    made: list[tuple[ResolvedStage, float | None]] = []
    while True:
        plan, finished = _finished_stages(plan)
        made += [(stage, None) for stage in finished]
        if not plan.pending or not plan.is_link(plan.pending[0]):
            return plan, made
        began = time.monotonic()
        stage = _link(plan.resolve(plan.pending[0]), records.tracker(), lease)
        plan = plan.with_result(stage)
        made.append((stage, time.monotonic() - began))


def _link(stage: ResolvedStage, tracker: Tracker, lease: OutputLease) -> ResolvedStage:
    lease.check()
    stage.folder.parent.mkdir(parents=True, exist_ok=True)
    return replace(stage, result=link_stage(stage, tracker))


def _make_pending(
    plan: StagePlan, records: StageRecords, lease: OutputLease, progress: Progress
) -> list[tuple[ResolvedStage, float | None]]:
    """Make the first stage without a result, and all after it; each with its seconds."""
    Path(plan.run).mkdir(parents=True, exist_ok=True)
    made: list[tuple[ResolvedStage, float | None]] = []
    with local_cluster(plan.config.cluster):
        beside = fits_beside(plan)
        groups = training_groups(plan, beside)
        fit: TrainingFit | None = None
        if groups and (beside or STAGES[plan.pending[0]].is_trained):
            fit = TrainingFit(plan, groups.pop(0))  # starts while MLflow is connected
        try:
            tracker = records.tracker()
            for name in plan.pending:
                began = time.monotonic()
                lease.check()
                stage = plan.resolve(name)
                if stage.is_link:
                    stage = _link(stage, tracker, lease)
                elif isinstance(stage.work, TrajectoryWork):
                    if fit is not None and not beside:
                        fit.join()  # it makes room
                        fit = None
                    stage = _make_trajectories(stage, tracker, lease, progress)
                else:
                    fit = fit or TrainingFit(plan, groups.pop(0))
                    result = watch_training(stage, tracker, progress, fit, lease)
                    stage = replace(stage, result=result)
                plan = plan.with_result(stage)
                made.append((stage, time.monotonic() - began))
            if fit is not None:
                fit.join()
        except (KeyboardInterrupt, SystemExit):
            if fit is not None:
                fit.stop()
            LOG.info("%s", _where_it_goes_on(plan))
            raise
    return made


def _where_it_goes_on(plan: StagePlan) -> str:
    """What a stopped run has, in a sentence: the workers may be further than the driver saw."""
    plan, _ = _finished_stages(plan)
    if not plan.pending:
        return "every stage is finished; the same command says what they have made"
    stage = plan.resolve(plan.pending[0])
    if not isinstance(stage.work, StageWork):
        return f"the same command goes on with the {stage.name}"
    saved = CheckpointStore(stage.work.folder / CHECKPOINTS).complete(stage.recipe)
    if not saved:
        return f"no step of {stage.name} is saved; the same command begins it"
    steps = plan.config.stages.trained_stage(stage.name).optimiser.steps
    done = saved[0].step
    return (
        f"{stage.name} is saved after step {done} of {steps}; the same command goes on from there"
    )


def _make_trajectories(
    stage: ResolvedStage, tracker: Tracker, lease: OutputLease, progress: Progress
) -> ResolvedStage:
    with stage_run(tracker, stage) as run:
        manifest = make_teacher_trajectories(stage, progress)
        lease.check()
        run.record_result(manifest.digest, str(stage.folder))
    return replace(stage, result=manifest)


def _summary(stage: ResolvedStage, seconds: float | None) -> StageSummary:
    """Of a stage that has its result; `seconds` if it was made now."""
    manifest = stage.result
    assert manifest is not None, f"{stage.name} was made or is there"
    return StageSummary(
        stage=stage.name,
        result=str(stage.folder),
        digest=manifest.digest,
        made_now=seconds is not None,
        seconds=seconds or 0.0,
        figures=manifest.metrics if isinstance(manifest, ModelManifest) else {},
    )
