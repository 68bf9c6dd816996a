"""What teacher servers and trajectories cost, beside the training workers."""

from typing import Any

from infra.config import RunConfig, SamplingConfig
from infra.stages import GENERATOR
from pipelines.planning.memory import asks_teacher, is_guided, pass_shape
from pipelines.planning.other_actors import clip_elements, sampled_shape
from pipelines.planning.pass_costs import whole_clip

GIGA, HOUR_S = 1e9, 3600
STATE_BYTES = {"float32": 4, "float16": 2}


def trajectory_costs(config: RunConfig) -> dict[str, Any]:
    """Hours, GPU-hours, money and gigabytes of all trajectories."""
    settings, sampling = config.stages.trajectories, config.sampling
    claim = config.cluster.teacher_sampler
    states, passes = len(sampling.student_sigmas) + 1, len(sampling.student_sigmas)
    if settings.guided:
        passes = sampling.teacher_steps * (1 + weaker_passes(sampling))
    whole = whole_clip(sampled_shape(config))
    operations = settings.count / settings.batch * passes * whole.operations
    hours = operations / (claim.replicas * config.planning.operations_per_second) / HOUR_S
    gpu_hours = hours * claim.replicas * claim.gpus
    each = states * clip_elements(config) * STATE_BYTES[settings.states]
    return {
        "operations": operations,
        "hours": hours,
        "gpu_hours": gpu_hours,
        "money": gpu_hours * config.planning.gpu_hour,
        "gigabytes": settings.count * each / GIGA,
    }


def weaker_passes(sampling: SamplingConfig) -> int:
    """Passes of the teacher's guidance besides the prompt's own."""
    scales = (
        (sampling.guidance_video, sampling.guidance_audio, 1),
        (sampling.stg_video, sampling.stg_audio, 0),
        (sampling.modality_video, sampling.modality_audio, 1),
    )
    return sum((video, audio) != (neutral, neutral) for video, audio, neutral in scales)


def teacher_seconds(config: RunConfig, stage: str) -> float:
    """Of a step: how long workers wait for teachers elsewhere, a question of each at a time."""
    if not asks_teacher(config, stage):
        return 0.0
    settings, cluster = config.stages.trained_stage(stage), config.cluster
    generator = next(role for role in settings.roles if role.name == GENERATOR)
    questions = settings.optimiser.batch / settings.optimiser.micro_batch / generator.every
    at_once = min(cluster.teacher_server.replicas, cluster.distillation_worker.replicas)
    whole = whole_clip(pass_shape(config, stage))
    passes = 1 + is_guided(config, stage)
    return questions * passes * whole.operations / (at_once * config.planning.operations_per_second)


def teacher_gpus(config: RunConfig) -> float:
    """Of servers that a run holds."""
    asks = any(asks_teacher(config, stage) for stage in config.stages.with_steps)
    servers = config.cluster.teacher_server
    return servers.replicas * servers.gpus if asks else 0.0
