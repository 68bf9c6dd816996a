"""Whether training fits a GPU, what makes those stages fit that do not, and what they cost."""

from collections.abc import Callable
from typing import Any

from infra.config import RunConfig
from infra.machine import GIB
from infra.stages import STAGES, TRAJECTORIES
from pipelines.planning.knobs import Fits, sampler_knobs, teacher_server_knobs, worker_knobs
from pipelines.planning.memory import StageMemory, asks_teacher, stage_memory, stage_roles
from pipelines.planning.other_actors import sampler_memory, teacher_server_memory
from pipelines.planning.other_costs import trajectory_costs
from pipelines.planning.training_costs import stage_costs

SERVER = "teacher_server"


def training_plan(config: RunConfig, gpu_gib: float | None = None) -> dict[str, Any]:
    """Every stage that has steps: what stays of its roles on a rank, costs, and the verdict; and
    the trajectories, where a stage reads them.

    Args:
        config: of the run.
        gpu_gib: what tensors may take of a worker's device; without it the passes are not counted,
            which takes seconds, and there is no verdict.
    """
    stages = {stage: _planned(config, stage, gpu_gib) for stage in config.stages.with_steps}
    sampled = _trajectories(config, gpu_gib) if _reads_trajectories(config) else None
    parts = [*stages.values(), *([sampled] if sampled else [])]
    verdicts = [*parts, *(stage[SERVER] for stage in stages.values() if SERVER in stage)]
    assumed = ("gpu_tflops", "gpu_share", "link_gb_s", "gpu_hour")
    return {
        "gpu_gib": gpu_gib,
        "fits": None if gpu_gib is None else all(verdict["fits"] for verdict in verdicts),
        "stages": stages,
        "trajectories": sampled,
        "totals": {
            **{name: sum(part["costs"][name] for part in parts) for name in ("gpu_hours", "money")},
            "checkpoints_gb": sum(stage["costs"]["checkpoints_gb"] for stage in stages.values()),
        },
        "assumptions": {name: getattr(config.planning, name) for name in assumed},
    }


def _reads_trajectories(config: RunConfig) -> bool:
    return any(STAGES[stage].reads == TRAJECTORIES for stage in config.stages.with_steps)


def _planned(config: RunConfig, stage: str, gpu_gib: float | None) -> dict[str, Any]:
    kept = _in_gib(stage_roles(config, stage).kept)
    costs = {"state_gib": sum(kept.values()), "state": kept, "costs": stage_costs(config, stage)}
    if gpu_gib is None:
        return costs

    planned = costs | _verdict(
        config,
        lambda changed: stage_memory(changed, stage),
        gpu_gib,
        lambda fits: worker_knobs(config, stage, _with_server(stage, fits, gpu_gib)),
    )
    if asks_teacher(config, stage):
        claim = config.cluster.teacher_server
        gpus = {"servers": claim.replicas, "gpus": claim.replicas * claim.gpus}
        planned[SERVER] = gpus | _server_verdict(config, stage, gpu_gib)
    return planned


def _with_server(stage: str, fits: Fits, gpu_gib: float) -> Fits:
    """Whether workers fit, and the servers that they ask, if they do."""

    def both(config: RunConfig) -> bool:
        if not fits(config):
            return False
        asks = asks_teacher(config, stage)
        return not asks or teacher_server_memory(config, stage).peak <= gpu_gib * GIB

    return both


def _server_verdict(config: RunConfig, stage: str, gpu_gib: float) -> dict[str, Any]:
    """Of a server that answers the workers of a stage."""
    return _verdict(
        config,
        lambda changed: teacher_server_memory(changed, stage),
        gpu_gib,
        lambda fits: teacher_server_knobs(config, stage, fits),
    )


def _trajectories(config: RunConfig, gpu_gib: float | None) -> dict[str, Any]:
    """Of one of their samplers, and what all trajectories cost."""
    claim = config.cluster.teacher_sampler
    planned = {"gpus": claim.replicas * claim.gpus, "costs": trajectory_costs(config)}
    if gpu_gib is None:
        return planned
    return planned | _verdict(
        config, sampler_memory, gpu_gib, lambda fits: sampler_knobs(config, fits)
    )


def _verdict(
    config: RunConfig,
    memory_of: Callable[[RunConfig], StageMemory],
    gpu_gib: float,
    knobs: Callable[[Fits], list[str]],
) -> dict[str, Any]:
    """Whether there is room for a process, its phases, and if there is not, why and what helps."""
    memory = memory_of(config)
    fits = memory.peak <= gpu_gib * GIB
    return {
        "fits": fits,
        "peak_gib": memory.peak / GIB,
        "peak_phase": memory.peak_phase,
        "phases": {name: total / GIB for name, total in memory.totals.items()},
        "holds": {name: _in_gib(parts) for name, parts in memory.phases.items()},
        "reason": "" if fits else _reason(memory, gpu_gib),
        "knobs": [] if fits else knobs(lambda changed: memory_of(changed).peak <= gpu_gib * GIB),
    }


def _in_gib(parts: dict[str, float]) -> dict[str, float]:
    return {name: size / GIB for name, size in parts.items()}


def _reason(memory: StageMemory, gpu_gib: float) -> str:
    """What fills the fullest phase, largest first."""
    parts = memory.phases[memory.peak_phase]
    largest = sorted(parts, key=lambda name: parts[name], reverse=True)
    filled = ", ".join(f"{name} {parts[name] / GIB:.1f}" for name in largest if parts[name])
    return f"{memory.peak_phase} takes {memory.peak / GIB:.1f} GiB of {gpu_gib:g}: {filled}"
