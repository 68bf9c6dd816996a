"""Steps of preprocessing that look at all rows at once, in a process beside the driver.

What is between them lies in `work/` of the dataset: the listing in parts, and the rows to work on.
Imports neither torch nor Ray.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.commit_log import SCHEMAS, compact, read_log
from infra.dataset.manifest import DatasetManifest, commit
from infra.dataset.outcome_table import OK, OUTCOMES, count_outcomes, write_outcomes
from infra.dataset.shards import (
    ROW_DIGEST,
    ROW_ID,
    ShardRecord,
    content_digest,
    read_columns,
    row_digests,
    write_table,
)
from infra.storage.object_store import ObjectStore, confined_store
from pipelines.preprocessing.keys import RecipeDigests
from pipelines.preprocessing.listing.clips import ListedClip, list_clips
from pipelines.preprocessing.pending_rows import LISTING, Logs, all_rows, unsurveyed
from pipelines.preprocessing.shard_writing import LATENTS, TEXT

WORK = "work"
ROWS = "rows"
LISTED_PER_PART = 50_000
ROWS_PER_PART = 2048
ROWS_PER_TABLE = 100_000
TO_SURVEY = ("key", "clip_uri", "clip_bytes", "archive_offset", "problem", "error")
TO_DO = (
    "clip_uri",
    "clip_bytes",
    "archive_offset",
    "clip_digest",
    "start_s",
    "height",
    "width",
    "caption_raw",
    "window_key",
    "caption_key",
    "window_attempts",
    "caption_attempts",
    "needs_latents",
    "needs_text",
    "outcome",
    "reason",
    "error",
)
# Columns of a row of the dataset; the last ones say where its tensors are.
KEPT = (
    ROW_ID,
    "clip_uri",
    "clip_digest",
    "start_s",
    "height",
    "width",
    "caption_raw",
    "caption",
    "rewritten",
    "av_lag_ms",
    "loudness_lufs",
    "latents_digest",
    "text_digest",
)
PLACES = {
    "latents_key": "window_key",
    "latents_shard": "latents_shard",
    "text_key": "caption_key",
    "text_shard": "text_shard",
}


class Listing(NamedTuple):
    """The listed clips: parts below the dataset, their number, and a digest of all."""

    parts: tuple[str, ...]
    rows: int
    digest: str


class RowJob(NamedTuple):
    """What every task needs to know."""

    out: str
    listing: Listing
    recipes: RecipeDigests
    max_caption_chars: int


class RowPlan(NamedTuple):
    """Files of rows to work on, and how many rows they hold."""

    parts: tuple[str, ...]
    rows: int


def list_into(clips: str, captions: str | None, out: str) -> Listing:
    """List the folder or URI `clips` for the dataset `out`; errors as of `list_clips`."""
    source = confined_store(clips)
    return write_listing(list_clips(source, captions), source.uri, ObjectStore(out))


def write_listing(clips: Iterable[ListedClip], source: str, target: ObjectStore) -> Listing:
    """Write the listing of the clips in `source` in parts: it is never in memory as a whole."""
    parts, rows, sha256 = [], 0, hashlib.sha256(source.encode())
    for part in _parts_of(iter(clips)):
        columns = zip(*part, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)]
        record = write_table(target, pa.table(arrays, schema=LISTING), f"{WORK}/listing")
        parts.append(record.name)
        sha256.update(record.sha256.encode())
        rows += len(part)
    return Listing(tuple(parts), rows, f"sha256:{sha256.hexdigest()}")


def plan_survey(job: RowJob, redrive: bool) -> RowPlan:
    """Write down which clips have to be looked into."""
    store = ObjectStore(job.out)
    listing = _listing(store, job.listing)
    clips = unsurveyed(listing, _logs(store), job.recipes, redrive).select(TO_SURVEY)
    return RowPlan(_in_parts(store, clips, "survey"), clips.num_rows)


def plan_rows(job: RowJob, redrive: bool) -> RowPlan:
    """Write down which rows have to be worked on, and for what."""
    store = ObjectStore(job.out)
    rows = _rows(store, job, redrive)
    work = rows.filter(pc.or_(rows["needs_latents"], rows["needs_text"])).select(TO_DO)
    return RowPlan(_in_parts(store, work, "rows"), work.num_rows)


def commit_rows(job: RowJob, provenance: dict[str, Any]) -> DatasetManifest:
    """Write outcomes and row tables, then the manifest that makes them the dataset."""
    store = ObjectStore(job.out)
    rows = _rows(store, job, redrive=False)
    outcomes_file = {"name": OUTCOMES, "sha256": write_outcomes(store, rows)}
    counts = count_outcomes(rows).model_dump()
    kept = _dataset_rows(rows.filter(pc.equal(rows["outcome"], OK)))
    tables = [
        write_table(store, kept.slice(start, ROWS_PER_TABLE), ROWS)
        for start in range(0, kept.num_rows, ROWS_PER_TABLE)
    ]
    manifest = commit(
        store.uri,
        LATENTS,
        _shards(store, kept),
        {"counts": counts, "outcomes": outcomes_file, **provenance},
        tables,
    )
    for log in SCHEMAS:
        compact(store, log)
    store.delete_folder(WORK)
    return manifest


def read_piece(batch: Mapping[str, Any], out: str) -> pa.Table:
    """Some rows of one part of a plan."""
    (name,), (first,), (rows,) = batch["part"], batch["first"], batch["rows"]
    return read_columns(ObjectStore(out), str(name), None).slice(int(first), int(rows))


def _in_parts(store: ObjectStore, rows: pa.Table, what: str) -> tuple[str, ...]:
    starts = range(0, rows.num_rows, ROWS_PER_PART)
    parts = (rows.slice(start, ROWS_PER_PART) for start in starts)
    return tuple(write_table(store, part, f"{WORK}/{what}").name for part in parts)


def _dataset_rows(rows: pa.Table) -> pa.Table:
    table = rows.select(KEPT)
    for name, source in PLACES.items():
        table = table.append_column(name, rows[source])
    table = table.sort_by(ROW_ID)
    columns = {
        name: np.array(table[name].to_pylist(), dtype=object)
        for name in (*KEPT, "latents_key", "text_key")
    }
    return table.append_column(ROW_DIGEST, pa.array(row_digests(columns), pa.string()))


def _shards(store: ObjectStore, rows: pa.Table) -> list[ShardRecord]:
    """Records of the files that hold the rows' tensors."""
    shards = []
    for folder, column in ((LATENTS, "latents_shard"), (TEXT, "text_shard")):
        counted = rows.group_by(column).aggregate([([], "count_all")])
        used = dict(zip(*(c.to_pylist() for c in counted.columns), strict=True))
        shards += [
            ShardRecord(
                name=file.name,
                rows=used[file.name],
                bytes=file.size,
                sha256=content_digest(file.name),
            )
            for file in store.list(folder)
            if file.name in used
        ]
    return shards


def _rows(store: ObjectStore, job: RowJob, redrive: bool) -> pa.Table:
    listing = _listing(store, job.listing)
    return all_rows(listing, _logs(store), job.recipes, job.max_caption_chars, redrive)


def _listing(store: ObjectStore, listing: Listing) -> pa.Table:
    parts = [read_columns(store, name, None) for name in listing.parts]
    return pa.concat_tables([LISTING.empty_table(), *parts]).combine_chunks()


def _logs(store: ObjectStore) -> Logs:
    shards = {file.name for folder in (LATENTS, TEXT) for file in store.list(folder)}
    clips, windows, captions = (read_log(store, name) for name in SCHEMAS)
    return Logs(clips, windows, captions, frozenset(shards))


def _parts_of(clips: Iterator[ListedClip]) -> Iterator[list[ListedClip]]:
    while part := list(islice(clips, LISTED_PER_PART)):
        yield part
