"""Stages of a Ray Data graph as pools of actors, and the tasks that write what they give."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from infra.claims import LaterPoolResources, PoolResources
from infra.dataset.columns import SECONDS_OF, Column
from infra.machine_faults import machine_faults
from pipelines.ray_jobs.tasks import TASK_CPUS


class PooledStage(Protocol):
    """A plain class that maps batches, and what each copy claims."""

    @property
    def actor(self) -> type[Any]:
        """The class."""
        ...

    @property
    def arguments(self) -> dict[str, Any]:
        """Of its constructor."""
        ...

    @property
    def claim(self) -> PoolResources:
        """Of each copy, and how many there may be."""
        ...

    @property
    def rows_at_a_time(self) -> int | None:
        """That a copy gets in a call; None: a whole piece, or on a GPU, for which Ray Data wants a
        number, one."""
        ...


def map_through_pools(dataset: Dataset, stages: Sequence[PooledStage], rows: int) -> Dataset:
    """Let pools of actors map the dataset, as many as `pools_of` tells; blocks stream from one to
    the next."""
    for stages_of_pool in pools_of(stages):
        dataset = _map_by_pool(dataset, stages_of_pool, rows)
    return dataset


def pools_of(stages: Sequence[PooledStage]) -> list[list[PooledStage]]:
    """Stages by the pool that they work in: a stage `with_previous` joins the one before it."""
    pools: list[list[PooledStage]] = []
    for stage in stages:
        if pools and joins_previous(stage.claim):
            pools[-1].append(stage)
        else:
            pools.append([stage])
    return pools


def joins_previous(claim: PoolResources) -> bool:
    """Whether a stage works in the actors of the one before it."""
    return isinstance(claim, LaterPoolResources) and claim.with_previous


def claim_of(pool: Sequence[PooledStage]) -> PoolResources:
    """What an actor of a pool claims: its stages work in turn, but all their models are loaded.

    The first one says how many actors there are.
    """
    claims = [stage.claim for stage in pool]
    together = {
        "cpus": max(claim.cpus for claim in claims),
        "gpus": sum(claim.gpus for claim in claims),
        "memory_gib": sum(claim.memory_gib for claim in claims),
    }
    return claims[0].model_copy(update=together)


def _map_by_pool(dataset: Dataset, pool: Sequence[PooledStage], rows: int) -> Dataset:
    claim = claim_of(pool)
    most = max(1, min(claim.replicas, rows))
    members = [(stage.actor, stage.arguments) for stage in pool]
    return dataset.map_batches(
        worker_class(pool),
        # A number makes Ray Data wait for so many rows before it gives any away.
        batch_size=(pool[0].rows_at_a_time or 1) if claim.gpus else None,
        fn_constructor_kwargs={"members": members, "rows_at_a_time": pool[0].rows_at_a_time},
        compute=ActorPoolStrategy(min_size=min(claim.min_replicas, most), max_size=most),
        **claim.ray_options,
    )


def write_stage(dataset: Dataset, write: Callable[..., Any], rows: int, writers: int) -> Dataset:
    """Let `writers` tasks write what actors give, `rows` at a time, and fewer where blocks do not
    add up to that (see `rows_per_call`).

    One task for some actors, which take longer to make a row than a task to write it: each further
    one would be another process, which costs seconds to start and wakes a hundred times a second.
    """
    return dataset.map_batches(
        write,
        batch_size=rows,
        compute=TaskPoolStrategy(size=writers),
        num_cpus=TASK_CPUS,
    )


class StageWorker:
    """Stages one after the other, in one actor; each row says what every stage took for it."""

    def __init__(
        self, members: Sequence[tuple[type[Any], dict[str, Any]]], rows_at_a_time: int | None
    ) -> None:
        """Build every stage: its class, and the arguments of it."""
        self._rows_at_a_time = rows_at_a_time
        self._stages: list[tuple[str, Any]] = []
        self._failure: Exception | None = None
        try:
            # Here, because an error loses what it came from on its way to the driver.
            with machine_faults():
                for actor, arguments in members:
                    self._stages.append((actor.__name__, actor(**arguments)))
        except Exception as error:  # noqa: BLE001  # raised by the first call
            # An actor that fails to start is started again, and told of in a hundred lines.
            self._failure = error

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Some rows at a time, as the last stage leaves them, with a column of seconds for each.

        Raises what kept a stage from being built.
        """
        if self._failure is not None:
            raise self._failure
        rows = max((len(values) for values in batch.values()), default=0)
        step = self._rows_at_a_time or max(1, rows)
        for first in range(0, rows, step):
            with machine_faults():
                rows_of_call = {name: v[first : first + step] for name, v in batch.items()}
                done = self._work_on(rows_of_call)
            yield done

    def _work_on(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, stage in self._stages:
            began = time.perf_counter()
            batch = stage(batch)
            rows = len(batch[Column.OUTCOME])
            each = (time.perf_counter() - began) / max(1, rows)
            batch = {**batch, f"{SECONDS_OF}{name}": np.full(rows, each)}
        return batch


def worker_class(pool: Sequence[PooledStage]) -> type[StageWorker]:
    """StageWorker under the names of its stages, for the dashboard and the process list."""
    return type("_".join(stage.actor.__name__ for stage in pool), (StageWorker,), {})
