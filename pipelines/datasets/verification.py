"""Whether a dataset is whole: its files, their content, and what they say of each other."""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.dataset.manifest import MANIFEST, DatasetManifest, dataset_digest
from infra.dataset.outcome_table import OK, OUTCOMES, OutcomeCounts, count_outcomes, read_outcomes
from infra.dataset.shards import ROW_DIGEST, ROW_ID, ShardRecord, content_digest, row_digests
from infra.errors import StoreError
from infra.records import Record
from infra.storage.object_store import ObjectStore, StoredFile
from infra.terminal.progress import Progress
from pipelines.datasets.files import content_files, finished_manifest, log_parts
from pipelines.preprocessing.shard_writing import LATENTS

# Columns of a row table that say where a row's tensors are, and what they are.
TENSORS = (
    ("latents_shard", "latents_key", "latents_digest"),
    ("text_shard", "text_key", "text_digest"),
)
PLACES = tuple(name for columns in TENSORS for name in columns)


class Problem(Record):
    """What is wrong with a file.

    It is missing, it is damaged (there, with a content that it must not have), it says what is
    wrong, or it is unreadable, which may be the fault of storage.
    """

    file: str
    kind: Literal["missing", "damaged", "wrong", "unreadable"]
    what: str


class Verification(Record):
    """What was looked at, what is wrong, what was removed, and what to do about it."""

    dataset: str
    digest: str
    rows: int
    files: int
    quick: bool
    problems: tuple[Problem, ...]
    removed: tuple[str, ...]
    advice: str


class _File(NamedTuple):
    """Rows of a file without tensors, or what is wrong with it."""

    rows: pa.Table | None
    problem: Problem | None


def verify_dataset(
    uri: str, progress: Progress, *, quick: bool = False, repair: bool = False
) -> Verification:
    """Check the dataset at `uri`; it is whole if there are no problems.

    Args:
        uri: of the dataset.
        progress: gets a step per file.
        quick: only whether every file is there with its size; reads nothing but the manifest.
        repair: remove damaged files, so that preprocessing makes them again; and the manifest, if
            preprocessing would believe it. What is only unreadable stays.

    Raises:
        DatasetError: there is no finished dataset, or its manifest is damaged.
        StoreError: storage or its credentials fail.
    """
    store = ObjectStore(uri)
    manifest = finished_manifest(store)
    problems = _misplaced(store, manifest)
    if not quick:
        wrong = {problem.file for problem in problems}
        problems += _wrong_content(store, manifest, wrong, progress)
        problems += _wrong_outcomes(store, manifest)
        problems += _damaged_log(store, progress)
    removed = _remove(store, manifest, problems) if repair else ()
    return Verification(
        dataset=store.uri,
        digest=manifest.digest,
        rows=manifest.rows,
        files=len(manifest.files),
        quick=quick,
        problems=tuple(problems),
        removed=removed,
        advice=_advice(store, manifest, problems, repair),
    )


def _misplaced(store: ObjectStore, manifest: DatasetManifest) -> list[Problem]:
    """Files that are not there, or are of another size."""
    sizes = {file.name: file.size for file in content_files(store)}
    problems = []
    for file in manifest.files:
        if file.name not in sizes:
            problems.append(Problem(file=file.name, kind="missing", what="is not there"))
        elif sizes[file.name] != file.bytes:
            what = f"has {sizes[file.name]} bytes instead of {file.bytes}"
            problems.append(Problem(file=file.name, kind="damaged", what=what))
    outcomes = manifest.provenance.get("outcomes")
    if outcomes is not None and not store.has(OUTCOMES):
        problems.append(Problem(file=OUTCOMES, kind="missing", what="is not there"))
    return problems


def _wrong_content(
    store: ObjectStore, manifest: DatasetManifest, wrong: set[str], progress: Progress
) -> Iterator[Problem]:
    """Read every file that is not known to be wrong, and compare all that is said of its rows."""
    read: dict[str, pa.Table] = {}
    with progress.stage("verify", len(manifest.files)) as stage:
        for record in manifest.files:
            if record.name not in wrong:
                rows, problem = _read(store, record)
                if problem is not None:
                    yield problem
                if rows is not None:
                    read[record.name] = rows
            stage.advance()
    yield from _wrong_numbers(manifest, read)
    named = manifest.tables or manifest.shards
    rows = [read[file.name] for file in named if file.name in read]
    if len(rows) == len(named):  # else the file that is missing says it all
        yield from _wrong_whole(manifest, rows)
    if manifest.tables:
        yield from _lost_tensors(manifest, read)


def _read(store: ObjectStore, record: ShardRecord) -> _File:
    """The rows of a file without tensors, after its content and each row's digest are checked."""
    try:
        content = store.read(record.name)
    except StoreError:
        raise
    except OSError as error:
        return _File(None, _unreadable(record.name, error))
    expected = {record.sha256, content_digest(record.name)}
    got = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if expected != {got}:
        what = f"has the content {got} instead of {' or '.join(sorted(expected))}"
        return _File(None, Problem(file=record.name, kind="damaged", what=what))
    try:
        parts = list(_checked_groups(pq.ParquetFile(pa.BufferReader(content))))
    except (pa.ArrowException, KeyError, OSError) as error:
        what = f"is no table of rows: {' '.join(str(error).split())[:200]}"
        return _File(None, Problem(file=record.name, kind="damaged", what=what))
    rows = pa.concat_tables(part for part, _ in parts).combine_chunks()
    wrong = [row_id for _, ids in parts for row_id in ids]
    if not wrong:
        return _File(rows, None)
    what = f"has {len(wrong)} rows with another digest than their content's, as {wrong[0]}"
    return _File(rows, Problem(file=record.name, kind="damaged", what=what))


def _checked_groups(file: pq.ParquetFile) -> Iterator[tuple[pa.Table, list[str]]]:
    """The rows of each group without tensors, and the ids of those with a wrong digest."""
    kept = [name for name in file.schema_arrow.names if name in (ROW_ID, ROW_DIGEST, *PLACES)]
    for group in range(max(1, file.num_row_groups)):
        table = file.read_row_group(group) if file.num_row_groups else file.read()
        columns = {name: _values(table[name]) for name in table.column_names if name != ROW_DIGEST}
        made, stated = row_digests(columns), table[ROW_DIGEST].to_pylist()
        ids = zip(table[ROW_ID].to_pylist(), made, stated, strict=True)
        yield table.select(kept), [row_id for row_id, mine, theirs in ids if mine != theirs]


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as what its digests were made of: a tensor per row, or plain values."""
    if isinstance(column.type, pa.FixedShapeTensorType) and len(column):
        tensors: NDArray[Any] = column.combine_chunks().to_numpy_ndarray()
        return tensors
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


def _wrong_numbers(manifest: DatasetManifest, read: dict[str, pa.Table]) -> Iterator[Problem]:
    """Files of rows with another number of them; shards of tensors may hold more, or serve more."""
    for record in manifest.tables or manifest.shards:
        if record.name in read and read[record.name].num_rows != record.rows:
            what = f"has {read[record.name].num_rows} rows instead of {record.rows}"
            yield Problem(file=record.name, kind="wrong", what=what)


def _wrong_whole(manifest: DatasetManifest, parts: list[pa.Table]) -> Iterator[Problem]:
    """What the manifest says of all rows."""
    empty = pa.table({name: pa.array([], pa.string()) for name in (ROW_ID, ROW_DIGEST)})
    rows = pa.concat_tables([empty, *(part.select([ROW_ID, ROW_DIGEST]) for part in parts)])
    rows = rows.combine_chunks()
    distinct = pc.count_distinct(rows[ROW_ID]).as_py()
    if distinct != rows.num_rows:
        what = f"names {rows.num_rows} rows, of which {rows.num_rows - distinct} are repetitions"
        yield Problem(file=MANIFEST, kind="wrong", what=what)
    if rows.num_rows != manifest.rows:
        yield Problem(
            file=MANIFEST,
            kind="wrong",
            what=f"says {manifest.rows} rows instead of {rows.num_rows}",
        )
    made = dataset_digest(rows[ROW_DIGEST])
    if made != manifest.digest:
        what = f"says {manifest.digest} instead of {made}, the digest of its rows"
        yield Problem(file=MANIFEST, kind="wrong", what=what)


def _lost_tensors(manifest: DatasetManifest, read: dict[str, pa.Table]) -> Iterator[Problem]:
    """Shards without the tensors that rows look for there, or with others."""
    named = {shard.name for shard in manifest.shards}
    tables = [read[file.name] for file in manifest.tables if file.name in read]
    shards = {name: rows for name, rows in read.items() if name in named}
    for columns in TENSORS if tables else ():
        wanted = pa.concat_tables(tables).select(columns).rename_columns(["shard", "key", "digest"])
        for shard in sorted(set(pc.unique(wanted["shard"]).to_pylist()) - named):
            yield Problem(
                file=shard, kind="wrong", what="holds tensors, but is not in the manifest"
            )
        # What is wrong with a file that is not read has been told.
        readable = pc.is_in(wanted["shard"], value_set=pa.array(sorted(shards), pa.string()))
        lost = _without_tensors(wanted.filter(readable), shards)
        for group in (
            lost.group_by("shard").aggregate([("key", "min"), ("key", "count")]).to_pylist()
        ):
            what = f"has not the tensors of {group['key_count']} rows, as of {group['key_min']}"
            yield Problem(file=group["shard"], kind="wrong", what=what)


def _without_tensors(wanted: pa.Table, shards: dict[str, pa.Table]) -> pa.Table:
    """The rows of `wanted` (shard, key, digest) that are not in their shard with that digest."""
    names = ("shard", "key", "digest")
    parts = [pa.table({name: pa.array([], pa.string()) for name in names})]
    for name, rows in shards.items():
        shard = pa.array([name] * rows.num_rows, pa.string())
        parts.append(pa.table([shard, rows[ROW_ID], rows[ROW_DIGEST]], names=names))
    places = (
        pc.binary_join_element_wise(*(table[name] for name in names), "/")
        for table in (wanted, pa.concat_tables(parts))
    )
    looked_for, there = places
    return wanted.filter(pc.invert(pc.is_in(looked_for, value_set=there.combine_chunks())))


def _wrong_outcomes(store: ObjectStore, manifest: DatasetManifest) -> Iterator[Problem]:
    """Whether the table of outcomes is the manifest's, and adds up."""
    recorded, counts = (manifest.provenance.get(name) for name in ("outcomes", "counts"))
    if recorded is None or counts is None or not store.has(OUTCOMES):
        return
    problem = _other_content(store, OUTCOMES, recorded["sha256"])
    if problem is not None:
        yield problem
        return
    found = count_outcomes(read_outcomes(store))
    said = OutcomeCounts.model_validate(counts)
    if found != said:
        what = f"counts {_counted(said)}, {OUTCOMES} has {_counted(found)}"
        yield Problem(file=MANIFEST, kind="wrong", what=what)
    if found.ok != manifest.rows:
        what = f"has {found.ok} rows that ended as {OK}, {MANIFEST} has {manifest.rows} rows"
        yield Problem(file=OUTCOMES, kind="wrong", what=what)


def _counted(counts: OutcomeCounts) -> str:
    filtered, quarantined = sum(counts.filtered.values()), sum(counts.quarantined.values())
    return f"{counts.ok} ok, {filtered} filtered, {quarantined} quarantined of {counts.rows}"


def _damaged_log(store: ObjectStore, progress: Progress) -> Iterator[Problem]:
    """Parts of the log with another content than they are named after."""
    parts: list[StoredFile] = [part for found in log_parts(store).values() for part in found]
    with progress.stage("verify the log", len(parts)) as stage:
        for part in parts:
            problem = _other_content(store, part.name, content_digest(part.name))
            if problem is not None:
                yield problem
            stage.advance()


def _other_content(store: ObjectStore, name: str, expected: str) -> Problem | None:
    try:
        got = store.digest(name)
    except StoreError:
        raise
    except OSError as error:
        return _unreadable(name, error)
    what = f"has the content {got} instead of {expected}"
    return None if got == expected else Problem(file=name, kind="damaged", what=what)


def _unreadable(name: str, error: OSError) -> Problem:
    said = " ".join(str(error).split())[:200]
    return Problem(file=name, kind="unreadable", what=f"cannot be read: {said}")


def _remove(
    store: ObjectStore, manifest: DatasetManifest, problems: list[Problem]
) -> tuple[str, ...]:
    """Remove damaged files, and the manifest if another run would find nothing to do."""
    removed = sorted({problem.file for problem in problems if problem.kind == "damaged"})
    in_log = {part.name for found in log_parts(store).values() for part in found}
    to_make = {p.file for p in problems if p.kind != "unreadable"} - in_log
    gone = {p.file for p in problems if p.kind in ("missing", "damaged")}
    noticed = manifest.kind == LATENTS and any(file.name in gone for file in manifest.files)
    if to_make and not noticed:
        removed.insert(0, MANIFEST)  # first, so that it never names what this has removed
    for name in removed:
        store.delete(name)
    return tuple(removed)


def _advice(
    store: ObjectStore, manifest: DatasetManifest, problems: list[Problem], repair: bool
) -> str:
    """What to do about the problems."""
    if not problems:
        return ""
    if all(problem.kind == "unreadable" for problem in problems):
        return "look after the storage and its permissions, then verify again"
    first = "" if repair else "verify with --repair to remove what is damaged, then "
    if manifest.kind != LATENTS:
        return f"{first}run the same `omniforcing distill` again: it makes the trajectories anew"
    clips, preset = manifest.provenance.get("clips"), manifest.provenance.get("config", {})
    return (
        f"{first}run `omniforcing preprocess --clips {clips} --out {store.uri}` with the"
        f" configuration that made it (preset {preset.get('name')}; its settings are in {MANIFEST}"
        " under provenance.config): it makes what is missing"
    )
