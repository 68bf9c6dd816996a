"""The manifest that makes files a dataset: written last, it names each file and digests the whole.

A dataset is a set of shards whose rows hold all their tensors (trajectories), or of row tables that
name the shards and keys where their tensors are (latents: pipelines/preprocessing/preprocess.py).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from infra.dataset.columns import IDS, Column, schema
from infra.dataset.shards import ShardRecord, read_columns
from infra.errors import DatasetError
from infra.leases.fence import Fence, require_owner
from infra.records import Record
from infra.storage.object_store import ObjectStore

MANIFEST = "manifest.json"
# Kind of the datasets that preprocessing makes.
LATENTS_KIND = "latents"


class DatasetManifest(Record):
    """What a dataset consists of, and in `provenance` its sources.

    `tables`: the row tables, where rows and tensors are in files of their own.
    """

    schema_version: Literal[1] = 1
    kind: str
    rows: int
    digest: str
    shards: tuple[ShardRecord, ...]
    tables: tuple[ShardRecord, ...] = ()
    provenance: dict[str, Any]

    @property
    def files(self) -> tuple[ShardRecord, ...]:
        """Every file of the dataset but the manifest."""
        return (*self.tables, *self.shards)


def dataset_digest(digests: pa.ChunkedArray) -> str:
    """Digest of a dataset from its row digests, in any order."""
    ordered = digests.take(pc.sort_indices(digests))
    sha256 = hashlib.sha256()
    for number, chunk in enumerate(ordered.chunks):
        text = "\n".join(chunk.to_pylist())
        sha256.update(f"\n{text}".encode() if number else text.encode())
    return f"sha256:{sha256.hexdigest()}"


def commit(
    uri: str | Path,
    kind: str,
    shards: Sequence[ShardRecord],
    provenance: dict[str, Any],
    tables: Sequence[ShardRecord] = (),
    fence: Fence | None = None,
) -> DatasetManifest:
    """Write the manifest that makes these files the dataset at `uri`, in place of an older one.

    fence: of whoever owns the dataset, as of `require_owner`.

    Raises DatasetError if two rows have the same id; OwnershipError if another run has taken over.
    """
    store = ObjectStore(uri)
    parts = [read_columns(store, file.name, IDS) for file in tables or shards]
    empty = schema(IDS).empty_table()
    rows = pa.concat_tables([empty, *parts]).combine_chunks()
    if pc.count_distinct(rows[Column.ROW_ID]).as_py() != rows.num_rows:
        raise DatasetError(
            f"expected {rows.num_rows} rows with different ids in {store.uri}, got repetitions;"
            " write each row into one shard"
        )
    manifest = DatasetManifest(
        kind=kind,
        rows=rows.num_rows,
        digest=dataset_digest(rows[Column.ROW_DIGEST]),
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
        tables=tuple(sorted(tables, key=lambda table: table.name)),
        provenance=provenance,
    )
    require_owner(fence)
    store.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


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


def missing_file(store: ObjectStore, manifest: DatasetManifest) -> str | None:
    """What is wrong with the first file that is absent or of another size; None if none is."""
    folders = {file.name.rpartition("/")[0] for file in manifest.files}
    sizes = {file.name: file.size for folder in folders for file in store.list(folder)}
    for file in manifest.files:
        if file.name not in sizes:
            return f"no {file.name}"
        if sizes[file.name] != file.bytes:
            return f"{sizes[file.name]} bytes instead of {file.bytes} in {file.name}"
    return None
