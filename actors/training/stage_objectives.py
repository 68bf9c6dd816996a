"""The mathematics of a stage, made from a run's configuration.

The table of stages (infra/stages.py) names the class of an objective, and its settings say what the
class is made from: so another stage with settings of a known kind needs no line here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from actors.training.guided_sampling import schedule
from actors.training.row_shapes import clip_latents
from infra.config import FrameSize, RunConfig
from infra.stages import (
    STAGES,
    CausalOdeStageConfig,
    DistributionMatchingConfig,
    SelfForcingConfig,
    TeacherStageConfig,
)
from omniforcing_model import distillation
from omniforcing_model.distillation.distribution_matching import DistributionMatchingRule
from omniforcing_model.distillation.objective import Objective
from omniforcing_model.distillation.real_score import RealScore
from omniforcing_model.distillation.stage_3_self_forcing import RolloutRule
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

SCHEDULE_STEPS = 1000


def stage_objective(
    config: RunConfig, stage: str, real_score: RealScore | None = None
) -> Objective[Any]:
    """The stage's losses; ConfigError for a name that is not a trained stage.

    real_score: of a teacher that is none of the stage's models.
    """
    settings = config.stages.trained_stage(stage)
    objective = _objective_class(stage)
    match settings:
        case TeacherStageConfig():
            return objective(settings.caption_dropout, settings.audio_weight)
        case CausalOdeStageConfig():
            return objective(settings.audio_weight, settings.target)
        case SelfForcingConfig():
            rollout = rollout_rule(config, settings)
            return objective(_matching_rule(config, settings), rollout, real_score)
        case DistributionMatchingConfig():
            return objective(_matching_rule(config, settings), real_score)
    raise TypeError(f"expected settings of a known kind for {stage}, got {type(settings)}")


def _objective_class(stage: str) -> Callable[..., Objective[Any]]:
    module, _, name = (STAGES[stage].objective or "").rpartition(".")
    objective: Callable[..., Objective[Any]]
    objective = getattr(import_module(f"{distillation.__name__}.{module}"), name)
    return objective


def rollout_rule(config: RunConfig, stage: SelfForcingConfig) -> RolloutRule:
    """How long the stage's streams are, in blocks."""
    layout = BlockLayout(config.model.layout)
    lengths = stage.rollout_seconds or (config.data.seconds, config.data.seconds)
    least, most = (layout.blocks_for_seconds(seconds) for seconds in lengths)
    return RolloutRule(least, most, stage.gradient_blocks)


def _matching_rule(
    config: RunConfig, stage: DistributionMatchingConfig
) -> DistributionMatchingRule:
    first, *others = config.data.sizes
    noise_levels = _noise_levels(config, stage, first)
    of_others = {
        clip_latents(config, config.model, size)[1]: _noise_levels(config, stage, size)
        for size in others
    }
    return DistributionMatchingRule(
        student_sigmas=config.sampling.student_sigmas,
        noise_levels=noise_levels,
        guidance=PerStream(stage.guidance_video, stage.guidance_audio),
        audio_weight=stage.audio_weight,
        levels_by_grid={g: levels for g, levels in of_others.items() if levels != noise_levels},
    )


def _noise_levels(
    config: RunConfig, stage: DistributionMatchingConfig, size: FrameSize
) -> tuple[float, ...]:
    sigmas = schedule(config, config.model, SCHEDULE_STEPS, size)
    # A uniform integer is clamped, not drawn again: both ends are drawn more often.
    lowest, highest = stage.min_sigma_step, stage.max_sigma_step
    steps = [min(max(step, lowest), highest) for step in range(SCHEDULE_STEPS)]
    return tuple(sigmas[SCHEDULE_STEPS - step] for step in steps)
