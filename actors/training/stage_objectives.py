"""The mathematics of a stage, made from a run's configuration."""

from typing import Any

from actors.training.guided_sampling import schedule
from infra.config import DistributionMatchingConfig, OptimiserConfig, RunConfig
from infra.errors import ConfigError
from omniforcing_model.distillation.distribution_matching import DistributionMatchingRule
from omniforcing_model.distillation.stage import Stage
from omniforcing_model.distillation.stage_1_bidirectional_dmd import BidirectionalDMD
from omniforcing_model.distillation.stage_2_causal_ode import CausalOdeRegression
from omniforcing_model.distillation.stage_3_self_forcing import SelfForcingDMD
from omniforcing_model.distillation.teacher_pretraining import TeacherPretraining
from omniforcing_model.per_stream import PerStream

TRAINED_STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
SCHEDULE_STEPS = 1000


def stage_objective(config: RunConfig, stage: str) -> Stage[Any]:
    """The stage's roles and losses; ConfigError for a name that is not a trained stage."""
    stages = config.stages
    match stage:
        case "teacher":
            teacher = stages.teacher
            return TeacherPretraining(teacher.caption_dropout, teacher.audio_weight)
        case "stage_1":
            return BidirectionalDMD(_matching_rule(config, stages.stage_1))
        case "stage_2":
            return CausalOdeRegression(stages.stage_2.audio_weight)
        case "stage_3":
            return SelfForcingDMD(_matching_rule(config, stages.stage_3))
    raise ConfigError(
        f"expected a trained stage of {', '.join(TRAINED_STAGES)}, got {stage!r}; name one of them"
    )


def stage_optimiser(config: RunConfig, stage: str) -> OptimiserConfig:
    """The optimiser settings of a trained stage."""
    settings: OptimiserConfig = getattr(config.stages, stage).optimiser
    return settings


def _matching_rule(
    config: RunConfig, stage: DistributionMatchingConfig
) -> DistributionMatchingRule:
    sigmas = schedule(config, config.model, SCHEDULE_STEPS)
    # A uniform integer is clamped, not drawn again: both ends are drawn more often (facts 7.3).
    lowest, highest = stage.min_sigma_step, stage.max_sigma_step
    steps = [min(max(step, lowest), highest) for step in range(SCHEDULE_STEPS)]
    return DistributionMatchingRule(
        student_sigmas=config.sampling.student_sigmas,
        noise_levels=tuple(sigmas[SCHEDULE_STEPS - step] for step in steps),
        guidance=PerStream(stage.guidance_video, stage.guidance_audio),
        audio_weight=stage.audio_weight,
    )
