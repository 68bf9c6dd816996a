"""What the driver sees of a stage while the workers train it: its progress, and a run in MLflow."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from actors.training.distillation_worker import StageWork
from infra.errors import ClusterError
from infra.leases.output_lease import OutputLease
from infra.runs.loss_curve import CURVE_FILE, STEP, CurveFollower, Figures
from infra.runs.provenance import (
    ModelManifest,
    code_commit,
    flatten,
    read_model_manifest,
)
from infra.runs.run_folder import model_name
from infra.runs.tracking import COMMIT_TAG, FOLDER_TAG, RECIPE_TAG, TrackedRun, Tracker
from infra.terminal.progress import Progress, StageProgress
from pipelines.training.candidates import record_model
from pipelines.training.stage_plan import ResolvedStage
from pipelines.training.worker_group import TrainingFit

POLL_S = 0.2
SHOWN = ("generator_loss", "critic_loss")


def watch_training(
    stage: ResolvedStage,
    tracker: Tracker,
    progress: Progress,
    fit: TrainingFit,
    lease: OutputLease,
) -> ModelManifest:
    """Report a stage's steps as they come, until its model is published; the model's manifest.

    Args:
        stage: as its workers resolve it too.
        tracker: gets a run with the curve, and the model as a registered version, unless it has
            got worse.
        progress: gets a step per step.
        fit: the workers.
        lease: of the run folder; whoever loses it reports nothing more.

    Raises what the workers raised, or ClusterError, if they end without the model.
    """
    work, folder, awaited = stage.work, stage.folder, stage.recipe_digest
    assert isinstance(work, StageWork), f"workers train {stage.name}"
    curve = CurveFollower(work.folder / CURVE_FILE)
    steps = work.config.stages.trained_stage(stage.name).optimiser.steps
    with stage_run(tracker, stage) as run, progress.stage(stage.name, steps) as bar:
        while True:
            lease.raise_if_lost()
            # In this order: workers that are done publish nothing; after the model comes no line.
            workers_are_done = fit.has_ended()
            manifest = read_model_manifest(folder)
            _report(curve.new_steps(), bar, run)
            if manifest is not None and manifest.recipe_digest == awaited:
                break
            if workers_are_done:
                fit.join()
                raise ClusterError(
                    f"expected the workers to publish a model in {folder}, but they ended without;"
                    " run the same command again with --debug"
                )
            time.sleep(POLL_S)
        lease.check()
        record_model(run, stage, manifest)
    return manifest


def stage_run(tracker: Tracker, stage: ResolvedStage) -> AbstractContextManager[TrackedRun]:
    """A run in MLflow for `stage`; one that a killed run has left is ended."""
    folder = str(stage.folder)
    tracker.end_abandoned(folder)
    tags = {RECIPE_TAG: stage.recipe_digest, COMMIT_TAG: code_commit(), FOLDER_TAG: folder}
    name = model_name(stage.work.config.name, stage.name)
    return tracker.run(name, stage.name, flatten(stage.recipe), stage.inputs, tags)


def _report(fresh: Sequence[Figures], bar: StageProgress, run: TrackedRun) -> None:
    for figures in fresh:
        step = int(figures[STEP])
        run.log(step, {name: value for name, value in figures.items() if name != STEP})
        bar.advance(1, **{name: figures[name] for name in SHOWN if name in figures})
