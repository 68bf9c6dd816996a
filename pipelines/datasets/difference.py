"""In what two datasets differ: rows that only one has, rows that changed, and their recipes."""

from collections import Counter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.columns import DATASET_ROW, IDS, NOT_CONTENT, Column, Folder, schema
from infra.dataset.manifest import DatasetManifest
from infra.dataset.shards import read_columns
from infra.errors import ConfigError
from infra.records import Record
from infra.storage.object_store import ObjectStore
from pipelines.datasets.files import finished_manifest
from pipelines.datasets.recipe_words import RecipeDifference, recipe_differences

Row = dict[str, Any]
# How a column of the row table is called here; the others have their own names.
PARTS = {Column.LATENTS_DIGEST: Folder.LATENTS, Column.TEXT_DIGEST: Folder.TEXT}
# A changed row is what became of the same moment of the same clip.
MOMENT = (Column.CLIP_DIGEST, Column.START_S)
CONTENT = "content"


class ComparedDataset(Record):
    """One of two datasets."""

    dataset: str
    digest: str
    rows: int
    commit: str


class ComparedRow(Record):
    """A row that only one dataset has; clip and time are empty where rows do not say them."""

    row_id: str
    clip_uri: str
    start_s: float


class ChangedRow(Record):
    """A row that is another one in the second dataset, and in what: caption, latents, text ..."""

    row_id_a: str
    row_id_b: str
    clip_uri: str
    start_s: float
    differs: tuple[str, ...]


class DatasetDifference(Record):
    """What distinguishes dataset `b` from `a`; `same` if their content is equal.

    `same_id` counts changed rows that have one id: their sources and recipe are the same, and yet
    other bytes came out. `only_in_a`, `only_in_b`, `changed` and `unchanged` count rows;
    `changed_parts` counts the changed ones by what differs. The tuples hold the first of them.
    """

    a: ComparedDataset
    b: ComparedDataset
    same: bool
    unchanged: int
    only_in_a: int
    only_in_b: int
    changed: int
    same_id: int
    changed_parts: dict[str, int]
    recipe: tuple[RecipeDifference, ...]
    rows_only_in_a: tuple[ComparedRow, ...]
    rows_only_in_b: tuple[ComparedRow, ...]
    rows_changed: tuple[ChangedRow, ...]


class _Pair(NamedTuple):
    a: Row
    b: Row


class _Matches(NamedTuple):
    pairs: list[_Pair]
    left: list[Row]
    right: list[Row]


def difference(uri_a: str, uri_b: str, limit: int = 20) -> DatasetDifference:
    """Compare the datasets at `uri_a` and `uri_b`; reads no tensors.

    Rows are matched by id, then by clip and start. Latents and text count as changed when they
    were made anew by another recipe, whose keys are listed, even if the same came out.

    limit: how many rows of each sort to name.

    Raises:
        DatasetError: one of them is not there, not finished or damaged.
        ConfigError: they are of different kinds.
    """
    stores = ObjectStore(uri_a), ObjectStore(uri_b)
    a, b = (finished_manifest(store) for store in stores)
    if a.kind != b.kind:
        raise ConfigError(
            f"expected two datasets of one kind, got {a.kind} in {stores[0].uri} and {b.kind} in"
            f" {stores[1].uri}; compare others"
        )
    rows_a, rows_b = (
        _rows(store, manifest) for store, manifest in zip(stores, (a, b), strict=True)
    )
    left, right = _rows_besides(rows_a, rows_b), _rows_besides(rows_b, rows_a)
    by_id = _match(left, right, (Column.ROW_ID,))
    by_moment = _match(by_id.left, by_id.right, MOMENT)
    changed = sorted([*by_id.pairs, *by_moment.pairs], key=lambda pair: _place(pair.a))
    parts = Counter(part for pair in changed for part in _parts_that_differ(pair))
    return DatasetDifference(
        a=_compare(stores[0], a),
        b=_compare(stores[1], b),
        same=a.digest == b.digest,
        unchanged=rows_a.num_rows - len(left),
        only_in_a=len(by_moment.left),
        only_in_b=len(by_moment.right),
        changed=len(changed),
        same_id=len(by_id.pairs),
        changed_parts=dict(sorted(parts.items())),
        recipe=recipe_differences(_recipe(a), _recipe(b)),
        rows_only_in_a=_compared_rows(by_moment.left, limit),
        rows_only_in_b=_compared_rows(by_moment.right, limit),
        rows_changed=tuple(_changed_row(pair) for pair in changed[:limit]),
    )


def _rows(store: ObjectStore, manifest: DatasetManifest) -> pa.Table:
    """The rows of a dataset without tensors; where rows hold these, their ids and digests."""
    columns = (*DATASET_ROW, Column.ROW_DIGEST) if manifest.tables else IDS
    files = manifest.tables or manifest.shards
    parts = [read_columns(store, file.name, columns) for file in files]
    return pa.concat_tables(parts or [schema(IDS).empty_table()]).combine_chunks()


def _rows_besides(rows: pa.Table, others: pa.Table) -> list[Row]:
    """The rows whose content is not among `others`."""
    known = pc.is_in(rows[Column.ROW_DIGEST], value_set=others[Column.ROW_DIGEST].combine_chunks())
    unknown: list[Row] = rows.filter(pc.invert(known)).to_pylist()
    return sorted(unknown, key=_place)


def _match(left: list[Row], right: list[Row], by: tuple[str, ...]) -> _Matches:
    """Pairs of rows that are equal in the columns `by`, and the rest of both lists."""
    waiting = {
        tuple(row[name] for name in by): number
        for number, row in enumerate(right)
        if all(name in row for name in by)
    }
    pairs, rest, taken = [], [], set()
    for row in left:
        number = waiting.pop(tuple(row.get(name) for name in by), None)
        if number is None:
            rest.append(row)
        else:
            taken.add(number)
            pairs.append(_Pair(row, right[number]))
    return _Matches(pairs, rest, [row for n, row in enumerate(right) if n not in taken])


def _parts_that_differ(pair: _Pair) -> tuple[str, ...]:
    names = [name for name in pair.a if name not in (Column.ROW_ID, *NOT_CONTENT)]
    differing = [PARTS.get(name, name) for name in names if pair.a[name] != pair.b.get(name)]
    return tuple(sorted(differing)) or (CONTENT,)


def _place(row: Row) -> tuple[str, float, str, str]:
    """What rows are sorted by: clip and start, then caption and id."""
    return *_moment(row), row.get(Column.CAPTION_RAW, ""), row[Column.ROW_ID]


def _moment(row: Row) -> tuple[str, float]:
    return row.get(Column.CLIP_URI, ""), row.get(Column.START_S, 0.0)


def _compare(store: ObjectStore, manifest: DatasetManifest) -> ComparedDataset:
    return ComparedDataset(
        dataset=store.uri,
        digest=manifest.digest,
        rows=manifest.rows,
        commit=manifest.provenance.get("commit") or "unknown",
    )


def _compared_rows(rows: list[Row], limit: int) -> tuple[ComparedRow, ...]:
    moments = [(row[Column.ROW_ID], *_moment(row)) for row in rows[:limit]]
    return tuple(
        ComparedRow(row_id=row_id, clip_uri=clip_uri, start_s=start_s)
        for row_id, clip_uri, start_s in moments
    )


def _changed_row(pair: _Pair) -> ChangedRow:
    clip_uri, start_s = _moment(pair.b)
    return ChangedRow(
        row_id_a=pair.a[Column.ROW_ID],
        row_id_b=pair.b[Column.ROW_ID],
        clip_uri=clip_uri,
        start_s=start_s,
        differs=_parts_that_differ(pair),
    )


def _recipe(manifest: DatasetManifest) -> dict[str, Any]:
    recipe: dict[str, Any] = manifest.provenance.get("recipe", {})
    return recipe
