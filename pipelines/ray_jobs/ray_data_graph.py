"""What our Ray Data graphs share: how rows come in, how stages become pools, how a run fails."""

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.exceptions import RayError

from infra.config import ActorResources
from infra.errors import ClusterError
from infra.storage.object_store import ObjectStore
from omniforcing_model.errors import OmniForcingError
from pipelines.preprocessing.row_tables import ROWS_PER_PART, Planned, read_piece
from pipelines.preprocessing.shard_writing import SECONDS

Made = TypeVar("Made")
GIB = 2**30
TASK_CPUS = 1.0
# What is left is shared out in so many pieces.
PIECES_PER_ACTOR = 3
MOST_ROWS_PER_PIECE = 64
# More would be larger ones instead: the driver keeps track of each.
MOST_PIECES = 4096
ACTORS_PER_WRITER = 2
# Of the process for tables: as often as Ray runs a task again.
RESTARTS = 3


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
    def claim(self) -> ActorResources:
        """Of each copy, and how many there may be."""
        ...

    @property
    def rows_at_a_time(self) -> int | None:
        """That a copy gets in a call; None: a whole piece, or on a GPU, for which Ray Data wants a
        number, one."""
        ...


class Progressed(NamedTuple):
    """News of a graph: rows by how they ended, and seconds of work by stage."""

    ends: dict[str, int]
    stage_seconds: dict[str, float]


def rows_of(store: ObjectStore, planned: Planned, first: PooledStage) -> Dataset:
    """The planned rows, in pieces for the actors of the first stage: each is a task, and a block
    after it."""
    pieces = list(pieces_of(planned, first.claim.replicas, first.rows_at_a_time or 1))
    dataset: Dataset = ray.data.from_items(pieces, override_num_blocks=len(pieces))
    return dataset.map_batches(partial(read_piece, out=store.uri), batch_size=1)


def pieces_of(planned: Planned, actors: int, at_a_time: int) -> Iterator[dict[str, Any]]:
    """Rows `first` to `first + rows` of a `part`, for one task each.

    Large ones first, since each costs tens of milliseconds, and single rows at the end, so that no
    actor idles there: guided self-scheduling (Polychronopoulos and Kuck, 1987). Large ones hold
    whole calls of `at_a_time` rows. A single actor waits for no other.
    """
    left = planned.rows
    shares = PIECES_PER_ACTOR * actors if actors > 1 else 1
    most = max(MOST_ROWS_PER_PIECE, left // MOST_PIECES)
    for part in planned.parts:
        first, end = 0, min(ROWS_PER_PART, left)
        while first < end:
            share = min(most, math.ceil(left / shares))
            if share > at_a_time:
                share -= share % at_a_time
            rows = min(share, end - first)
            yield {"part": part, "first": first, "rows": rows}
            first += rows
            left -= rows


def whole_calls(rows: int, most: int) -> int:
    """Rows at a time, `most` at most, that make exactly `rows` in some calls."""
    return next(step for step in range(min(rows, most), 0, -1) if rows % step == 0)


def through(dataset: Dataset, stages: Sequence[PooledStage], rows: int) -> Dataset:
    """Let pools of actors map the dataset, as many as `pools_of` tells; blocks stream from one to
    the next."""
    for stages_of_pool in pools_of(stages):
        dataset = _mapped_by_pool(dataset, stages_of_pool, rows)
    return dataset


def pools_of(stages: Sequence[PooledStage]) -> list[list[PooledStage]]:
    """Stages by the pool that they work in: a stage `with_previous` joins the one before it."""
    pools: list[list[PooledStage]] = []
    for stage in stages:
        if pools and stage.claim.with_previous:
            pools[-1].append(stage)
        else:
            pools.append([stage])
    return pools


def claim_of(pool: Sequence[PooledStage]) -> ActorResources:
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


def _mapped_by_pool(dataset: Dataset, pool: Sequence[PooledStage], rows: int) -> Dataset:
    claim = claim_of(pool)
    most = max(1, min(claim.replicas, rows))
    members = [(stage.actor, stage.arguments) for stage in pool]
    return dataset.map_batches(
        worker_class(pool),
        # A number makes Ray Data wait for so many rows before it gives any away.
        batch_size=(pool[0].rows_at_a_time or 1) if claim.gpus else None,
        fn_constructor_kwargs={"members": members, "rows_at_a_time": pool[0].rows_at_a_time},
        compute=ActorPoolStrategy(min_size=min(claim.min_replicas, most), max_size=most),
        num_cpus=claim.cpus,
        num_gpus=claim.gpus,
        memory=claim.memory_gib * GIB or None,
    )


def written(dataset: Dataset, write: Callable[..., Any], rows: int, actors: int) -> Dataset:
    """Let tasks write what `actors` give, `rows` at a time, and fewer where blocks do not add up to
    that (see `whole_calls`).

    One task for some actors, which take longer to make a row than a task to write it: each further
    one would be another process, which costs seconds to start and wakes a hundred times a second.
    """
    return dataset.map_batches(
        write,
        batch_size=rows,
        compute=TaskPoolStrategy(size=math.ceil(actors / ACTORS_PER_WRITER)),
        num_cpus=TASK_CPUS,
    )


class StageWorker:
    """Stages one after the other, in one actor; each row is told what every stage took for it."""

    def __init__(
        self, members: Sequence[tuple[type[Any], dict[str, Any]]], rows_at_a_time: int | None
    ) -> None:
        """Build every stage: its class, and the arguments of it."""
        self._stages = [(actor.__name__, actor(**arguments)) for actor, arguments in members]
        self._rows_at_a_time = rows_at_a_time

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Some rows at a time, as the last stage leaves them, with a column of seconds for each."""
        rows = max((len(values) for values in batch.values()), default=0)
        step = self._rows_at_a_time or max(1, rows)
        for first in range(0, rows, step):
            yield self._worked({name: v[first : first + step] for name, v in batch.items()})

    def _worked(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, stage in self._stages:
            began = time.perf_counter()
            batch = stage(batch)
            rows = len(batch["outcome"])
            each = (time.perf_counter() - began) / max(1, rows)
            batch = {**batch, f"{SECONDS}{name}": np.full(rows, each)}
        return batch


def worker_class(pool: Sequence[PooledStage]) -> type[StageWorker]:
    """StageWorker under the names of its stages, for the dashboard and the process list."""
    return type("_".join(stage.actor.__name__ for stage in pool), (StageWorker,), {})


def news_of(graph: Dataset) -> Iterator[Progressed]:
    """Run a graph, and pass on what its tasks report; errors as of `errors_in_our_words`."""
    with errors_in_our_words():
        for batch in graph.iter_batches(batch_size=None, batch_format="numpy"):
            ends: Counter[str] = Counter()
            for outcome, count in zip(batch["outcome"], batch["rows"], strict=True):
                ends[str(outcome)] += int(count)
            seconds = {
                name.removeprefix(SECONDS): float(values.sum())
                for name, values in batch.items()
                if name.startswith(SECONDS)
            }
            yield Progressed(dict(ends), seconds)


def in_a_task(work: Callable[..., Made], *arguments: Any) -> Made:
    """What `work` returns in a process of the cluster; errors as of `errors_in_our_words`.

    Any process that idles serves, and does other tasks of the run later.
    """
    with errors_in_our_words():
        made: Made = ray.get(ray.remote(work).options(num_cpus=TASK_CPUS).remote(*arguments))
    return made


class TableProcess:
    """A process of the cluster for what looks at all rows: their tables stay out of the driver.

    One for the steps between a run's graphs: the actors of a graph end with it, and a task after it
    would often be another process, a second of work.
    """

    def __init__(self) -> None:
        """Ask for the process; it ends when this object does."""
        resources = {"num_cpus": 0, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        self._steps: Any = ray.remote(_Steps).options(**resources).remote()

    def do(self, work: Callable[..., Made], *arguments: Any) -> Made:
        """What `work` returns there; errors as of `errors_in_our_words`."""
        with errors_in_our_words():
            made: Made = ray.get(self._steps.do.remote(work, *arguments))
        return made


class _Steps:
    def do(self, work: Callable[..., Made], *arguments: Any) -> Made:
        return work(*arguments)


@contextmanager
def errors_in_our_words() -> Iterator[None]:
    """Raise what a task raised, if it is an error of ours, as it was; else ClusterError."""
    try:
        yield
    except RayError as error:
        ours = _cause_of_ours(error)
        if ours is not None:
            raise ours from error
        reason = " ".join(str(error).strip().splitlines()[-1:])
        raise ClusterError(
            f"expected Ray to finish its work, got: {reason}; correct the cause and run the same"
            " command again: what is finished is kept"
        ) from error


def _cause_of_ours(error: BaseException | None) -> OmniForcingError | None:
    """What a task raised; Ray's own error would tell the whole traceback in its message."""
    while error is not None:
        inner = getattr(error, "cause", None) if isinstance(error, RayError) else error.__cause__
        if isinstance(error, OmniForcingError) and not isinstance(error, RayError):
            return error
        error = inner
    return None


@contextmanager
def whole_run() -> Iterator[None]:
    """Our settings of Ray Data, for this run only: other work of this process may use it too."""
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    before = (context.enable_progress_bars, context.raise_original_map_exception, logger.level)
    # Our progress and our errors are enough: Ray Data narrates each execution.
    context.enable_progress_bars = False
    # Its own exception loses the one that a stage raised on the way to the driver.
    context.raise_original_map_exception = True
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # A small run has less to write than its writers could write at a time.
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")
            yield
    finally:
        context.enable_progress_bars, context.raise_original_map_exception = before[:2]
        logger.setLevel(before[2])
