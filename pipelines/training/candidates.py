"""Whether a trained model is a candidate: not if its stage has ended worse than it began."""

import logging
from math import sqrt
from pathlib import Path
from statistics import mean, variance

from actors.training.distillation_worker import StageWork
from infra.runs.loss_curve import CURVE_FILE, first_and_last
from infra.runs.provenance import ModelManifest
from infra.runs.tracking import TrackedRun
from infra.stages import CRITIC, GENERATOR
from pipelines.training.stage_plan import ResolvedStage

LOG = logging.getLogger(__name__)

# Differences of means beyond so many standard errors are no noise, where there are steps enough to
# tell; where there are not, a mean may grow by a factor.
STANDARD_ERRORS = 3.0
LEAST_STEPS = 10
GROWTH = 2.0
# A critic's loss follows what the student makes: sharper samples raise it, samples that explode
# raise it out of bounds.
CRITIC_GROWTH = 10.0


def record_model(run: TrackedRun, stage: ResolvedStage, model: ModelManifest) -> None:
    """Tell MLflow of the model of a stage: as a candidate, or why it is none.

    Its result comes last: a run that has one is not told of again.
    """
    why = worsening(stage)
    if why is None:
        run.register(model.name, model.digest, stage.folder)
    else:
        LOG.warning(
            "%s got worse than it began: %s; its model stays in %s and is no candidate, lower its"
            " learning rate and train it anew",
            model.name,
            why,
            stage.folder,
        )
        run.refuse(why)
    run.record_result(model.digest, str(stage.folder))


def worsening(stage: ResolvedStage) -> str | None:
    """How a trained stage got worse, by its curve; None if it did not, or nothing tells.

    A loss of flow matching or regression is compared with itself. That of DMD says nothing: it
    begins at about 0, where critic and teacher are the same. There the critic's is looked at.
    """
    work = stage.work
    assert isinstance(work, StageWork), f"{stage.name} is trained"
    has_critic = CRITIC in [r.name for r in work.config.stages.trained_stage(stage.name).roles]
    figure = f"{CRITIC if has_critic else GENERATOR}_loss"
    return risen(work.folder / CURVE_FILE, figure, CRITIC_GROWTH if has_critic else None)


def risen(curve: Path, figure: str, growth: float | None) -> str | None:
    """Where a loss has risen `growth` times, or beyond its noise where that is None: from what to
    what, in words."""
    first, last = first_and_last(curve, figure)
    if not first:
        return None
    began, ended = mean(first), mean(last)
    if growth is None and len(first) >= LEAST_STEPS:
        error = sqrt((variance(first) + variance(last)) / len(first))
        most = began + STANDARD_ERRORS * error
    else:
        most = began * (growth or GROWTH)
    if ended <= most:
        return None
    n = len(first)
    return f"mean {figure} {began:.4g} in the first {n} steps that have it, {ended:.4g} in the last"
