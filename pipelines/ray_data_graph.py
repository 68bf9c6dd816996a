"""What our Ray Data graphs share: how rows come in, how stages become pools, how a run fails."""

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from infra.object_store import ObjectStore
from omniforcing_model.errors import OmniForcingError
from pipelines.row_tasks import ROWS_PER_PART, Planned, read_piece
from pipelines.shard_writing import SECONDS

Made = TypeVar("Made")
GIB = 2**30
TASK_CPUS = 1.0
# Work is handed out in small pieces, so that no actor idles at the end; but not in too many, since
# each costs tens of milliseconds.
PIECES_PER_ACTOR = 8
MOST_ROWS_PER_PIECE = 64


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
        """That a copy gets in a call, where a whole piece would be too much; None: a piece."""
        ...


class Progressed(NamedTuple):
    """News of a graph: rows by how they ended, and seconds of work by stage."""

    ends: dict[str, int]
    stage_seconds: dict[str, float]


def rows_of(store: ObjectStore, planned: Planned, actors: int) -> Dataset:
    """The planned rows, in pieces for `actors` actors: each is a task, and a block after it."""
    rows = rows_per_piece(planned.rows, actors)
    pieces = [
        {"part": name, "first": first, "rows": rows}
        for number, name in enumerate(planned.parts)
        for first in range(0, min(ROWS_PER_PART, planned.rows - number * ROWS_PER_PART), rows)
    ]
    dataset: Dataset = ray.data.from_items(pieces, override_num_blocks=len(pieces))
    return dataset.map_batches(partial(read_piece, out=store.uri), batch_size=1)


def rows_per_piece(rows: int, actors: int) -> int:
    """Rows that one task works on."""
    return min(MOST_ROWS_PER_PIECE, max(1, math.ceil(rows / (PIECES_PER_ACTOR * actors))))


def pool(dataset: Dataset, stage: PooledStage, rows: int) -> Dataset:
    """Let a growing pool of actors map the dataset; what they make streams on call by call."""
    claim = stage.claim
    most = max(1, min(claim.replicas, rows))
    at_a_time = stage.rows_at_a_time
    if at_a_time is not None:
        at_a_time = min(at_a_time, rows_per_piece(rows, claim.replicas))
    return dataset.map_batches(
        timed(stage.actor),
        batch_size=at_a_time,
        fn_constructor_kwargs=stage.arguments,
        compute=ActorPoolStrategy(min_size=min(claim.min_replicas, most), max_size=most),
        num_cpus=claim.cpus,
        num_gpus=claim.gpus,
        memory=claim.memory_gib * GIB or None,
    )


def written(dataset: Dataset, write: Callable[..., Any], first: ActorResources) -> Dataset:
    """Let tasks write what comes, no more at a time than the first stage has actors: each new one
    would be another process to start."""
    return dataset.map_batches(
        write,
        batch_size=None,
        compute=TaskPoolStrategy(size=first.replicas),
        num_cpus=TASK_CPUS,
    )


def timed(actor: type[Any]) -> type[Any]:
    """The same class, under the same name in the dashboard; rows tell what their work took."""

    class Timed(actor):  # type: ignore[misc]
        def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            began = time.perf_counter()
            made: dict[str, NDArray[Any]] = super().__call__(batch)
            rows = len(made["outcome"])
            each = (time.perf_counter() - began) / max(1, rows)
            return {**made, f"{SECONDS}{actor.__name__}": np.full(rows, each)}

    Timed.__name__ = Timed.__qualname__ = actor.__name__
    return Timed


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
    """Run `work` in a process of the cluster: tables of all rows stay out of the driver."""
    with errors_in_our_words():
        made: Made = ray.get(ray.remote(work).options(num_cpus=TASK_CPUS).remote(*arguments))
    return made


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
