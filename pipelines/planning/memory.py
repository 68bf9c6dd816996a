"""What each stage of training holds on a rank, phase by phase, and whether a GPU has room for it.

Weights and what belongs to them follow from counted parameters (rank_memory.py), activations from
running the stage's passes without data (activations.py). What the CUDA context and the allocator's
gaps take is not in it: 2 to 4 GiB.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from actors.training.row_shapes import clip_latents
from actors.training.stage_objectives import rollout_rule, stage_objective
from infra.config import RunConfig
from infra.stages import (
    CRITIC,
    GENERATOR,
    STAGES,
    TEACHER,
    DistributionMatchingConfig,
    SelfForcingConfig,
)
from omniforcing_model.config import ModelConfig
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.streaming.rolling_cache import RollingCache
from pipelines.planning.activations import (
    PassShape,
    causal_with_gradients,
    few_steps,
    scored,
    scored_with_gradients,
    streamed,
    streamed_with_gradients,
    whole_clip_with_gradients,
)
from pipelines.planning.model_size import model_size
from pipelines.planning.rank_memory import Parts, RankMemory, summed

MB = 1e6
Count = Callable[[PassShape], int]


class StageMemory(NamedTuple):
    """Bytes of one rank in one stage: by phase, and in each by what they are."""

    stage: str
    phases: dict[str, dict[str, float]]

    @property
    def totals(self) -> dict[str, float]:
        """Bytes by phase."""
        return {name: sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak_phase(self) -> str:
        """The phase that holds most."""
        totals = self.totals
        return max(totals, key=lambda name: totals[name])

    @property
    def peak(self) -> float:
        """Bytes of that phase."""
        return self.totals[self.peak_phase]


def cache_bytes(config: ModelConfig, grid: tuple[int, int]) -> int:
    """Bytes of the rolling caches of one stream on a latent grid (height, width), in float32."""
    return RollingCache(config, grid, device=torch.device("meta")).nbytes()


def model_memory(config: RunConfig) -> dict[str, Any]:
    """Parameters of the model, by half, layer and ends, and bytes of a stream's caches."""
    size = model_size(config.model)
    grid = latent_grid(config.data.height, config.data.width, config.model.spatial_stride)
    return {
        "parameters": {
            **size.halves._asdict(),
            "total": size.total,
            "layer": size.layer._asdict(),
            "ends": size.ends._asdict(),
        },
        "kv_cache_mb_per_stream": round(cache_bytes(config.model, grid) / MB, 2),
    }


def pass_shape(config: RunConfig, stage: str) -> PassShape:
    """The clips of a stage's passes, of the largest size of the data."""
    optimiser = config.stages.trained_stage(stage).optimiser
    clip, grid = clip_latents(config, config.model, config.data.largest_size)
    streamed = BlockLayout(config.model.layout).latents(stream_lengths(config, stage)[-1])
    return PassShape(
        model=config.model,
        latents=clip.map(min, streamed),
        streamed=streamed,
        grid=grid,
        batch=optimiser.micro_batch,
        text_tokens=config.codec.text_tokens,
        precision=optimiser.precision,
        recomputes=optimiser.recomputes,
        sigmas=tuple(config.sampling.student_sigmas),
        is_guided=is_guided(config, stage) and has_teacher(config, stage),
    )


def stream_lengths(config: RunConfig, stage: str) -> range:
    """Blocks of the streams of a stage, each number as often as another; without streams those of
    its clips."""
    settings = config.stages.trained_stage(stage)
    if isinstance(settings, SelfForcingConfig):
        rule = rollout_rule(config, settings)
        return range(rule.least, rule.most + 1)
    blocks = BlockLayout(config.model.layout).blocks_for_seconds(config.data.seconds)
    return range(blocks, blocks + 1)


def is_guided(config: RunConfig, stage: str) -> bool:
    """Whether a stage's teacher predicts with another prompt besides."""
    settings = config.stages.trained_stage(stage)
    return isinstance(settings, DistributionMatchingConfig) and (
        (settings.guidance_video, settings.guidance_audio) != (1, 1)
    )


def has_teacher(config: RunConfig, stage: str) -> bool:
    """Whether a stage's workers hold a teacher; another's is elsewhere, or it needs none."""
    return TEACHER in STAGES[stage].frozen and config.cluster.placement.teacher == "local"


def asks_teacher(config: RunConfig, stage: str) -> bool:
    """Whether a stage's workers ask a teacher elsewhere."""
    return TEACHER in STAGES[stage].frozen and config.cluster.placement.teacher == "remote"


class Roles(NamedTuple):
    """What stays of a stage's roles on a rank. `uses_sinks`: of the generator."""

    rank: RankMemory
    uses_sinks: bool
    learning: list[Parts]
    frozen: list[Parts]

    @property
    def kept(self) -> dict[str, float]:
        """All of it, and the average."""
        return summed([*self.learning, *self.frozen, self.rank.average()])


def stage_roles(config: RunConfig, stage: str) -> Roles:
    """The roles of a stage, each in its place."""
    settings = config.stages.trained_stage(stage)
    replicas = config.cluster.distillation_worker.replicas
    rank = RankMemory(model_size(config.model), settings.optimiser, replicas)
    uses_sinks = stage_objective(config, stage).uses_sinks
    learning = [rank.learning(uses_sinks and role.name == GENERATOR) for role in settings.roles]
    away = {TEACHER} if asks_teacher(config, stage) else set()
    frozen = [rank.frozen() for role in STAGES[stage].frozen if role not in away]
    if rank.is_spread and settings.rollouts_read == "whole":
        frozen.append(rank.whole_copy())
    return Roles(rank, uses_sinks, learning, frozen)


def stage_memory(config: RunConfig, stage: str) -> StageMemory:
    """What a rank holds in each phase of a stage."""
    roles = stage_roles(config, stage)
    rank, kept = roles.rank, roles.kept
    phases = {"construction": _construction(roles)}
    for name, parts in _passes(config, stage, rank):
        phases[name] = summed([kept, *parts])
    phases["update"] = summed([kept, rank.in_an_update(roles.uses_sinks)])
    phases["save"] = summed([kept, rank.in_a_save()])
    phases["publish"] = summed([kept, rank.in_a_publish()])
    return StageMemory(stage, phases)


def _construction(roles: Roles) -> dict[str, float]:
    """The fullest moment while one role after the other is made."""
    rank = roles.rank
    made: dict[str, float] = {}
    moments = []
    for role in roles.learning:
        moments.append(summed([made, rank.while_made(learns=True)]))
        made = summed([made, role])
    for role in roles.frozen:
        moments.append(summed([made, rank.while_made(learns=False)]))
        made = summed([made, role])
    moments.append(summed([made, rank.average()]))
    return max(moments, key=lambda parts: sum(parts.values()))


def _passes(
    config: RunConfig, stage: str, rank: RankMemory
) -> Iterator[tuple[str, tuple[Parts, ...]]]:
    """The phases of a step that make passes, with what each adds to what stays."""
    shape = pass_shape(config, stage)
    is_causal = STAGES[stage].sampler == "streamed"

    optimiser = config.stages.trained_stage(stage).optimiser
    has_one = optimiser.batch == optimiser.micro_batch * rank.ranks

    def with_gradients(count: Count, in_parts: bool = False) -> tuple[Parts, ...]:
        is_only = has_one and not in_parts
        return (rank.in_a_backward_pass(float(count(shape)), is_only),)

    def without(count: Count) -> tuple[Parts, ...]:
        return rank.in_a_pass(), {"activations": float(count(shape))}

    if not isinstance(config.stages.trained_stage(stage), DistributionMatchingConfig):
        yield (
            GENERATOR,
            with_gradients(causal_with_gradients if is_causal else whole_clip_with_gradients),
        )
        return
    yield "rollout", without(streamed if is_causal else few_steps)
    yield CRITIC, with_gradients(whole_clip_with_gradients)
    if is_causal:
        yield "scores", without(scored)
        yield GENERATOR, with_gradients(streamed_with_gradients, in_parts=True)
    else:  # its graph is there while its samples are scored
        yield GENERATOR, with_gradients(scored_with_gradients)
