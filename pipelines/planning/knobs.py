"""The fewest changes of a configuration with which a process fits, cheapest first.

They leave the losses as they are, but for the batch where there are more ranks than it has clips.
"""

from collections.abc import Callable, Iterable, Iterator

from infra.config import RunConfig
from infra.presets import with_changes
from infra.stages import TRAJECTORIES
from omniforcing_model.config import FrozenConfig
from pipelines.planning.memory import has_teacher

MOST_RANKS = 4096
OPTIMISER = "stages.{stage}.optimiser"
RANKS = "cluster.distillation_worker.replicas={ranks}"
TEACHER_ELSEWHERE = "cluster.placement.teacher=remote"

Fits = Callable[[RunConfig], bool]
Values = dict[str, bool | int | str]


def worker_knobs(config: RunConfig, stage: str, fits: Fits) -> list[str]:
    """With which a training worker fits; none if nothing helps."""
    changes = [*_worker_changes(config, stage)]
    if found := _cheapest(config, changes, fits):
        return found
    ranks = config.cluster.distillation_worker.replicas
    while (ranks := 2 * ranks) <= MOST_RANKS:
        more = RANKS.format(ranks=ranks)
        for tried in ([more], [*changes, more]):
            divided = _with_batch(config, stage, tried, ranks)
            if fits(with_changes(config, divided)):
                return divided
    return []


def teacher_server_knobs(config: RunConfig, stage: str, fits: Fits) -> list[str]:
    """With which a server that answers the workers of a stage fits; none if nothing helps."""
    wanted: Values = {"micro_batch": 1, "precision": "bfloat16"}
    optimiser = config.stages.trained_stage(stage).optimiser
    return _cheapest(config, _differing(optimiser, OPTIMISER.format(stage=stage), wanted), fits)


def sampler_knobs(config: RunConfig, fits: Fits) -> list[str]:
    """With which a sampler of trajectories fits; none if nothing helps."""
    wanted: Values = {"batch": 1, "precision": "bfloat16"}
    settings = config.stages.trajectories
    return _cheapest(config, _differing(settings, f"stages.{TRAJECTORIES}", wanted), fits)


def _worker_changes(config: RunConfig, stage: str) -> Iterator[str]:
    wanted: Values = {
        "recomputes": True,
        "zero_stage": 3,
        "micro_batch": 1,
        "precision": "bfloat16",
    }
    optimiser = config.stages.trained_stage(stage).optimiser
    yield from _differing(optimiser, OPTIMISER.format(stage=stage), wanted)
    if has_teacher(config, stage):
        yield TEACHER_ELSEWHERE


def _differing(settings: FrozenConfig, prefix: str, wanted: Values) -> Iterator[str]:
    """Changes of what is not as `wanted`."""
    for key, value in wanted.items():
        if getattr(settings, key) != value:
            yield f"{prefix}.{key}={str(value).lower()}"


def _cheapest(config: RunConfig, changes: Iterable[str], fits: Fits) -> list[str]:
    together: list[str] = []
    for change in changes:
        together.append(change)
        for tried in ([change], together):
            if fits(with_changes(config, tried)):
                return list(tried)
    return []


def _with_batch(config: RunConfig, stage: str, changes: list[str], ranks: int) -> list[str]:
    """`changes`, and a batch that so many ranks divide."""
    optimiser = with_changes(config, changes).stages.trained_stage(stage).optimiser
    if optimiser.batch % (ranks * optimiser.micro_batch) == 0:
        return changes
    batch = f"{OPTIMISER.format(stage=stage)}.batch={ranks * optimiser.micro_batch}"
    return [*changes, batch]
