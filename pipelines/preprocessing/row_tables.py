"""Steps of preprocessing that look at all rows at once, in a process beside the driver.

What is between them lies in `work/` of the dataset, by attempt: the listing in parts, and the rows
to work on. An attempt that is late takes nothing away from the one that has replaced it.
Imports neither torch nor Ray.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.columns import (
    DATASET_ROW,
    LATENTS_PLACE,
    ROW_PLAN,
    SURVEY_PLAN,
    TEXT_PLACE,
    Column,
    Folder,
)
from infra.dataset.commit_log import SCHEMAS, compact, read_log
from infra.dataset.manifest import LATENTS_KIND, DatasetManifest, commit
from infra.dataset.outcome_table import OK, OUTCOMES, count_outcomes, write_outcomes
from infra.dataset.shards import ShardRecord, content_digest, read_columns, row_digests, write_table
from infra.leases.fence import Fence, require_owner
from infra.storage.object_store import ObjectStore, confined_store
from pipelines.preprocessing.keys import RecipeDigests
from pipelines.preprocessing.listing.clips import ListedClip, list_clips
from pipelines.preprocessing.pending_rows import (
    LISTING_SCHEMA,
    Logs,
    RowRules,
    all_rows,
    clips_to_survey,
)

LISTED_PER_PART = 50_000
ROWS_PER_PART = 2048
ROWS_PER_TABLE = 100_000


class Listing(NamedTuple):
    """The listed clips: parts below the dataset, their number, and a digest of all."""

    parts: tuple[str, ...]
    rows: int
    digest: str


class RowJob(NamedTuple):
    """What every task needs to know. `fence`: as of `require_owner`."""

    out: str
    listing: Listing
    recipes: RecipeDigests
    rules: RowRules
    fence: Fence | None = None


class RowPlan(NamedTuple):
    """Files of rows to work on, and how many rows they hold."""

    parts: tuple[str, ...]
    rows: int


def list_source_clips(
    clips: str, captions: str | None, out: str, fence: Fence | None = None
) -> Listing:
    """List the folder or URI `clips` for the dataset `out`; errors as of `list_clips`."""
    source = confined_store(clips)
    return write_listing(list_clips(source, captions), source.uri, ObjectStore(out), fence)


def write_listing(
    clips: Iterable[ListedClip], source: str, target: ObjectStore, fence: Fence | None = None
) -> Listing:
    """Write the listing of the clips in `source` in parts: it is never in memory as a whole."""
    folder = f"{_work_of(fence)}/{Folder.LISTING}"
    parts, rows, sha256 = [], 0, hashlib.sha256(source.encode())
    for part in _split_listing(iter(clips)):
        columns = zip(*part, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)]
        record = write_table(target, pa.table(arrays, schema=LISTING_SCHEMA), folder)
        parts.append(record.name)
        sha256.update(record.sha256.encode())
        rows += len(part)
    return Listing(tuple(parts), rows, f"sha256:{sha256.hexdigest()}")


def plan_survey(job: RowJob, redrive: bool) -> RowPlan:
    """Write a plan of the clips that have to be looked into."""
    store = ObjectStore(job.out)
    listing = _listing(store, job.listing)
    clips = clips_to_survey(listing, _logs(store), job.recipes, job.rules, redrive)
    folder = f"{_work_of(job.fence)}/{Folder.SURVEY_PLAN}"
    parts = _write_parts(store, clips.select(SURVEY_PLAN), folder)
    return RowPlan(parts, clips.num_rows)


def plan_rows(job: RowJob, redrive: bool) -> RowPlan:
    """Write a plan of the rows that have to be worked on, and for what."""
    store = ObjectStore(job.out)
    rows = _rows(store, job, redrive)
    pending = rows.filter(pc.or_(rows[Column.NEEDS_LATENTS], rows[Column.NEEDS_TEXT]))
    folder = f"{_work_of(job.fence)}/{Folder.ROW_PLAN}"
    parts = _write_parts(store, pending.select(ROW_PLAN), folder)
    return RowPlan(parts, pending.num_rows)


def commit_rows(job: RowJob, provenance: dict[str, Any]) -> DatasetManifest:
    """Write outcomes and row tables, then the manifest that makes them the dataset.

    OwnershipError if another run has taken over; what it finds is then left as it is.
    """
    store = ObjectStore(job.out)
    rows = _rows(store, job, redrive=False)
    require_owner(job.fence)
    outcomes_file = {"name": OUTCOMES, "sha256": write_outcomes(store, rows)}
    counts = count_outcomes(rows).model_dump()
    dataset_rows = _dataset_rows(rows.filter(pc.equal(rows[Column.OUTCOME], OK)))
    tables = [
        write_table(store, dataset_rows.slice(start, ROWS_PER_TABLE), Folder.ROWS)
        for start in range(0, dataset_rows.num_rows, ROWS_PER_TABLE)
    ]
    manifest = commit(
        store.uri,
        LATENTS_KIND,
        _shards(store, dataset_rows),
        {"counts": counts, "outcomes": outcomes_file, **provenance},
        tables,
        job.fence,
    )
    require_owner(job.fence)
    for log in SCHEMAS:
        compact(store, log)
    require_owner(job.fence)
    delete_work(store, job.fence)
    return manifest


def delete_work(store: ObjectStore, fence: Fence | None) -> None:
    """Remove what an attempt kept until it committed, and those before it; of a later one nothing.

    So it may come late: nothing is checked between a look and what is then removed.
    """
    work = Path(store.uri) / Folder.WORK
    if store.is_local:  # also of what is empty
        found = [path.name for path in work.iterdir()] if work.is_dir() else []
    else:
        found = [file.name.split("/")[1] for file in store.list(Folder.WORK, recursive=True)]
    for name in set(found):
        # Names that are no numbers are of versions before.
        if not name.isdecimal() or int(name) <= _attempt_of(fence):
            store.delete_folder(f"{Folder.WORK}/{name}")
    if store.is_local:
        with suppress(OSError):  # not while it holds anything
            work.rmdir()


def read_piece(batch: Mapping[str, Any], out: str) -> pa.Table:
    """Some rows of one part of a plan."""
    (name,), (first,), (rows,) = batch[Column.PART], batch[Column.FIRST], batch[Column.ROWS]
    return read_columns(ObjectStore(out), str(name), None).slice(int(first), int(rows))


def _attempt_of(fence: Fence | None) -> int:
    return 0 if fence is None else fence.attempt


def _work_of(fence: Fence | None) -> str:
    return f"{Folder.WORK}/{_attempt_of(fence):06d}"


def _write_parts(store: ObjectStore, rows: pa.Table, folder: str) -> tuple[str, ...]:
    starts = range(0, rows.num_rows, ROWS_PER_PART)
    parts = (rows.slice(start, ROWS_PER_PART) for start in starts)
    return tuple(write_table(store, part, folder).name for part in parts)


def _dataset_rows(rows: pa.Table) -> pa.Table:
    table = rows.select(DATASET_ROW)
    for place, key in ((LATENTS_PLACE, Column.WINDOW_KEY), (TEXT_PLACE, Column.CAPTION_KEY)):
        table = table.append_column(place.key, rows[key])
        table = table.append_column(place.shard, rows[place.shard])
    table = table.sort_by(Column.ROW_ID)
    columns = {
        name: np.array(table[name].to_pylist(), dtype=object)
        for name in (*DATASET_ROW, LATENTS_PLACE.key, TEXT_PLACE.key)
    }
    return table.append_column(Column.ROW_DIGEST, pa.array(row_digests(columns), pa.string()))


def _shards(store: ObjectStore, rows: pa.Table) -> list[ShardRecord]:
    """Records of the files that hold the rows' tensors."""
    shards = []
    for folder, place in ((Folder.LATENTS, LATENTS_PLACE), (Folder.TEXT, TEXT_PLACE)):
        counts = rows.group_by(place.shard).aggregate([([], "count_all")])
        used = dict(zip(*(c.to_pylist() for c in counts.columns), strict=True))
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
    return all_rows(listing, _logs(store), job.recipes, job.rules, redrive)


def _listing(store: ObjectStore, listing: Listing) -> pa.Table:
    parts = [read_columns(store, name, None) for name in listing.parts]
    return pa.concat_tables([LISTING_SCHEMA.empty_table(), *parts]).combine_chunks()


def _logs(store: ObjectStore) -> Logs:
    shards = {file.name for folder in (Folder.LATENTS, Folder.TEXT) for file in store.list(folder)}
    clips, windows, captions = (read_log(store, name) for name in SCHEMAS)
    return Logs(clips, windows, captions, frozenset(shards))


def _split_listing(clips: Iterator[ListedClip]) -> Iterator[list[ListedClip]]:
    while part := list(islice(clips, LISTED_PER_PART)):
        yield part
