"""Whether a dataset is whole: its files, their content, and what they say of each other."""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.dataset.columns import IDS, TENSOR_PLACES, Column, TensorPlace, schema
from infra.dataset.manifest import LATENTS_KIND, MANIFEST, DatasetManifest, dataset_digest
from infra.dataset.outcome_table import OK, OUTCOMES, OutcomeCounts, count_outcomes, read_outcomes
from infra.dataset.shards import ShardRecord, content_digest, row_digests
from infra.errors import StoreError
from infra.leases.output_lease import OutputLease, hold_output
from infra.records import Record
from infra.storage.object_store import ObjectStore, StoredFile
from infra.terminal.progress import Progress
from pipelines.datasets.files import content_files, finished_manifest, log_parts

# Columns of rows that are compared with other files.
COMPARED = (*IDS, *(name for place in TENSOR_PLACES for name in place))


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
    uri: str, progress: Progress, *, quick: bool = False, repair_lease_s: float | None = None
) -> Verification:
    """Check the dataset at `uri`; it is whole if there are no problems.

    Args:
        uri: of the dataset.
        progress: gets a step per file.
        quick: only whether every file is there with its size; reads nothing but the manifest.
        repair_lease_s: remove damaged files, so that preprocessing makes them again; and the
            manifest, if preprocessing would believe it. What is only unreadable stays. Meanwhile
            the dataset is held, as of `hold_output`; None: nothing is removed, nor held.

    Raises:
        DatasetError: there is no finished dataset, or its manifest is damaged.
        OwnershipError: a run is at work that could make what is removed.
        StoreError: storage or its credentials fail.
    """
    store = ObjectStore(uri)
    if repair_lease_s is None:
        return _verify(store, progress, quick, None)
    finished_manifest(store)  # what is no dataset is not held either
    with hold_output(store.uri, "dataset verify --repair", repair_lease_s) as lease:
        return _verify(store, progress, quick, lease)


def _verify(
    store: ObjectStore, progress: Progress, quick: bool, lease: OutputLease | None
) -> Verification:
    """As `verify_dataset`; with a lease what is damaged is removed."""
    manifest = finished_manifest(store)
    problems = _misplaced(store, manifest)
    if not quick:
        wrong = {problem.file for problem in problems}
        problems += _wrong_content(store, manifest, wrong, progress)
        problems += _wrong_outcomes(store, manifest)
        problems += _damaged_log(store, progress)
    removed: tuple[str, ...] = ()
    if lease is not None:
        lease.check()
        removed = _remove(store, manifest, problems)
    return Verification(
        dataset=store.uri,
        digest=manifest.digest,
        rows=manifest.rows,
        files=len(manifest.files),
        quick=quick,
        problems=tuple(problems),
        removed=removed,
        advice=_advice(store, manifest, problems, lease is not None),
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
    """Read every file that is not known to be wrong, and compare it with what is recorded of it."""
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
        parts = list(_checked_groups(_parquet(content)))
    except (pa.ArrowException, KeyError, OSError) as error:
        what = f"is no table of rows: {' '.join(str(error).split())[:200]}"
        return _File(None, Problem(file=record.name, kind="damaged", what=what))
    rows = pa.concat_tables(part for part, _ in parts).combine_chunks()
    wrong = [row_id for _, ids in parts for row_id in ids]
    if not wrong:
        return _File(rows, None)
    what = f"has {len(wrong)} rows with another digest than their content's, as {wrong[0]}"
    return _File(rows, Problem(file=record.name, kind="damaged", what=what))


def _parquet(content: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)


def _checked_groups(file: pq.ParquetFile) -> Iterator[tuple[pa.Table, list[str]]]:
    """The rows of each group without tensors, and the ids of those with a wrong digest."""
    compared = [name for name in file.schema_arrow.names if name in COMPARED]
    for group in range(max(1, file.num_row_groups)):
        table = file.read_row_group(group) if file.num_row_groups else file.read()
        hashed = [name for name in table.column_names if name != Column.ROW_DIGEST]
        digests = row_digests({name: _values(table[name]) for name in hashed})
        ids, recorded = (table[name].to_pylist() for name in IDS)
        rows = zip(ids, digests, recorded, strict=True)
        yield table.select(compared), [row_id for row_id, own, stated in rows if own != stated]


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
    rows = pa.concat_tables([schema(IDS).empty_table(), *(part.select(IDS) for part in parts)])
    rows = rows.combine_chunks()
    distinct = pc.count_distinct(rows[Column.ROW_ID]).as_py()
    if distinct != rows.num_rows:
        what = f"names {rows.num_rows} rows, of which {rows.num_rows - distinct} are repetitions"
        yield Problem(file=MANIFEST, kind="wrong", what=what)
    if rows.num_rows != manifest.rows:
        yield Problem(
            file=MANIFEST,
            kind="wrong",
            what=f"says {manifest.rows} rows instead of {rows.num_rows}",
        )
    digest = dataset_digest(rows[Column.ROW_DIGEST])
    if digest != manifest.digest:
        what = f"says {manifest.digest} instead of {digest}, the digest of its rows"
        yield Problem(file=MANIFEST, kind="wrong", what=what)


def _lost_tensors(manifest: DatasetManifest, read: dict[str, pa.Table]) -> Iterator[Problem]:
    """Shards without the tensors that rows look for there, or with others."""
    named = {shard.name for shard in manifest.shards}
    tables = [read[file.name] for file in manifest.tables if file.name in read]
    shards = {name: rows for name, rows in read.items() if name in named}
    for place in TENSOR_PLACES if tables else ():
        rows = pa.concat_tables(tables)
        for shard in sorted(set(pc.unique(rows[place.shard]).to_pylist()) - named):
            yield Problem(
                file=shard, kind="wrong", what="holds tensors, but is not in the manifest"
            )
        # A file that is not read is a problem already.
        readable = pc.is_in(rows[place.shard], value_set=pa.array(sorted(shards), pa.string()))
        lost = _rows_without_tensors(rows.filter(readable), place, shards)
        for shard in sorted(set(lost[place.shard].to_pylist())):
            ids = lost.filter(pc.equal(lost[place.shard], shard))[place.key]
            what = f"has not the tensors of {len(ids)} rows, as of {pc.min(ids).as_py()}"
            yield Problem(file=shard, kind="wrong", what=what)


def _rows_without_tensors(
    rows: pa.Table, place: TensorPlace, shards: dict[str, pa.Table]
) -> pa.Table:
    """The `rows` whose tensors are not in their shard with the digest that the row says."""
    parts = [schema(place).empty_table()]
    for name, tensors in shards.items():
        shard = pa.array([name] * tensors.num_rows, pa.string())
        ids, digests = (tensors[column] for column in IDS)
        parts.append(pa.table([shard, ids, digests], names=list(place)))
    expected, there = (
        pc.binary_join_element_wise(*(table[name] for name in place), "/")
        for table in (rows, pa.concat_tables(parts))
    )
    return rows.filter(pc.invert(pc.is_in(expected, value_set=there.combine_chunks())))


def _wrong_outcomes(store: ObjectStore, manifest: DatasetManifest) -> Iterator[Problem]:
    """Whether the table of outcomes is the manifest's, and adds up."""
    recorded, counts = (manifest.provenance.get(name) for name in ("outcomes", "counts"))
    if recorded is None or counts is None or not store.has(OUTCOMES):
        return
    problem = _other_content(store, OUTCOMES, recorded["sha256"])
    if problem is not None:
        yield problem
        return
    actual = count_outcomes(read_outcomes(store))
    stated = OutcomeCounts.model_validate(counts)
    if actual != stated:
        what = f"counts {_counts_text(stated)}, {OUTCOMES} has {_counts_text(actual)}"
        yield Problem(file=MANIFEST, kind="wrong", what=what)
    if actual.ok != manifest.rows:
        what = f"has {actual.ok} rows with outcome {OK}, {MANIFEST} has {manifest.rows} rows"
        yield Problem(file=OUTCOMES, kind="wrong", what=what)


def _counts_text(counts: OutcomeCounts) -> str:
    filtered, quarantined = sum(counts.filtered.values()), sum(counts.quarantined.values())
    return f"{counts.ok} ok, {filtered} filtered, {quarantined} quarantined of {counts.rows}"


def _damaged_log(store: ObjectStore, progress: Progress) -> Iterator[Problem]:
    """Parts of the log with another content than they are named after."""
    parts: list[StoredFile] = [part for log in log_parts(store).values() for part in log]
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
    reason = " ".join(str(error).split())[:200]
    return Problem(file=name, kind="unreadable", what=f"cannot be read: {reason}")


def _remove(
    store: ObjectStore, manifest: DatasetManifest, problems: list[Problem]
) -> tuple[str, ...]:
    """Remove damaged files, and the manifest if another run would find nothing to do."""
    removed = sorted({problem.file for problem in problems if problem.kind == "damaged"})
    in_log = {part.name for log in log_parts(store).values() for part in log}
    to_make = {p.file for p in problems if p.kind != "unreadable"} - in_log
    gone = {p.file for p in problems if p.kind in ("missing", "damaged")}
    noticed = manifest.kind == LATENTS_KIND and any(file.name in gone for file in manifest.files)
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
    if manifest.kind != LATENTS_KIND:
        return f"{first}run the same `omniforcing distill` again: it makes the trajectories anew"
    clips, preset = manifest.provenance.get("clips"), manifest.provenance.get("config", {})
    return (
        f"{first}run `omniforcing preprocess --clips {clips} --out {store.uri}` with the"
        f" configuration that made it (preset {preset.get('name')}; its settings are in {MANIFEST}"
        " under provenance.config): it makes what is missing"
    )
