"""A committed dataset, read by row number: what training draws its batches from."""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.config import FrameSize
from infra.dataset.columns import DATASET_ROW, IDS, SIZE, TENSOR_PLACES, TENSORS_OF, Column
from infra.dataset.manifest import MANIFEST, DatasetManifest, missing_file, read_manifest
from infra.dataset.shard_reader import ShardReader
from infra.dataset.shards import read_columns, read_whole, tensor_column
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore

CACHE_BYTES = 512 << 20
# Added to the index: the file that a row stands in.
OWN_FILE = "own_file"
# Where a row stands.
OWN = (OWN_FILE, Column.ROW_ID)
# In which files tensors are is of no use to a reader.
HIDDEN = {column for place in TENSOR_PLACES for column in place}
# By the column of a place's file, what is in no such file: it is not opened for these.
ELSEWHERE = {
    place.shard: {*IDS, *DATASET_ROW}.union(*(TENSORS_OF[p] for p in TENSOR_PLACES if p != place))
    for place in TENSOR_PLACES
}


class LatentTable:
    """Rows are numbered in the order of their ids, so a number means the same clip however the
    files were written. Row groups are kept in memory up to a limit."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: DatasetManifest,
        cache_bytes: int,
        sizes: Sequence[FrameSize],
        exclude: Collection[str],
    ) -> None:
        """Index the rows of `manifest`; use `open`."""
        self.manifest = manifest
        self._store = store
        self._shards = ShardReader(store, cache_bytes)
        joined = [(place.shard, place.key) for place in TENSOR_PLACES if manifest.tables]
        self._sources = [OWN, *joined]
        # Where tensors are in files of their own, a row states what its text is; else what it is.
        self._text_digest = Column.TEXT_DIGEST if manifest.tables else Column.ROW_DIGEST
        columns = [Column.ROW_ID, *(name for pair in joined for name in pair)]
        self._sizes = tuple(dict.fromkeys(sizes))
        self._sized = bool(sizes) and self._states_sizes()
        columns += SIZE if self._sized else ()
        columns += [Column.CLIP_URI] if exclude else []
        parts = []
        for file in manifest.tables or manifest.shards:
            # Rows of a table lead to tensors: there no digest would tell that it is the wrong way.
            part = (
                read_whole(store, file, columns)
                if manifest.tables
                else read_columns(store, file.name, columns)
            )
            own = pa.array([file.name] * part.num_rows, pa.string())
            parts.append(part.append_column(OWN_FILE, own))
        index = pa.concat_tables(parts)
        if self._sized:
            index = _rows_of_sizes(index, self._sizes, store)
        if exclude:
            index = _without(index, exclude, store)
        self._index = index.take(pc.sort_indices(index[Column.ROW_ID])).combine_chunks()

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        cache_bytes: int = CACHE_BYTES,
        sizes: Sequence[FrameSize] = (),
        exclude: Collection[str] = (),
    ) -> "LatentTable":
        """Open the dataset at `uri`.

        sizes: of the pictures; rows of other sizes are left out. Where none are given, or rows do
        not state theirs: all rows.
        exclude: ids of rows, or URIs of clips, that are left out.
        DatasetError if there is none, a shard is missing or has other bytes, there are no rows, or
        none that `exclude` names.
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
        return cls(store, manifest, cache_bytes, sizes, exclude)

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

    @property
    def rows_of_sizes(self) -> dict[FrameSize, NDArray[np.int64]]:
        """Numbers of the rows of each of the sizes that the table was opened with, in order.

        Rows that do not state their size have the first of them.
        """
        if not self._sized:
            none = np.empty(0, np.int64)
            of_first = dict.fromkeys(self._sizes[:1], np.arange(self.rows))
            return dict.fromkeys(self._sizes, none) | of_first
        return {size: np.flatnonzero(_is_of_size(self._index, size)) for size in self._sizes}

    def read(
        self, indices: Sequence[int] | NDArray[np.int64], columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The rows numbered `indices`, in that order; every column, or only `columns`.

        Tensors come as fresh arrays (len(indices), ...), or as an array of arrays where their
        shapes differ; strings as arrays of objects. IndexError for a number outside 0 .. rows - 1,
        DatasetError if a shard is damaged or gone, or holds numbers that are not finite: it names
        row and clip.
        """
        numbers = [int(index) for index in indices]
        if any(not 0 <= number < self.rows for number in numbers):
            raise IndexError(f"expected row numbers 0 .. {self.rows - 1}, got {numbers}")
        parts = [dict(self._values(number, columns)) for number in numbers]
        names = list(parts[0]) if parts else []
        return {name: _stack([part[name] for part in parts]) for name in names}

    def find(self, row_ids: Sequence[str] | NDArray[Any]) -> NDArray[np.int64]:
        """The numbers of the rows of these ids; DatasetError if there is none of one of them."""
        ids = self._index[Column.ROW_ID]
        numbers = [bisect_left(range(self.rows), i, key=lambda n: ids[n].as_py()) for i in row_ids]
        for number, row_id in zip(numbers, row_ids, strict=True):
            if number == self.rows or ids[number].as_py() != row_id:
                raise DatasetError(
                    f"expected a row {row_id} in {self.uri}, got none; name the dataset that was"
                    " there when rows of it were taken, or take them again"
                )
        return np.array(numbers, np.int64)

    def text_digests(self, indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """What tells whether the text features of these rows are still the same, by row."""
        places = ((self._index[name][int(index)].as_py() for name in OWN) for index in indices)
        return [str(self._shards.row(*place)[self._text_digest]) for place in places]

    def _values(self, index: int, columns: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
        for file_column, key_column in self._sources:
            if columns is not None and ELSEWHERE.get(file_column, set()).issuperset(columns):
                continue
            shard = self._index[file_column][index].as_py()
            hidden = HIDDEN if file_column == OWN_FILE else {Column.ROW_ID, Column.ROW_DIGEST}
            names = [
                name
                for name in self._shards.columns(shard)
                if name not in hidden and (columns is None or name in columns)
            ]
            if not names:
                continue
            row = self._shards.row(shard, self._index[key_column][index].as_py())
            for name in names:
                yield name, self._require_finite(row[name], index, name, shard)

    def _states_sizes(self) -> bool:
        """Whether rows state the size of their pictures; all files have the same columns."""
        manifest = self.manifest
        return bool(manifest.tables) or set(SIZE) <= {
            *self._shards.columns(manifest.shards[0].name)
        }

    def _require_finite(self, value: Any, index: int, name: str, shard: str) -> Any:
        is_number = isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
        if is_number and not np.isfinite(value).all():
            row_id = self._index[Column.ROW_ID][index].as_py()
            raise DatasetError(
                f"expected finite numbers in {name} of {self.describe(index)}, got NaN or infinity"
                f" in {shard} of {self.uri}; leave it out with --set data.exclude=[{row_id}], or"
                " make the dataset again"
            )
        return value

    def describe(self, index: int) -> str:
        """Row `index` for a message: its id, and its clip where the dataset knows it."""
        row_id, file = (self._index[name][index].as_py() for name in (Column.ROW_ID, OWN_FILE))
        if Column.CLIP_URI not in self._shards.columns(file):
            return f"row {row_id}"
        return f"row {row_id}, clip {self._shards.row(file, row_id)[Column.CLIP_URI]}"


def _is_of_size(index: pa.Table, size: FrameSize) -> NDArray[np.bool_]:
    height, width = (index[name].to_numpy() for name in SIZE)
    of_size: NDArray[np.bool_] = (height == size.height) & (width == size.width)
    return of_size


def _rows_of_sizes(index: pa.Table, sizes: Sequence[FrameSize], store: ObjectStore) -> pa.Table:
    wanted = np.logical_or.reduce([_is_of_size(index, size) for size in sizes])
    if not wanted.any():
        found = sorted(set(zip(*(index[name].to_pylist() for name in SIZE), strict=True)))
        expected = " or ".join(f"{size.height} x {size.width}" for size in sizes)
        others = ", ".join(f"{height} x {width}" for height, width in found)
        raise DatasetError(
            f"expected clips of {expected} in {store.uri}, got {others}; set data.height and"
            " data.width, or data.buckets, to some of these, or make the dataset again"
        )
    return index.filter(pa.array(wanted))


def _without(index: pa.Table, exclude: Collection[str], store: ObjectStore) -> pa.Table:
    names = pa.array(sorted(exclude), pa.string())
    ids, clips = index[Column.ROW_ID], index[Column.CLIP_URI]
    there = pc.or_(pc.is_in(names, value_set=ids), pc.is_in(names, value_set=clips))
    if not pc.all(there).as_py():
        unknown = ", ".join(names.filter(pc.invert(there)).to_pylist())
        raise DatasetError(
            f"expected data.exclude to name rows or clips of {store.uri}, got {unknown}; name ids"
            " of rows or URIs of clips, as `omniforcing dataset show` has them"
        )
    left_out = pc.or_(pc.is_in(ids, value_set=names), pc.is_in(clips, value_set=names))
    rows = index.filter(pc.invert(left_out))
    if not rows.num_rows:
        raise DatasetError(
            f"expected rows of {store.uri} besides those of data.exclude, got none; name fewer"
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


# Two epochs of each of some sizes of picture, whose rows are taken in turns.
@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    # The raw bits of PCG64 are fixed for ever; Generator.permutation may change with NumPy.
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(rows)
    return np.argsort(bits, kind="stable")


def _stack(values: list[Any]) -> NDArray[Any]:
    if isinstance(values[0], np.ndarray):
        return tensor_column(values)
    return np.array(values, dtype=object if isinstance(values[0], str) else None)
