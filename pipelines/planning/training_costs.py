"""What a stage of training takes: operations and bytes on the wire of a step, hours, money, files.

Operations are counted from shapes (pass_costs.py). Bytes on the wire follow from what ZeRO spreads.
Rates and prices are the configuration's (`planning`); nothing is taken to run beside anything else,
so that a step takes this long at most.
"""

from typing import Any

from actors.training.deepspeed_engines import CUT_GRADIENTS, DTYPES, SPREAD_WEIGHTS
from infra.config import RunConfig
from infra.runs.checkpoint_store import CHECKPOINTS_KEPT
from infra.stages import CRITIC, STAGES, DistributionMatchingConfig, SelfForcingConfig
from omniforcing_model.macro_block import BlockLayout
from pipelines.planning.memory import has_teacher, is_guided, pass_shape, stream_lengths
from pipelines.planning.model_size import model_size
from pipelines.planning.other_costs import teacher_gpus, teacher_seconds
from pipelines.planning.pass_costs import (
    Passes,
    all_of,
    mean_of,
    streamed,
    streamed_again,
    whole_clip,
    with_gradients,
)

GIGA, HOUR_S = 1e9, 3600
FLOAT = 4
# A weight as AdamW updates it, and two moments.
STATE_OF_A_WEIGHT = 3
BOTH_WAYS = 2  # gradients are summed on all ranks, also where one of them needs the sum


def stage_costs(config: RunConfig, stage: str) -> dict[str, Any]:
    """Seconds of a step, GPU-hours, money, and gigabytes of the checkpoints that are kept.

    Teacher servers are held, and paid, for as long as the run trains.
    """
    settings, assumed = config.stages.trained_stage(stage), config.planning
    workers = config.cluster.distillation_worker
    ranks = workers.replicas
    micro_batches = settings.optimiser.batch / settings.optimiser.micro_batch / ranks
    operations = wire = 0.0
    for role in settings.roles:
        passes = passes_of(config, stage, role.name)
        operations += micro_batches / role.every * passes.operations
        wire += wire_bytes(config, stage, passes, micro_batches) / role.every
    compute_s = operations / config.planning.operations_per_second
    wire_s = wire / (assumed.link_gb_s * GIGA)
    teacher_s = teacher_seconds(config, stage)
    step_s = compute_s + wire_s + teacher_s
    hours = step_s * settings.optimiser.steps / HOUR_S
    gpu_hours = hours * (ranks * workers.gpus + teacher_gpus(config))
    return {
        "step_operations": operations,
        "step_wire_gb": wire / GIGA,
        "compute_s": compute_s,
        "wire_s": wire_s,
        "teacher_s": teacher_s,
        "step_s": step_s,
        "hours": hours,
        "gpu_hours": gpu_hours,
        "money": gpu_hours * assumed.gpu_hour,
        "checkpoints_gb": CHECKPOINTS_KEPT * checkpoint_bytes(config, stage) / GIGA,
    }


def checkpoint_bytes(config: RunConfig, stage: str) -> float:
    """Bytes of one checkpoint: of each role that learns weights and moments, and the average."""
    roles = len(config.stages.trained_stage(stage).roles)
    return FLOAT * (roles * STATE_OF_A_WEIGHT + 1) * model_size(config.model).total


def wire_bytes(config: RunConfig, stage: str, passes: Passes, micro_batches: float) -> float:
    """Bytes that a rank receives for an update, from the passes of each of its micro-batches.

    Rings are assumed: a tensor that is gathered, or summed and cut, goes around once without the
    rank's own part, one that is summed on all ranks twice.
    """
    optimiser = config.stages.trained_stage(stage).optimiser
    size, ranks = model_size(config.model), config.cluster.distillation_worker.replicas
    item = DTYPES[optimiser.precision].itemsize
    others = item * (ranks - 1) / ranks
    if optimiser.zero_stage == SPREAD_WEIGHTS:
        cut = size.total - size.vectors
        of_passes = passes.gathers * cut + passes.backward * size.total
        return others * (micro_batches * of_passes + size.vectors)
    # Where gradients stay whole they are summed once an update.
    sums = micro_batches * passes.backward if optimiser.zero_stage == CUT_GRADIENTS else 1
    return others * size.total * (BOTH_WAYS * sums + 1)


def passes_of(config: RunConfig, stage: str, role: str) -> Passes:
    """What a role's turn takes; samples leave their chain half-way, on average."""
    shape = pass_shape(config, stage)
    is_causal = STAGES[stage].sampler == "streamed"
    whole = whole_clip(shape)
    if not isinstance(config.stages.trained_stage(stage), DistributionMatchingConfig):
        seen = whole_clip(shape, shape.model.layout.sinks) if is_causal else whole
        return with_gradients(shape, seen)
    steps = (len(shape.sigmas) - 1) / 2  # before the one after which they leave
    lengths = stream_lengths(config, stage)
    if role == CRITIC:
        samples = whole.times(steps + 1)
        if is_causal:
            samples = mean_of(streamed(shape, blocks, steps + 1) for blocks in lengths)
        return all_of([samples, with_gradients(shape, whole)])
    teachers = 1 + is_guided(config, stage) if has_teacher(config, stage) else 0
    scores = whole.times(1 + teachers)
    if not is_causal:
        return all_of([whole.times(steps), with_gradients(shape, whole), scores])
    samples = mean_of(
        all_of(
            [streamed(shape, n, steps + 1), streamed_again(shape, n, _without(config, stage, n))]
        )
        for n in lengths
    )
    return all_of([samples, scores])


def _without(config: RunConfig, stage: str, blocks: int) -> int:
    """Blocks at the beginning of a stream that carry no gradients: those that are asked for none,
    and those before what is scored."""
    settings, layout = config.stages.trained_stage(stage), BlockLayout(config.model.layout)
    asked = settings.gradient_blocks if isinstance(settings, SelfForcingConfig) else None
    clip = layout.latents(layout.blocks_for_seconds(config.data.seconds))
    before = layout.latents(blocks).map(lambda streamed, scored: streamed - scored, clip)
    unseen = 0
    while max(layout.latents(unseen + 1).map(lambda end, start: end - start, before)) <= 0:
        unseen += 1
    return max(unseen, blocks - (asked or blocks))
