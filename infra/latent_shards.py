"""Datasets of latents: Parquet shards, and a manifest that makes them a dataset.

    shards/<name>.parquet   rows; tensors are Arrow fixed_shape_tensor columns
    outcomes.parquet        what became of every input row (infra/outcome_table.py)
    manifest.json           written last: without it there is no dataset

Every row has a `row_id`, the digest of what it was made from, and a `row_digest`, the digest of
what it holds. A shard is named after its content and never changes; the dataset's digest is that
of its sorted row digests, whatever the order of the work and however many shards it took.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from infra.errors import DatasetError
from infra.object_store import ObjectStore
from omniforcing_model.config import FrozenConfig

MANIFEST = "manifest.json"
SHARDS = "shards"
SHARD_NAME = re.compile(rf"{SHARDS}/[0-9a-f]{{32}}\.parquet")
ROW_ID = "row_id"
ROW_DIGEST = "row_digest"
# A random row costs one row group: small enough to read at random, large enough to read fast.
ROW_GROUP_BYTES = 4 << 20
CACHE_BYTES = 512 << 20


class ShardRecord(FrozenConfig):
    """One shard of a dataset: its name below the dataset, and its content's size and digest."""

    name: str
    rows: int
    bytes: int
    sha256: str


class DatasetManifest(FrozenConfig):
    """What a dataset consists of, and in `provenance` what it was made from."""

    schema_version: Literal[1] = 1
    kind: str
    rows: int
    digest: str
    shards: tuple[ShardRecord, ...]
    provenance: dict[str, Any]


def write_shard(uri: str | Path, columns: Mapping[str, NDArray[Any]]) -> ShardRecord:
    """Write the rows of `columns` as one shard below the dataset `uri`.

    columns: `row_id` (rows,) strings, other strings or flags (rows,), tensors (rows, ...). Adds
    `row_digest`. The same rows give the same file, so a repeated call changes nothing.
    """
    arrays = dict(columns) | {ROW_DIGEST: np.array(row_digests(columns), dtype=object)}
    return _write_table(
        ObjectStore(uri), pa.table({name: _arrow_array(values) for name, values in arrays.items()})
    )


def is_shard_name(name: str) -> bool:
    """Whether `name` is one that `write_shard` gives."""
    return SHARD_NAME.fullmatch(name) is not None


def shard_record(store: ObjectStore, name: str, rows: int) -> ShardRecord:
    """The record of a shard of `rows` rows that is there already."""
    size = next(file.size for file in store.list(SHARDS) if file.name == name)
    return ShardRecord(name=name, rows=rows, bytes=size, sha256=store.digest(name))


def shard_without(store: ObjectStore, name: str, row_ids: Collection[str]) -> ShardRecord:
    """Write the shard `name` again without the rows called `row_ids`; DatasetError if damaged."""
    try:
        with store.open(name) as source:
            table = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(store, name, error) from error
    ids = table.column(ROW_ID).to_pylist()
    return _write_table(store, table.take([i for i, row in enumerate(ids) if row not in row_ids]))


def _write_table(store: ObjectStore, table: pa.Table) -> ShardRecord:
    row_bytes = max(1, table.nbytes // max(1, table.num_rows))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, ROW_GROUP_BYTES // row_bytes),
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    content = sink.getvalue().to_pybytes()
    sha256 = hashlib.sha256(content).hexdigest()
    record = ShardRecord(
        name=f"{SHARDS}/{sha256[:32]}.parquet",
        rows=table.num_rows,
        bytes=len(content),
        sha256=f"sha256:{sha256}",
    )
    if not store.has(record.name):
        store.write(record.name, content)
    return record


def row_digests(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """`sha256:...` of each row of `columns`: every name, type, shape and value of it.

    Where a row came from (`clip_uri`) is left out: a moved clip is the same data.
    """
    names = sorted(name for name in columns if name not in ("clip_uri", ROW_DIGEST))
    digests = []
    for row in range(len(columns[ROW_ID])):
        sha256 = hashlib.sha256()
        for name in names:
            value = columns[name][row]
            if isinstance(value, np.ndarray):
                sha256.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
                sha256.update(np.ascontiguousarray(value).tobytes())
            else:
                sha256.update(f"{name} {json.dumps(_plain(value))}\n".encode())
        digests.append(f"sha256:{sha256.hexdigest()}")
    return digests


def dataset_digest(digests: Iterable[str]) -> str:
    """Digest of a dataset from its row digests, in any order."""
    return "sha256:" + hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def commit(
    uri: str | Path, kind: str, shards: Sequence[ShardRecord], provenance: dict[str, Any]
) -> DatasetManifest:
    """Write the manifest that makes `shards` the dataset at `uri`; replaces an older one at once.

    Raises DatasetError if two rows have the same id.
    """
    store = ObjectStore(uri)
    rows = [row for shard in shards for row in shard_rows(store, shard.name, (ROW_ID, ROW_DIGEST))]
    if len({row[ROW_ID] for row in rows}) != len(rows):
        raise DatasetError(
            f"expected {len(rows)} rows with different ids in {store.uri}, got repetitions; write"
            " each row into one shard"
        )
    manifest = DatasetManifest(
        kind=kind,
        rows=len(rows),
        digest=dataset_digest(row[ROW_DIGEST] for row in rows),
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
        provenance=provenance,
    )
    store.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def shard_rows(store: ObjectStore, name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The plain (not tensor) `columns` of every row of a shard; DatasetError if it is damaged."""
    try:
        with store.open(name) as source:
            rows: list[dict[str, Any]] = pq.read_table(source, columns=list(columns)).to_pylist()
            return rows
    except (OSError, pa.ArrowException) as error:
        raise _damaged(store, name, error) from error


def read_manifest(store: ObjectStore) -> DatasetManifest | None:
    """The manifest of the dataset in `store`, None if there is none.

    DatasetError if it is damaged or of another schema.
    """
    if not store.has(MANIFEST):
        return None
    text = store.read(MANIFEST)
    try:
        return DatasetManifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DatasetError(
            f"expected a manifest of schema version 1 in {store.uri}, got {where}:"
            f" {problem['msg']}; make the dataset again"
        ) from error


class _RowPlace(NamedTuple):
    shard: str
    group: int
    row: int


class LatentTable:
    """A committed dataset, read by row number.

    Rows are numbered in the order of their ids, so a number means the same clip however the shards
    were written. Row groups are kept in memory up to a limit.
    """

    def __init__(self, store: ObjectStore, manifest: DatasetManifest, cache_bytes: int) -> None:
        """Index the rows of `manifest`; use `open`."""
        self.manifest = manifest
        self._store = store
        self._cache_bytes = cache_bytes
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._held_bytes = 0
        self._files: dict[str, pq.ParquetFile] = {}
        places: list[tuple[str, _RowPlace]] = []
        for shard in manifest.shards:
            file = self._file(shard.name)
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=[ROW_ID]).column(ROW_ID).to_pylist()
                places += [(i, _RowPlace(shard.name, group, row)) for row, i in enumerate(ids)]
        self._places = [place for _, place in sorted(places)]

    @classmethod
    def open(cls, uri: str | Path, *, cache_bytes: int = CACHE_BYTES) -> "LatentTable":
        """Open the dataset at `uri`.

        DatasetError if there is none, a shard is missing or of another size, or it has no rows.
        """
        store = ObjectStore(uri)
        manifest = read_manifest(store)
        if manifest is None:
            raise DatasetError(
                f"expected a dataset in {store.uri}, found no {MANIFEST}; make one with"
                " `omniforcing preprocess`, or wait until it has finished"
            )
        problem = missing_shard(store, manifest)
        if problem is not None:
            raise DatasetError(
                f"expected every shard of {store.uri}, got {problem}; make the dataset again"
            )
        if manifest.rows == 0:
            raise DatasetError(
                f"expected clips in {store.uri}, found a dataset of 0 rows; outcomes.parquet there"
                " says what became of each clip"
            )
        return cls(store, manifest, cache_bytes)

    @property
    def uri(self) -> str:
        """Where the dataset is."""
        return self._store.uri

    @property
    def rows(self) -> int:
        """Number of clips."""
        return self.manifest.rows

    @property
    def digest(self) -> str:
        """`sha256:...` of the rows' content."""
        return self.manifest.digest

    def read(
        self, indices: Sequence[int] | NDArray[np.int64], columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The rows numbered `indices`, in that order; every column, or only `columns`.

        Tensors come as fresh arrays (len(indices), ...), strings as arrays of objects. DatasetError
        if a shard is damaged or gone, IndexError for a number outside 0 .. rows - 1.
        """
        wanted = [int(index) for index in indices]
        if any(not 0 <= index < self.rows for index in wanted):
            raise IndexError(f"expected row numbers 0 .. {self.rows - 1}, got {wanted}")
        parts: list[dict[str, Any]] = []
        for index in wanted:
            place = self._places[index]
            table = self._group(place.shard, place.group)
            names = table.column_names if columns is None else columns
            parts.append({n: _row_value(table.column(n), place.row) for n in names})
        names = list(parts[0]) if parts else []
        return {name: _stacked([part[name] for part in parts]) for name in names}

    def _group(self, shard: str, group: int) -> pa.Table:
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        try:
            table = self._file(shard).read_row_group(group).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self._store, shard, error) from error
        self._groups[key] = table
        self._held_bytes += table.nbytes
        while len(self._groups) > 1 and self._held_bytes > self._cache_bytes:
            self._held_bytes -= self._groups.popitem(last=False)[1].nbytes
        return table

    def _file(self, shard: str) -> pq.ParquetFile:
        if shard not in self._files:
            try:
                self._files[shard] = pq.ParquetFile(self._store.open(shard))
            except (OSError, pa.ArrowException) as error:
                raise _damaged(self._store, shard, error) from error
        return self._files[shard]


def missing_shard(store: ObjectStore, manifest: DatasetManifest) -> str | None:
    """What is wrong with the first shard that is absent or of another size; None if none is."""
    sizes = {file.name: file.size for file in store.list(SHARDS)}
    for shard in manifest.shards:
        if shard.name not in sizes:
            return f"no {shard.name}"
        if sizes[shard.name] != shard.bytes:
            return f"{sizes[shard.name]} bytes instead of {shard.bytes} in {shard.name}"
    return None


def shuffled_indices(seed: int, step: int, batch: int, rows: int) -> NDArray[np.int64]:
    """Row numbers of the global batch of `step` (from 0), (batch,).

    Every epoch is a new permutation of all rows; a batch may span epochs. Depends on nothing else,
    so the position in the data is the step, and any number of workers sees the same clips.
    """
    positions = step * batch + np.arange(batch, dtype=np.int64)
    epochs, places = np.divmod(positions, rows)
    return np.array(
        [_permutation(seed, int(e), rows)[p] for e, p in zip(epochs, places, strict=True)], np.int64
    )


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    # The raw bits of PCG64 are fixed for ever; Generator.permutation may change with NumPy.
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(rows)
    return np.argsort(bits, kind="stable")


def _arrow_array(values: NDArray[Any]) -> pa.Array:
    if values.ndim > 1:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    return pa.array([_plain(value) for value in values])


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _row_value(column: pa.ChunkedArray, row: int) -> Any:
    scalar = column[row]
    if isinstance(column.type, pa.FixedShapeTensorType):
        return scalar.to_numpy()
    return scalar.as_py()


def _stacked(values: list[Any]) -> NDArray[Any]:
    if isinstance(values[0], np.ndarray):
        return np.stack(values)
    return np.array(values, dtype=object if isinstance(values[0], str) else None)


def _damaged(store: ObjectStore, name: str, error: Exception) -> DatasetError:
    reason = " ".join(str(error).split())[:200]
    return DatasetError(
        f"expected a readable shard {name} in {store.uri}, got: {reason}; make the dataset again"
    )
