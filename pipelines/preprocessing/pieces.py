"""How the rows of a plan are cut for the actors of a graph, and how far the graph is."""

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import ray.data
from ray.data import Dataset

from infra.config import PreprocessingConfig
from infra.dataset.columns import SECONDS_OF, Column
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.row_tables import ROWS_PER_PART, RowPlan, read_piece
from pipelines.ray_jobs.pools import PooledStage
from pipelines.ray_jobs.tasks import translated_ray_errors

MOST_ROWS_PER_PIECE = 64
# More would be larger ones instead: the driver keeps track of each.
MOST_PIECES = 4096


class GraphProgress(NamedTuple):
    """What a graph has done since the last one: rows by outcome, and seconds of work by stage."""

    outcomes: dict[str, int]
    stage_seconds: dict[str, float]


def planned_pieces(
    store: ObjectStore, planned: RowPlan, first: PooledStage, settings: PreprocessingConfig
) -> Dataset:
    """The planned rows, in pieces for the actors of the first stage: each is a task, and a block
    after it."""
    pieces = list(task_pieces(planned, first.claim.replicas, first.rows_at_a_time or 1, settings))
    dataset: Dataset = ray.data.from_items(pieces, override_num_blocks=len(pieces))
    return dataset.map_batches(partial(read_piece, out=store.uri), batch_size=1)


def task_pieces(
    planned: RowPlan, actors: int, at_a_time: int, settings: PreprocessingConfig
) -> Iterator[dict[str, Any]]:
    """Rows `first` to `first + rows` of a `part`, for one task each.

    Large ones first, since each costs tens of milliseconds, and single rows at the end, so that no
    actor idles there: guided self-scheduling (Polychronopoulos and Kuck, 1987). Large ones hold
    whole calls of `at_a_time` rows. A single actor waits for no other.
    """
    left = planned.rows
    shares = settings.pieces_per_actor * actors if actors > 1 else 1
    most = max(MOST_ROWS_PER_PIECE, left // MOST_PIECES)
    for part in planned.parts:
        first, end = 0, min(ROWS_PER_PART, left)
        while first < end:
            share = min(most, math.ceil(left / shares))
            if share > at_a_time:
                share -= share % at_a_time
            rows = min(share, end - first)
            yield {Column.PART: part, Column.FIRST: first, Column.ROWS: rows}
            first += rows
            left -= rows


def rows_per_call(rows: int, most: int) -> int:
    """Rows at a time, `most` at most, that make exactly `rows` in some calls."""
    return next(step for step in range(min(rows, most), 0, -1) if rows % step == 0)


def progress_of(graph: Dataset) -> Iterator[GraphProgress]:
    """Run a graph, and pass on what its tasks report; errors as of `translated_ray_errors`."""
    with translated_ray_errors():
        for batch in graph.iter_batches(batch_size=None, batch_format="numpy"):
            outcomes: Counter[str] = Counter()
            for outcome, count in zip(batch[Column.OUTCOME], batch[Column.ROWS], strict=True):
                outcomes[str(outcome)] += int(count)
            seconds = {
                name.removeprefix(SECONDS_OF): float(values.sum())
                for name, values in batch.items()
                if name.startswith(SECONDS_OF)
            }
            yield GraphProgress(dict(outcomes), seconds)
