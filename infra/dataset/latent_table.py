"""A committed dataset, read by row number: what training draws its batches from."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.config import FrameSize
from infra.dataset.columns import SIZE, TENSOR_PLACES, Column
from infra.dataset.manifest import MANIFEST, DatasetManifest, missing_file, read_manifest
from infra.dataset.shards import damaged, read_columns, tensor_column
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore

CACHE_BYTES = 512 << 20
# Added to the index: the file that a row stands in.
OWN_FILE = "own_file"
# In which files tensors are is of no use to a reader.
HIDDEN = {column for place in TENSOR_PLACES for column in place}


class _Place(NamedTuple):
    group: int
    row: int


class LatentTable:
    """Rows are numbered in the order of their ids, so a number means the same clip however the
    files were written. Row groups are kept in memory up to a limit."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: DatasetManifest,
        cache_bytes: int,
        size: FrameSize | None,
    ) -> None:
        """Index the rows of `manifest`; use `open`."""
        self.manifest = manifest
        self._store = store
        self._cache_bytes = cache_bytes
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._held_bytes = 0
        self._files: dict[str, pq.ParquetFile] = {}
        self._places: dict[str, dict[str, _Place]] = {}
        joined = [(place.shard, place.key) for place in TENSOR_PLACES if manifest.tables]
        self._sources = [(OWN_FILE, Column.ROW_ID), *joined]
        columns = [Column.ROW_ID, *(name for pair in joined for name in pair)]
        # Only a dataset with a table of rows knows their sizes.
        one_size = size if manifest.tables else None
        columns += SIZE if one_size else ()
        parts = []
        for file in manifest.tables or manifest.shards:
            part = read_columns(store, file.name, columns)
            own = pa.array([file.name] * part.num_rows, pa.string())
            parts.append(part.append_column(OWN_FILE, own))
        index = pa.concat_tables(parts)
        if one_size:
            index = _rows_of_size(index, one_size, store)
        self._index = index.take(pc.sort_indices(index[Column.ROW_ID])).combine_chunks()

    @classmethod
    def open(
        cls, uri: str | Path, *, cache_bytes: int = CACHE_BYTES, size: FrameSize | None = None
    ) -> "LatentTable":
        """Open the dataset at `uri`.

        size: of the pictures; rows of other sizes are left out. None: all rows.
        DatasetError if there is none, a shard is missing or has other bytes, or there are no rows.
        """
        store = ObjectStore(uri)
        manifest = read_manifest(store)
        if manifest is None:
            raise DatasetError(
                f"expected a dataset in {store.uri}, got no {MANIFEST}; make one with"
                " `omniforcing preprocess`, or wait until it has finished"
            )
        problem = missing_file(store, manifest)
        if problem is not None:
            raise DatasetError(
                f"expected every shard of {store.uri}, got {problem}; make the dataset again"
            )
        if manifest.rows == 0:
            raise DatasetError(
                f"expected clips in {store.uri}, got a dataset of 0 rows; outcomes.parquet there"
                " says what became of each clip"
            )
        return cls(store, manifest, cache_bytes, size)

    @property
    def uri(self) -> str:
        """Where the dataset is."""
        return self._store.uri

    @property
    def rows(self) -> int:
        """Number of clips."""
        return int(self._index.num_rows)

    @property
    def digest(self) -> str:
        """`sha256:...` of the rows' content."""
        return self.manifest.digest

    def read(
        self, indices: Sequence[int] | NDArray[np.int64], columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The rows numbered `indices`, in that order; every column, or only `columns`.

        Tensors come as fresh arrays (len(indices), ...), or as an array of arrays where their
        shapes differ; strings as arrays of objects. DatasetError if a shard is damaged or gone,
        IndexError for a number outside 0 .. rows - 1.
        """
        numbers = [int(index) for index in indices]
        if any(not 0 <= number < self.rows for number in numbers):
            raise IndexError(f"expected row numbers 0 .. {self.rows - 1}, got {numbers}")
        parts = [dict(self._values(number, columns)) for number in numbers]
        names = list(parts[0]) if parts else []
        return {name: _stack([part[name] for part in parts]) for name in names}

    def _values(self, index: int, columns: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
        for file_column, key_column in self._sources:
            shard = self._index[file_column][index].as_py()
            hidden = HIDDEN if file_column == OWN_FILE else {Column.ROW_ID, Column.ROW_DIGEST}
            names = [
                name
                for name in self._file(shard).schema_arrow.names
                if name not in hidden and (columns is None or name in columns)
            ]
            if not names:
                continue
            group, row = self._place(shard, self._index[key_column][index].as_py())
            table = self._group(shard, group)
            yield from ((name, _row_value(table.column(name), row)) for name in names)

    def _place(self, shard: str, key: str) -> _Place:
        if shard not in self._places:
            file = self._file(shard)
            self._places[shard] = {
                row_id: _Place(group, row)
                for group in range(file.num_row_groups)
                for row, row_id in enumerate(
                    file.read_row_group(group, columns=[Column.ROW_ID])[Column.ROW_ID].to_pylist()
                )
            }
        return self._places[shard][key]

    def _group(self, shard: str, group: int) -> pa.Table:
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        try:
            table = self._file(shard).read_row_group(group).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._store, shard, error) from error
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
                raise damaged(self._store, shard, error) from error
        return self._files[shard]


def _rows_of_size(index: pa.Table, size: FrameSize, store: ObjectStore) -> pa.Table:
    height, width = (index[name] for name in SIZE)
    rows = index.filter(pc.and_(pc.equal(height, size.height), pc.equal(width, size.width)))
    if not rows.num_rows:
        sizes = sorted(set(zip(*(index[name].to_pylist() for name in SIZE), strict=True)))
        others = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise DatasetError(
            f"expected clips of {size.height} x {size.width} in {store.uri}, got {others}; set"
            " data.height and data.width to one of these, or make the dataset again"
        )
    return rows


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


def _row_value(column: pa.ChunkedArray, row: int) -> Any:
    scalar = column[row]
    if isinstance(column.type, pa.FixedShapeTensorType):
        return scalar.to_numpy()
    return scalar.as_py()


def _stack(values: list[Any]) -> NDArray[Any]:
    if isinstance(values[0], np.ndarray):
        return tensor_column(values)
    return np.array(values, dtype=object if isinstance(values[0], str) else None)
