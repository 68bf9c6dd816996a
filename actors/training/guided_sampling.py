"""How the teacher samples, made from a run's configuration: its sigmas and its guidance."""

from actors.training.row_shapes import clip_latents
from infra.config import FrameSize, RunConfig, SamplingConfig
from omniforcing_model.config import ModelConfig
from omniforcing_model.distillation.ode_trajectory import nearest_steps
from omniforcing_model.errors import SamplingError
from omniforcing_model.flow_matching import shift_for_tokens, shifted_schedule
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance
from omniforcing_model.transformer.text_context import TextContext


def schedule(
    config: RunConfig, model: ModelConfig, steps: int, size: FrameSize | None = None
) -> list[float]:
    """LTX-2's sigmas for `steps` steps on the run's clips, from 1 to 0.

    size: of their pictures; None: data.height x data.width.
    """
    sampling = config.sampling
    shift = sampling.schedule_shift
    if shift is None:
        shift = shift_for_tokens(_video_tokens(config, model, size))
    return shifted_schedule(steps, shift, sampling.schedule_terminal)


def teacher_schedule(
    config: RunConfig, model: ModelConfig, size: FrameSize | None = None
) -> list[float]:
    """The teacher's sigmas, from 1 to 0, for clips as of `schedule`."""
    return schedule(config, model, config.sampling.teacher_steps, size)


def trajectory_sigmas(config: RunConfig, model: ModelConfig) -> list[float]:
    """Sigmas of a trajectory's states, ending with 0.

    SamplingError if the teacher's guided steps are too few to tell the student's sigmas apart, or
    stand elsewhere for another of the sizes.
    """
    student = config.sampling.student_sigmas
    if not config.stages.trajectories.guided:
        return [*student, 0.0]
    sigmas = teacher_schedule(config, model)
    if any(teacher_schedule(config, model, size) != sigmas for size in config.data.sizes):
        raise SamplingError(
            "expected the same steps of the teacher for all sizes of data.height, data.width and"
            " data.buckets, got others for clips of other numbers of tokens; set"
            " sampling.schedule_shift"
        )
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


def _video_tokens(config: RunConfig, model: ModelConfig, size: FrameSize | None) -> int:
    latents, (height, width) = clip_latents(config, model, size)
    return latents.video * height * width
