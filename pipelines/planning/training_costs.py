"""What a stage of training takes: operations and bytes on the wire of a step, hours, money, files.

Operations are counted from shapes, those of layers that run again in a backward pass among them.
Bytes on the wire follow from what ZeRO spreads. Rates and prices are the configuration's
(`planning`); nothing is taken to run beside anything else, so that a step takes this long at most.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from actors.training.deepspeed_engines import DTYPES, SPREAD_WEIGHTS
from infra.config import RunConfig
from infra.runs.checkpoint_store import CHECKPOINTS_KEPT
from infra.stages import CRITIC, STAGES, DistributionMatchingConfig
from omniforcing_model.flop_count import VisibleKeys, block_flops, pass_flops, text_flops
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from pipelines.planning.activations import PassShape
from pipelines.planning.memory import pass_shape
from pipelines.planning.model_size import model_size

TERA, GIGA, HOUR_S = 1e12, 1e9, 3600
FLOAT = 4
# A weight as AdamW updates it, and two moments.
STATE_OF_A_WEIGHT = 3
BACKWARD = 2  # times the operations of a forward pass
BOTH_WAYS = 2  # gradients to those who update, weights back
SCORES = 2  # of the critic and of the teacher; guided, of the teacher with another prompt besides


class Passes(NamedTuple):
    """Passes of one role's turn over one micro-batch.

    `operations`: of all of them. `gathers`: of a model's weights. `backward`: passes with
    gradients, which are summed over the ranks.
    """

    operations: float
    gathers: float
    backward: float


def stage_costs(config: RunConfig, stage: str) -> dict[str, Any]:
    """Seconds of a step, GPU-hours, money, and gigabytes of the checkpoints that are kept."""
    settings, assumed = config.stages.trained_stage(stage), config.planning
    workers = config.cluster.distillation_worker
    ranks = workers.replicas
    micro_batches = settings.optimiser.batch / settings.optimiser.micro_batch / ranks
    operations = wire = 0.0
    for role in settings.roles:
        passes = passes_of(config, stage, role.name)
        operations += micro_batches / role.every * passes.operations
        wire += micro_batches / role.every * wire_bytes(config, stage, passes)
    compute_s = operations / (assumed.gpu_tflops * TERA * assumed.gpu_share)
    wire_s = wire / (assumed.link_gb_s * GIGA)
    step_s = compute_s + wire_s
    hours = step_s * settings.optimiser.steps / HOUR_S
    gpu_hours = hours * ranks * workers.gpus
    return {
        "step_operations": operations,
        "step_wire_gb": wire / GIGA,
        "compute_s": compute_s,
        "wire_s": wire_s,
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


def wire_bytes(config: RunConfig, stage: str, passes: Passes) -> float:
    """Bytes that a rank receives for the passes of a micro-batch."""
    optimiser = config.stages.trained_stage(stage).optimiser
    ranks = config.cluster.distillation_worker.replicas
    others = (ranks - 1) / ranks
    weights = others * model_size(config.model).total * DTYPES[optimiser.precision].itemsize
    if optimiser.zero_stage < SPREAD_WEIGHTS:
        return weights * passes.backward * BOTH_WAYS
    return weights * (passes.gathers + passes.backward)


def passes_of(config: RunConfig, stage: str, role: str) -> Passes:
    """What a role's turn takes; samples leave their chain half-way, on average."""
    shape = pass_shape(config, stage)
    is_causal = STAGES[stage].sampler == "streamed"
    whole = _whole_clip(shape, sinks=0)
    taken = _with_gradients(shape, whole)
    settings = config.stages.trained_stage(stage)
    if not isinstance(settings, DistributionMatchingConfig):
        if is_causal:
            taken = _with_gradients(shape, _whole_clip(shape, shape.model.layout.sinks))
        return taken
    steps = (len(shape.sigmas) - 1) / 2  # before the one after which they leave
    if role == CRITIC:
        samples = _streamed(shape, steps + 1) if is_causal else _times(whole, steps + 1)
        return _sum(samples, taken)
    is_guided = (settings.guidance_video, settings.guidance_audio) != (1, 1)
    scores = _times(whole, SCORES + is_guided)
    if not is_causal:
        return _sum(_times(whole, steps), taken, scores)
    return _sum(_streamed(shape, steps + 1), scores, _streamed_again(shape))


def _whole_clip(shape: PassShape, sinks: int) -> Passes:
    """A pass without gradients over all tokens of a clip, each of which is multiplied with all."""
    pixels = shape.grid[0] * shape.grid[1]
    tokens = PerStream(shape.latents.video * pixels, shape.latents.audio + sinks)
    keys = VisibleKeys(tokens.video, tokens.audio, tokens.audio, tokens.video)
    counted = pass_flops(shape.model, tokens, keys, shape.text_tokens, sinks)
    return Passes(shape.batch * (counted.total + _text(shape)), 1, 0)


def _text(shape: PassShape) -> float:
    return text_flops(shape.model, shape.text_tokens)


def _with_gradients(shape: PassShape, without: Passes) -> Passes:
    """Such a pass and its backward pass, in which layers may run again."""
    times = 1 + BACKWARD + (1 if shape.recomputes else 0)
    return Passes(times * without.operations, 2 * without.gathers, without.gathers)


def _blocks(shape: PassShape) -> Iterator[Passes]:
    """A pass without gradients over each block of a stream."""
    layout = BlockLayout(shape.model.layout)
    for index in range(layout.blocks_of(shape.latents)):
        counted = block_flops(shape.model, index, shape.grid, shape.text_tokens)
        yield Passes(float(shape.batch * counted.total), 1, 0)


def _streamed(shape: PassShape, passes: float) -> Passes:
    """A stream of so many passes a block, and one that commits each block but the last."""
    *committed, last = _blocks(shape)
    each = [_times(block, passes + 1) for block in committed]
    read = Passes(shape.batch * _text(shape), 0, 0)
    return _sum(read, *each, _times(last, passes))


def _streamed_again(shape: PassShape) -> Passes:
    """Each block's last pass with gradients, and the passes that commit."""
    text = shape.batch * _text(shape)
    blocks = list(_blocks(shape))
    again = [block._replace(operations=block.operations + text) for block in blocks]
    return _sum(*(_with_gradients(shape, block) for block in again), *blocks[:-1])


def _times(passes: Passes, count: float) -> Passes:
    return Passes(*(count * value for value in passes))


def _sum(*passes: Passes) -> Passes:
    return Passes(*(sum(values) for values in zip(*passes, strict=True)))
