"""Whether training fits a GPU, what makes those stages fit that do not, and what they cost."""

from collections.abc import Iterator
from typing import Any

from infra.config import RunConfig
from infra.machine import GIB
from infra.presets import with_changes
from infra.stages import TRAINED
from pipelines.planning.memory import StageMemory, stage_memory, stage_roles
from pipelines.planning.training_costs import stage_costs

MOST_RANKS = 4096
OPTIMISER = "stages.{stage}.optimiser.{key}={value}"
RANKS = "cluster.distillation_worker.replicas={ranks}"


def training_plan(config: RunConfig, gpu_gib: float | None = None) -> dict[str, Any]:
    """Every stage that has steps: what stays of its roles on a rank, costs, and the verdict.

    Args:
        config: of the run.
        gpu_gib: what tensors may take of a worker's device; without it the passes are not counted,
            which takes seconds, and there is no verdict.
    """
    stages = {
        stage: _planned(config, stage, gpu_gib)
        for stage in TRAINED
        if config.stages.trained_stage(stage).optimiser.steps
    }
    assumed = ("gpu_tflops", "gpu_share", "link_gb_s", "gpu_hour")
    totals = ("gpu_hours", "money", "checkpoints_gb")
    return {
        "gpu_gib": gpu_gib,
        "fits": None if gpu_gib is None else all(of["fits"] for of in stages.values()),
        "stages": stages,
        "totals": {name: sum(of["costs"][name] for of in stages.values()) for name in totals},
        "assumptions": {name: getattr(config.planning, name) for name in assumed},
    }


def _planned(config: RunConfig, stage: str, gpu_gib: float | None) -> dict[str, Any]:
    kept = _in_gib(stage_roles(config, stage).kept)
    costs = {"state_gib": sum(kept.values()), "state": kept, "costs": stage_costs(config, stage)}
    if gpu_gib is None:
        return costs
    memory = stage_memory(config, stage)
    fits = memory.peak <= gpu_gib * GIB
    return costs | {
        "fits": fits,
        "peak_gib": memory.peak / GIB,
        "peak_phase": memory.peak_phase,
        "phases": {name: total / GIB for name, total in memory.totals.items()},
        "holds": {name: _in_gib(parts) for name, parts in memory.phases.items()},
        "reason": "" if fits else _reason(memory, gpu_gib),
        "knobs": [] if fits else _knobs(config, stage, gpu_gib),
    }


def _in_gib(parts: dict[str, float]) -> dict[str, float]:
    return {name: size / GIB for name, size in parts.items()}


def _reason(memory: StageMemory, gpu_gib: float) -> str:
    """What fills the fullest phase, largest first."""
    parts = memory.phases[memory.peak_phase]
    largest = sorted(parts, key=lambda name: parts[name], reverse=True)
    filled = ", ".join(f"{name} {parts[name] / GIB:.1f}" for name in largest if parts[name])
    return f"{memory.peak_phase} takes {memory.peak / GIB:.1f} GiB of {gpu_gib:g}: {filled}"


def _knobs(config: RunConfig, stage: str, gpu_gib: float) -> list[str]:
    """The fewest changes, cheapest first, with which the stage fits; none if nothing helps."""
    together: list[str] = []
    for change in _changes(config, stage):
        if _fits(config, stage, [change], gpu_gib):
            return [change]
        together.append(change)
        if _fits(config, stage, together, gpu_gib):
            return together
    ranks = config.cluster.distillation_worker.replicas
    while (ranks := 2 * ranks) <= MOST_RANKS:
        more = RANKS.format(ranks=ranks)
        for changes in ([more], [*together, more]):
            if _fits(config, stage, _with_batch(config, stage, changes, ranks), gpu_gib):
                return _with_batch(config, stage, changes, ranks)
    return []


def _changes(config: RunConfig, stage: str) -> Iterator[str]:
    """What the optimiser's settings can give up, without another loss."""
    optimiser = config.stages.trained_stage(stage).optimiser
    wanted = {"recomputes": True, "zero_stage": 3, "micro_batch": 1, "precision": "bfloat16"}
    for key, value in wanted.items():
        if getattr(optimiser, key) != value:
            text = str(value).lower()
            yield OPTIMISER.format(stage=stage, key=key, value=text)


def _with_batch(config: RunConfig, stage: str, changes: list[str], ranks: int) -> list[str]:
    """`changes`, and a batch that so many ranks divide."""
    optimiser = with_changes(config, changes).stages.trained_stage(stage).optimiser
    if optimiser.batch % (ranks * optimiser.micro_batch) == 0:
        return changes
    batch = OPTIMISER.format(stage=stage, key="batch", value=ranks * optimiser.micro_batch)
    return [*changes, batch]


def _fits(config: RunConfig, stage: str, changes: list[str], gpu_gib: float) -> bool:
    return stage_memory(with_changes(config, changes), stage).peak <= gpu_gib * GIB
