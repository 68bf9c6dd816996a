"""What the driver sees of a stage while the workers train it: its progress, and a run in MLflow."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from actors.training.distillation_worker import StageWork
from actors.training.stage_objectives import stage_optimiser
from infra.config import RunConfig
from infra.errors import ClusterError
from infra.runs.loss_curve import CURVE_FILE, STEP, CurveFollower, Figures
from infra.runs.provenance import (
    ArtifactRef,
    ModelManifest,
    Recipe,
    code_commit,
    digest_of,
    flattened,
    read_model_manifest,
)
from infra.runs.tracking import COMMIT_TAG, RECIPE_TAG, TrackedRun, Tracker
from infra.terminal.progress import Progress, StageProgress
from pipelines.training.worker_group import TrainingFit

POLL_S = 0.2
SHOWN = ("generator_loss", "critic_loss")


def watch_training(
    work: StageWork,
    recipe: Recipe,
    tracker: Tracker,
    progress: Progress,
    fit: TrainingFit,
) -> ModelManifest:
    """Report a stage's steps as they come, until its model is published; the model's manifest.

    Args:
        work: the stage, as its workers got it.
        recipe: of the model that is awaited.
        tracker: gets a run with the curve, and the model as a registered version.
        progress: gets a step per step.
        fit: the workers.

    Raises what the workers raised, or ClusterError, if they end without the model.
    """
    stage, folder = work.stage, work.folder / "model"
    awaited, curve = digest_of(recipe), CurveFollower(work.folder / CURVE_FILE)
    steps = stage_optimiser(work.config, stage).steps
    with (
        stage_run(tracker, work.config, recipe, work.inputs) as run,
        progress.stage(stage, steps) as bar,
    ):
        while True:
            # In this order: after the end comes no model, and after the model no line of the curve.
            ended = fit.has_ended()
            manifest = read_model_manifest(folder)
            _report(curve.new_steps(), bar, run)
            if manifest is not None and manifest.recipe_digest == awaited:
                break
            if ended:
                fit.join()
                raise ClusterError(
                    f"expected the workers to publish a model in {folder}, but they ended without;"
                    " run the same command again with --debug"
                )
            time.sleep(POLL_S)
        run.made(manifest.digest, str(folder))
        run.register(manifest.name, manifest.digest, folder)
    return manifest


def stage_run(
    tracker: Tracker, config: RunConfig, recipe: Recipe, inputs: Sequence[ArtifactRef]
) -> AbstractContextManager[TrackedRun]:
    """A run in MLflow for the stage of `recipe`."""
    stage = recipe["stage"]
    tags = {RECIPE_TAG: digest_of(recipe), COMMIT_TAG: code_commit()}
    return tracker.run(f"{config.name}-{stage}", stage, flattened(recipe), inputs, tags)


def _report(fresh: Sequence[Figures], bar: StageProgress, run: TrackedRun) -> None:
    for figures in fresh:
        step = int(figures[STEP])
        run.log(step, {name: value for name, value in figures.items() if name != STEP})
        bar.advance(1, **{name: figures[name] for name in SHOWN if name in figures})
