"""What actors beside the training workers hold on a GPU: a teacher server, a trajectory sampler.

Each holds a whole model. What a server keeps of texts is in its host's memory; the text encoder is
gone before a sampler loads its model, and needs as much room.
"""

from math import prod

from actors.training.deepspeed_engines import DTYPES
from actors.training.row_shapes import clip_latents, latent_shapes
from infra.config import RunConfig
from pipelines.planning.activations import PassShape, sampled, scored
from pipelines.planning.memory import StageMemory, is_guided, pass_shape
from pipelines.planning.model_size import model_size

FLOAT = 4


def teacher_server_memory(config: RunConfig, stage: str) -> StageMemory:
    """A server of `cluster.teacher_server` that answers the workers of a stage."""
    optimiser = config.stages.trained_stage(stage).optimiser
    shape = pass_shape(config, stage)._replace(is_guided=is_guided(config, stage))
    return StageMemory(
        stage,
        {
            "construction": {"frozen": _whole(config, optimiser.precision)},
            "answer": {
                "frozen": _whole(config, optimiser.precision),
                "activations": float(scored(shape)),
            },
        },
    )


def sampler_memory(config: RunConfig) -> StageMemory:
    """An actor of `cluster.teacher_sampler`, which keeps the states of all its steps."""
    settings, students = config.stages.trajectories, len(config.sampling.student_sigmas)
    steps = config.sampling.teacher_steps if settings.guided else students
    # Of all steps, and stacked those of the student's; each time with the end.
    states = (steps + students + 2) * settings.batch * clip_elements(config)
    weights = {"frozen": _whole(config, settings.precision)}
    activations = float(sampled(sampled_shape(config)))
    sampling = {**weights, "activations": activations, "states": float(FLOAT * states)}
    return StageMemory("trajectories", {"construction": weights, "sampling": sampling})


def sampled_shape(config: RunConfig) -> PassShape:
    """The clips of a sampler's passes."""
    settings = config.stages.trajectories
    counts, grid = clip_latents(config, config.model, config.data.largest_size)
    return PassShape(
        model=config.model,
        latents=counts,
        streamed=counts,
        grid=grid,
        batch=settings.batch,
        text_tokens=config.codec.text_tokens,
        precision=settings.precision,
        recomputes=False,
        sigmas=tuple(config.sampling.student_sigmas),
        is_guided=settings.guided,
    )


def clip_elements(config: RunConfig) -> int:
    """Latents of both streams of a clip, in all their channels."""
    return sum(map(prod, latent_shapes(config, config.data.largest_size).values()))


def _whole(config: RunConfig, precision: str) -> float:
    return float(DTYPES[precision].itemsize * model_size(config.model).total)
