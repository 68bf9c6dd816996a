"""How the teacher samples, made from a run's configuration: its sigmas and its guidance."""

from actors.training.row_shapes import clip_latents
from infra.config import RunConfig, SamplingConfig
from omniforcing_model.config import ModelConfig
from omniforcing_model.distillation.ode_trajectory import nearest_steps
from omniforcing_model.flow_matching import shift_for_tokens, shifted_schedule
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance
from omniforcing_model.transformer.text_context import TextContext


def schedule(config: RunConfig, model: ModelConfig, steps: int) -> list[float]:
    """LTX-2's sigmas for `steps` steps on the run's clips, from 1 to 0."""
    sampling = config.sampling
    shift = sampling.schedule_shift
    if shift is None:
        shift = shift_for_tokens(_video_tokens(config, model))
    return shifted_schedule(steps, shift, sampling.schedule_terminal)


def teacher_schedule(config: RunConfig, model: ModelConfig) -> list[float]:
    """The teacher's sigmas, from 1 to 0."""
    return schedule(config, model, config.sampling.teacher_steps)


def trajectory_sigmas(config: RunConfig, model: ModelConfig) -> list[float]:
    """Sigmas of a trajectory's states, ending with 0.

    SamplingError if the teacher's guided steps are too few to tell the student's sigmas apart.
    """
    student = config.sampling.student_sigmas
    if not config.stages.trajectories.guided:
        return [*student, 0.0]
    sigmas = teacher_schedule(config, model)
    return [sigmas[step] for step in nearest_steps(sigmas, student)]


def teacher_guidance(sampling: SamplingConfig, null_text: TextContext) -> Guidance:
    """The teacher's guidance, away from `null_text` among others."""
    scales = PerStream(
        GuidanceScales(
            cfg=sampling.guidance_video,
            stg=sampling.stg_video,
            modality=sampling.modality_video,
            rescale=sampling.rescale,
        ),
        GuidanceScales(
            cfg=sampling.guidance_audio,
            stg=sampling.stg_audio,
            modality=sampling.modality_audio,
            rescale=sampling.rescale,
        ),
    )
    return Guidance(null_text, scales, sampling.stg_layers)


def _video_tokens(config: RunConfig, model: ModelConfig) -> int:
    latents, (height, width) = clip_latents(config, model)
    return latents.video * height * width
