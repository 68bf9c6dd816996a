"""The files of a dataset by what they are, and how far an unfinished run has come."""

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.columns import Column, Folder, schema
from infra.dataset.commit_log import SCHEMAS, LogName, read_log
from infra.dataset.manifest import MANIFEST, DatasetManifest, read_manifest
from infra.dataset.outcome_table import OutcomeCounts, count_outcomes
from infra.dataset.shards import SUFFIX, read_columns
from infra.errors import DatasetError
from infra.records import Record
from infra.storage.object_store import ObjectStore, StoredFile

# Folders of files that a manifest names; their names are the digests of their content.
FOLDERS = (Folder.ROWS, Folder.LATENTS, Folder.TEXT, Folder.SHARDS)
_NAMED_AFTER_CONTENT = re.compile(rf".*/[0-9a-f]{{64}}{re.escape(SUFFIX)}")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}\.unfinished")
_NS = 1_000_000_000


class FolderSize(Record):
    """How many files lie in a folder of a dataset; "" is the dataset's own folder."""

    folder: str
    files: int
    bytes: int


class UnfinishedRun(Record):
    """What a run that has not committed has done so far.

    `clips` to `captions`: entries of the commit log, which holds what other runs did too.
    `listed`: clips in the listing. `idle_s`: seconds since anything was written.
    """

    listed: int
    clips: OutcomeCounts
    windows: OutcomeCounts
    captions: OutcomeCounts
    idle_s: float


def finished_manifest(store: ObjectStore) -> DatasetManifest:
    """The manifest of the dataset in `store`; DatasetError if there is none or it is damaged."""
    manifest = read_manifest(store)
    if manifest is not None:
        return manifest
    if any(store.walk(Folder.WORK)) or any(store.walk(Folder.LOG)):
        raise DatasetError(
            f"expected a finished dataset in {store.uri}, got one whose run has not finished; run"
            " the same `omniforcing preprocess` again, which goes on where it stopped"
        )
    raise DatasetError(
        f"expected a dataset in {store.uri}, got no {MANIFEST}; name the folder or URI that"
        " `omniforcing preprocess --out` was given"
    )


def content_files(store: ObjectStore) -> list[StoredFile]:
    """Row tables and tensor files, whether the manifest names them or not."""
    return [file for folder in FOLDERS for file in _named_after_content(store, folder)]


def scratch_files(store: ObjectStore) -> list[StoredFile]:
    """What an unfinished run keeps in `work/`."""
    return list(_named_after_content(store, Folder.WORK, recursive=True))


def log_parts(store: ObjectStore) -> dict[LogName, list[StoredFile]]:
    """Parts of each commit log, by the log's name."""
    return {log: list(_named_after_content(store, f"{Folder.LOG}/{log}")) for log in SCHEMAS}


def unfinished_files(store: ObjectStore, older_than_s: float) -> list[StoredFile]:
    """Hidden files that processes left when they were killed while writing; no store has them."""
    if not store.is_local:
        return []
    root = Path(store.uri)
    files = []
    for path in sorted(root.rglob("*.unfinished")):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            status = path.stat()
            name = path.relative_to(root).as_posix()
            files.append(StoredFile(name, status.st_size, status.st_mtime_ns))
    return [file for file in files if idle_s([file]) > older_than_s]


def folder_sizes(files: Iterable[StoredFile]) -> tuple[FolderSize, ...]:
    """Number and bytes of `files` by folder, by the folder's name."""
    sizes: dict[str, list[int]] = {}
    for file in files:
        sizes.setdefault(file.name.rpartition("/")[0], []).append(file.size)
    return tuple(
        FolderSize(folder=folder, files=len(file_bytes), bytes=sum(file_bytes))
        for folder, file_bytes in sorted(sizes.items())
    )


def unfinished_run(store: ObjectStore) -> UnfinishedRun | None:
    """The run that is at work in `store` or was stopped there; None if there is none."""
    scratch = scratch_files(store)
    parts = [part for log in log_parts(store).values() for part in log]
    if not scratch and (not parts or store.has(MANIFEST)):
        return None
    counts = {log: count_outcomes(read_log(store, log)) for log in SCHEMAS}
    return UnfinishedRun(
        listed=_listed_clips(store, scratch),
        clips=counts["clips"],
        windows=counts["windows"],
        captions=counts["captions"],
        idle_s=idle_s([*scratch, *parts]),
    )


def idle_s(files: Iterable[StoredFile]) -> float:
    """Seconds since the last of `files` was written; infinity if there is none."""
    latest_ns = max((file.modified_ns for file in files), default=None)
    return float("inf") if latest_ns is None else max(0.0, (time.time_ns() - latest_ns) / _NS)


def _named_after_content(
    store: ObjectStore, folder: str, *, recursive: bool = False
) -> Iterator[StoredFile]:
    for file in store.list(folder, recursive=recursive):
        if _NAMED_AFTER_CONTENT.fullmatch(file.name):
            yield file


def _listed_clips(store: ObjectStore, scratch: list[StoredFile]) -> int:
    """Different clips in the listing, of which a stopped run may have left an older one too."""
    names = [file.name for file in scratch if file.name.split("/")[-2] == Folder.LISTING]
    parts = [read_columns(store, name, [Column.CLIP_URI]) for name in names]
    empty = schema((Column.CLIP_URI,)).empty_table()
    distinct: int = pc.count_distinct(pa.concat_tables([empty, *parts])[Column.CLIP_URI]).as_py()
    return distinct
