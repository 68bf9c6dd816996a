"""The last step of preprocessing, run by Ray tasks: results to shards, and their keys to the log.

Apart from the graph, because a task's process imports the module of its function: this one needs
neither torch nor the other steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.dataset.columns import (
    IDS,
    LATENT_TENSORS,
    OUTCOME_COLUMNS,
    SECONDS_OF,
    SIGNAL_MEASURES,
    TEXT_OUTCOME_COLUMNS,
    TEXT_TENSORS,
    WORDS,
    Column,
    Folder,
)
from infra.dataset.commit_log import SCHEMAS, LogName, append
from infra.dataset.outcome_table import OK
from infra.dataset.shards import read_columns, write_shard
from infra.errors import MachineError
from infra.machine_faults import machine_faults
from infra.storage.object_store import ObjectStore

Batch = Mapping[str, NDArray[Any]]


class _Place(NamedTuple):
    """The shard that holds a row's tensors, and the row's digest there."""

    shard: str = ""
    digest: str = ""


class _Results(NamedTuple):
    """Where the results of a family of stages go, and the columns that hold them."""

    log: LogName
    folder: str
    key: str
    outcomes: Sequence[str]
    tensors: Sequence[str]
    values: Sequence[str]
    attempts: str


_WINDOWS = _Results(
    "windows",
    Folder.LATENTS,
    Column.WINDOW_KEY,
    OUTCOME_COLUMNS,
    LATENT_TENSORS,
    SIGNAL_MEASURES,
    Column.WINDOW_ATTEMPTS,
)
_CAPTIONS = _Results(
    "captions",
    Folder.TEXT,
    Column.CAPTION_KEY,
    TEXT_OUTCOME_COLUMNS,
    tuple(TEXT_TENSORS.values()),
    WORDS,
    Column.CAPTION_ATTEMPTS,
)


@machine_faults()
def log_clips(batch: Batch, out: str, plan: str = "") -> dict[str, NDArray[Any]]:
    """Write what the survey found into the log of the dataset `out`; gives counts of outcomes.

    plan: a file that the run has written there; MachineError if it is gone.
    """
    store = ObjectStore(out)
    _require_plan(store, plan)
    append(store, "clips", _log_table("clips", batch))
    return _report(batch, batch[Column.OUTCOME])


@machine_faults()
def write_rows(batch: Batch, out: str, plan: str = "") -> dict[str, NDArray[Any]]:
    """Write the latents and text features of rows; shards first, then the log.

    Gives how many rows have which outcome: that of the window, or of the caption if that is good.
    plan: as of `log_clips`.
    """
    store = ObjectStore(out)
    _require_plan(store, plan)
    _write_results(store, _WINDOWS, batch, batch[Column.NEEDS_LATENTS].astype(bool))
    has_text = batch[Column.TEXT_OUTCOME] != ""
    _write_results(store, _CAPTIONS, batch, has_text)
    of_text = has_text & (batch[Column.OUTCOME] == OK) & (batch[Column.TEXT_OUTCOME] != OK)
    return _report(batch, np.where(of_text, batch[Column.TEXT_OUTCOME], batch[Column.OUTCOME]))


def _require_plan(store: ObjectStore, plan: str) -> None:
    """Where a mount is lost, what we write would fill the disk below it, and be gone with the next
    mount."""
    if plan and store.is_local and not store.has(plan):
        raise MachineError(
            f"expected {plan} in {store.uri}, where this run has written it, got none: a mount is"
            " lost, or somebody has removed it; bring it back, then run the same command again:"
            " what is done stays done"
        )


def _report(batch: Batch, outcomes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What the driver gets from a task: a few numbers, however many rows there were."""
    names, counts = np.unique(outcomes.astype(str), return_counts=True)
    seconds = {
        name: np.full(len(names), values.sum() / len(names))
        for name, values in batch.items()
        if name.startswith(SECONDS_OF)
    }
    return {Column.OUTCOME: names.astype(object), Column.ROWS: counts, **seconds}


def _write_results(store: ObjectStore, results: _Results, batch: Batch, which: Any) -> None:
    """Write the tensors of the rows `which`, then what became of these rows into the log."""
    keys = batch[results.key]
    outcome, *_ = results.outcomes
    tensors = {name: batch[name] for name in results.tensors if name in batch}
    good = which & (batch[outcome] == OK)
    places = _write_tensors(store, results.folder, keys, good, tensors)
    shards, digests = zip(*(places.get(key, _Place()) for key in keys), strict=True)
    columns = {
        Column.KEY: keys,
        **{as_: batch[of] for as_, of in zip(OUTCOME_COLUMNS, results.outcomes, strict=True)},
        Column.SHARD: np.array(shards, dtype=object),
        Column.DIGEST: np.array(digests, dtype=object),
        Column.ATTEMPTS: batch[results.attempts] + 1,
        **{name: batch[name] for name in results.values},
    }
    entries = {name: values[which] for name, values in columns.items()}
    append(store, results.log, _log_table(results.log, entries))


def _write_tensors(
    store: ObjectStore, folder: str, keys: NDArray[Any], which: NDArray[Any], tensors: Batch
) -> dict[str, _Place]:
    """Write the rows `which`, a shard for each shape of tensors; where each is now, by key."""
    places: dict[str, _Place] = {}
    for alike in _group_by_shape(np.flatnonzero(which), tensors):
        columns = {Column.ROW_ID: keys[alike]} | {
            name: np.stack(list(values[alike])) for name, values in tensors.items()
        }
        record = write_shard(store.uri, columns, folder)
        ids, digests = (c.to_pylist() for c in read_columns(store, record.name, IDS).columns)
        for row_id, digest in zip(ids, digests, strict=True):
            places[row_id] = _Place(record.name, digest)
    return places


def _group_by_shape(rows: NDArray[np.int64], tensors: Batch) -> list[list[int]]:
    """The numbers in `rows`, those together whose tensors have the same shapes."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for row in rows.tolist():
        shapes = tuple(values[row].shape for values in tensors.values())
        groups.setdefault(shapes, []).append(row)
    return list(groups.values())


def _log_table(log: LogName, columns: Batch) -> pa.Table:
    schema = SCHEMAS[log]
    return pa.table(
        [pa.array(list(columns[field.name]), field.type) for field in schema], schema=schema
    )
