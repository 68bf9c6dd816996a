"""The last step of preprocessing, run by Ray tasks: results to shards, and their keys to the log.

Apart from the graph, because a task's process imports the module of its function: this one needs
neither torch nor the other steps.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.dataset.columns import SECONDS_OF
from infra.dataset.commit_log import KEY, SCHEMAS, LogName, append
from infra.dataset.outcome_table import OK
from infra.dataset.shards import ROW_DIGEST, ROW_ID, ShardRecord, read_columns, write_shard
from infra.storage.object_store import ObjectStore

Batch = Mapping[str, NDArray[Any]]
LATENTS, TEXT = "latents", "text"


def log_clips(batch: Batch, out: str) -> dict[str, NDArray[Any]]:
    """Write what the survey found into the log of the dataset `out`; gives how they ended."""
    append(ObjectStore(out), "clips", _log_rows("clips", batch))
    return _told(batch, batch["outcome"])


def write_rows(batch: Batch, out: str) -> dict[str, NDArray[Any]]:
    """Write the latents and text features that were made; shards first, then the log.

    Gives how many rows ended in which way: as the window did, or as the caption if that is good.
    """
    store = ObjectStore(out)
    made = batch["needs_latents"].astype(bool)
    tensors = {name: batch[name] for name in ("video", "audio") if name in batch}
    latents = _written(
        store, LATENTS, batch["window_key"], made & (batch["outcome"] == OK), tensors
    )
    ends = {name: batch[name] for name in ("outcome", "reason", "error")}
    scores = {name: batch[name] for name in ("av_lag_ms", "loudness_lufs")}
    attempts = batch["window_attempts"] + 1
    _log(
        store, "windows", made, batch["window_key"], ends, latents, scores | {"attempts": attempts}
    )

    told = batch["text_outcome"] != ""
    tensors = {name: batch[name] for name in ("video_text", "audio_text") if name in batch}
    good = told & (batch["text_outcome"] == OK)
    texts = _written(store, TEXT, batch["caption_key"], good, tensors)
    text_ends = {name: batch[f"text_{name}"] for name in ("outcome", "reason", "error")}
    words = {name: batch[name] for name in ("caption", "rewritten")}
    attempts = batch["caption_attempts"] + 1
    _log(
        store,
        "captions",
        told,
        batch["caption_key"],
        text_ends,
        texts,
        words | {"attempts": attempts},
    )
    failed = (batch["outcome"] == OK) & told & ~good
    return _told(batch, np.where(failed, batch["text_outcome"], batch["outcome"]))


def _told(batch: Batch, outcomes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What a task tells the driver: a few numbers, however many rows there were."""
    names, counts = np.unique(outcomes.astype(str), return_counts=True)
    seconds = {
        name: np.full(len(names), values.sum() / len(names))
        for name, values in batch.items()
        if name.startswith(SECONDS_OF)
    }
    return {"outcome": names.astype(object), "rows": counts, **seconds}


def _written(
    store: ObjectStore,
    folder: str,
    keys: NDArray[Any],
    which: NDArray[Any],
    tensors: Batch,
) -> dict[str, tuple[str, str]]:
    """Write the chosen rows, a shard for each shape of tensors; the shard's name and each row's
    content digest, by key."""
    places: dict[str, tuple[str, str]] = {}
    for alike in _of_one_shape(np.flatnonzero(which), tensors):
        columns = {ROW_ID: keys[alike]} | {
            name: np.stack(list(values[alike])) for name, values in tensors.items()
        }
        record: ShardRecord = write_shard(store.uri, columns, folder)
        rows = read_columns(store, record.name, (ROW_ID, ROW_DIGEST)).to_pylist()
        places |= {row[ROW_ID]: (record.name, row[ROW_DIGEST]) for row in rows}
    return places


def _of_one_shape(rows: NDArray[np.int64], tensors: Batch) -> list[list[int]]:
    """The numbers in `rows`, those together whose tensors have the same shapes."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for row in rows.tolist():
        shapes = tuple(values[row].shape for values in tensors.values())
        groups.setdefault(shapes, []).append(row)
    return list(groups.values())


def _log(
    store: ObjectStore,
    log: LogName,
    which: NDArray[Any],
    keys: NDArray[Any],
    ends: Batch,
    places: Mapping[str, tuple[str, str]],
    more: Batch,
) -> None:
    shards, digests = zip(*(places.get(key, ("", "")) for key in keys), strict=True)
    columns = {
        KEY: keys,
        **ends,
        **more,
        "shard": np.array(shards, dtype=object),
        "digest": np.array(digests, dtype=object),
    }
    append(store, log, _log_rows(log, {name: values[which] for name, values in columns.items()}))


def _log_rows(log: LogName, columns: Batch) -> pa.Table:
    schema = SCHEMAS[log]
    return pa.table(
        [pa.array(list(columns[field.name]), field.type) for field in schema], schema=schema
    )
