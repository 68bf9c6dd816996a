"""Parquet files of rows, named after their content: what every dataset is made of.

Tensors are Arrow fixed_shape_tensor columns. Every row has a `row_id`, the digest of its
sources, and a `row_digest`, the digest of its content. A file never changes; writing the same rows
again changes nothing.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.dataset.columns import NOT_CONTENT, Column, Folder
from infra.errors import DatasetError, StoreError
from infra.machine_faults import machine_fault
from infra.records import Record
from infra.storage.object_store import ObjectStore

SUFFIX = ".parquet"
# A random row costs one row group: small enough to read at random, large enough to read fast.
ROW_GROUP_BYTES = 4 << 20


class ShardRecord(Record):
    """One file of a dataset: its name below the dataset, and its content's size and digest."""

    name: str
    rows: int
    bytes: int
    sha256: str


def write_shard(
    uri: str | Path, columns: Mapping[str, NDArray[Any]], folder: str = Folder.SHARDS
) -> ShardRecord:
    """Write the rows of `columns` as one file in `folder` of the dataset `uri`.

    columns: `row_id` (rows,) strings, other strings or flags (rows,), tensors (rows, ...). Adds
    `row_digest`. The same rows give the same file, so a repeated call changes nothing.
    """
    arrays = dict(columns) | {Column.ROW_DIGEST: np.array(row_digests(columns), dtype=object)}
    table = pa.table({name: _arrow_array(values) for name, values in arrays.items()})
    return write_table(ObjectStore(uri), table, folder)


def write_table(store: ObjectStore, table: pa.Table, folder: str) -> ShardRecord:
    """Write `table` as a file in `folder` that is named after its content."""
    content = _content_of(table)
    sha256 = hashlib.sha256(content).hexdigest()
    record = ShardRecord(
        name=f"{folder}/{sha256}{SUFFIX}",
        rows=table.num_rows,
        bytes=len(content),
        sha256=f"sha256:{sha256}",
    )
    if not store.has(record.name):
        store.write(record.name, content)
    return record


def _content_of(table: pa.Table) -> bytes:
    """The bytes of a file of these rows, once: Arrow's own buffer would be doubled and copied."""
    row_bytes = max(1, table.nbytes // max(1, table.num_rows))
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, ROW_GROUP_BYTES // row_bytes),
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return sink.getvalue()


def content_digest(name: str) -> str:
    """The `sha256:...` of the content of the file `name`, which it is named after."""
    return f"sha256:{name.rpartition('/')[2].removesuffix(SUFFIX)}"


def row_digests(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> list[str]:
    """`sha256:...` of each row of `columns`: every name, type, shape and value of it.

    Where a row came from is left out (`NOT_CONTENT`): a moved clip is the same data.
    """
    names = sorted(name for name in columns if name not in NOT_CONTENT)
    digests = []
    for row in range(len(columns[Column.ROW_ID])):
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


def tensor_column(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The tensors of some rows as one array (rows, ...); as an array of arrays if shapes differ."""
    if len({value.shape for value in values}) == 1:
        return np.stack(values)
    column = np.empty(len(values), object)
    column[:] = values
    return column


def shard_rows(store: ObjectStore, name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The plain (not tensor) `columns` of every row of a file; DatasetError if it is damaged."""
    rows: list[dict[str, Any]] = read_columns(store, name, columns).to_pylist()
    return rows


def read_columns(store: ObjectStore, name: str, columns: Sequence[str] | None) -> pa.Table:
    """Some columns of a file, or all; DatasetError if it is damaged or gone.

    The pages of these columns are compared with their checksums; see `read_whole`.
    """
    try:
        with store.open(name) as source:
            return _table(source, columns)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store, name, error) from error


def read_whole(store: ObjectStore, file: ShardRecord, columns: Sequence[str] | None) -> pa.Table:
    """As `read_columns`, after every byte of the file is compared with its digest: where nothing
    else tells later that a name or a number has changed."""
    try:
        content = store.read(file.name)
        if (digest := f"sha256:{hashlib.sha256(content).hexdigest()}") != file.sha256:
            raise damaged(store, file.name, f"the content {digest} instead of {file.sha256}")
        return _table(pa.BufferReader(content), columns)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store, file.name, error) from error


def damaged(store: ObjectStore, name: str, reason: Exception | str) -> DatasetError:
    """The error for a file that cannot be read; raises StoreError or MachineError where no bits are
    to blame."""
    if isinstance(reason, Exception):
        if isinstance(reason, StoreError):
            raise reason
        if (fault := machine_fault(reason, f"{store.uri}/{name}")) is not None:
            raise fault from reason
        if isinstance(reason, FileNotFoundError):
            store.expect_folder_of(name)
    number = getattr(reason, "errno", None)
    text = f"{os.strerror(number)}: {reason}" if number else str(reason)
    text = " ".join(text.split())[:200]
    return DatasetError(
        f"expected a readable shard {name} in {store.uri}, got: {text}; look with `omniforcing"
        " dataset verify`, and make the dataset again"
    )


def _table(source: Any, columns: Sequence[str] | None) -> pa.Table:
    names = None if columns is None else list(columns)
    return pq.read_table(source, columns=names, page_checksum_verification=True)


def _arrow_array(values: NDArray[Any]) -> pa.Array:
    if values.ndim > 1:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    return pa.array([_plain(value) for value in values])


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
