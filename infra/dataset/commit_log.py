"""What has been done, by key: the commit log of preprocessing.

A key is the digest of everything that decides a result (pipelines/preprocessing/keys.py). A task
that has finished some keys writes their results, then a part of the log that names them: from then
on they are done, whoever is killed next. Parts are named after their content, so writing one again
changes nothing, and a key may stand in several.

    log/clips/     what a clip is: digest, measures, windows, or why it cannot be looked into
    log/windows/   what was measured on a window, and where its latents are if it was encoded
    log/captions/  what became of a caption, and where its text features are
"""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.columns import CAPTION_ENTRY, CLIP_ENTRY, WINDOW_ENTRY, Column, Folder, schema
from infra.dataset.outcome_table import OUTCOME_KINDS
from infra.dataset.shards import read_columns, write_table
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore

LOG = logging.getLogger(__name__)

LogName = Literal["clips", "windows", "captions"]
SCHEMAS: dict[LogName, pa.Schema] = {
    "clips": schema(CLIP_ENTRY),
    "windows": schema(WINDOW_ENTRY),
    "captions": schema(CAPTION_ENTRY),
}
# Of several entries for a key the one counts that knows most: of a clip the one with more looks, of
# others the one with more attempts. Of equal ones it is the one whose outcome is better.
PRECEDENCE = "precedence"
READERS = 8


def append(store: ObjectStore, log: LogName, rows: pa.Table) -> None:
    """Add a part with `rows`, whose columns are those of the log's schema in any order."""
    if rows.num_rows:
        table = rows.select(SCHEMAS[log].names).cast(SCHEMAS[log])
        write_table(store, table, _folder(log))


def read_log(store: ObjectStore, log: LogName) -> pa.Table:
    """The entry of every key, once; damaged parts are left out, and their work is done again."""
    return _one_per_key(pa.concat_tables([SCHEMAS[log].empty_table(), *_parts(store, log)]))


def compact(store: ObjectStore, log: LogName) -> None:
    """Write the log as one part and remove the others; a crash in between loses nothing."""
    before = [file.name for file in store.list(_folder(log))]
    if len(before) > 1:
        whole = write_table(store, read_log(store, log), _folder(log)).name
        for name in before:
            if name != whole:
                store.delete(name)


def _parts(store: ObjectStore, log: LogName) -> Iterable[pa.Table]:
    def read(name: str) -> pa.Table | None:
        try:
            return read_columns(store, name, None).select(SCHEMAS[log].names).cast(SCHEMAS[log])
        except (DatasetError, KeyError, pa.ArrowException) as error:
            LOG.warning("leaving out a part of the log: %s", error)
            return None

    names = [file.name for file in store.list(_folder(log))]
    with ThreadPoolExecutor(READERS) as readers:
        yield from (part for part in readers.map(read, names) if part is not None)


def _one_per_key(rows: pa.Table) -> pa.Table:
    precedence = pc.index_in(rows[Column.OUTCOME], value_set=pa.array(OUTCOME_KINDS))
    keyed = rows.append_column(PRECEDENCE, precedence)
    latest = (Column.LOOKS, Column.ATTEMPTS)
    by = [(Column.KEY, "ascending")]
    by += [(name, "descending") for name in latest if name in rows.column_names]
    by.append((PRECEDENCE, "ascending"))
    # Ties are broken by content, not by the order of parts.
    if Column.SHARD in rows.column_names:
        by.append((Column.SHARD, "ascending"))
    ordered = keyed.sort_by(by).combine_chunks().drop_columns([PRECEDENCE])
    if ordered.num_rows < 2:
        return ordered
    keys = ordered[Column.KEY].combine_chunks()
    first = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    return ordered.filter(pa.concat_arrays([pa.array([True]), first]))


def _folder(log: LogName) -> str:
    return f"{Folder.LOG}/{log}"
