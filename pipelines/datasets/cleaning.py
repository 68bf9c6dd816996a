"""Removes what a dataset no longer needs: files that its manifest does not name."""

from collections import Counter
from typing import NamedTuple

from infra.dataset.columns import Column, Folder
from infra.dataset.commit_log import compact, read_log
from infra.dataset.manifest import LATENTS_KIND, DatasetManifest
from infra.errors import DatasetError
from infra.leases.output_lease import OutputLease, hold_output
from infra.records import Record
from infra.storage.object_store import ObjectStore, StoredFile
from infra.terminal.progress import Progress
from pipelines.datasets.files import (
    FolderSize,
    content_files,
    finished_manifest,
    folder_sizes,
    idle_s,
    log_parts,
    scratch_files,
    unfinished_files,
)

# A run that has written nothing for so long has been stopped.
QUIET_S = 3600.0


class Cleaning(Record):
    """What was removed from a dataset, or would be with `dry_run`.

    `files`: by folder. `results`: how many latents and text features of rows they hold that a
    loosened gate or an earlier configuration would have brought back. `log_parts`: how many parts
    of the log became one per log; what that frees is in `freed_files` and `freed_bytes` once done.
    """

    dataset: str
    dry_run: bool
    files: tuple[FolderSize, ...]
    results: int
    log_parts: int
    freed_files: int
    freed_bytes: int


class _LogSize(NamedTuple):
    files: int
    bytes: int


def clean(
    uri: str,
    progress: Progress,
    *,
    dry_run: bool = False,
    keep_cache: bool = False,
    force: bool = False,
    lease_s: float,
) -> Cleaning:
    """Remove from the dataset at `uri` what its manifest does not name.

    That is: row tables and tensors of older versions, results that a run with looser gates or
    another configuration could use again, and what stopped runs left. Only files that are named as
    ours are touched. Whoever still reads an older version loses its files.

    Args:
        uri: of the dataset.
        progress: gets a step per file.
        dry_run: tell, and remove nothing.
        keep_cache: keep tensors that the log names, for later runs.
        force: also if a run that has stopped was at work not long ago.
        lease_s: as of `hold_output`; nothing is held for a dry run.

    Raises:
        DatasetError: there is no manifest to go by, it is damaged, or a run seems to be at work.
        OwnershipError: a run is at work.
        StoreError: storage or its credentials fail.
    """
    store = ObjectStore(uri)
    if dry_run:
        return _clean(store, progress, None, keep_cache=keep_cache, force=force)
    finished_manifest(store)  # what is no dataset is not held either
    with hold_output(store.uri, "dataset gc", lease_s) as lease:
        return _clean(store, progress, lease, keep_cache=keep_cache, force=force)


def _clean(
    store: ObjectStore,
    progress: Progress,
    lease: OutputLease | None,
    *,
    keep_cache: bool,
    force: bool,
) -> Cleaning:
    """As `clean`; without a lease nothing is removed."""
    manifest = finished_manifest(store)
    scratch, unnamed = scratch_files(store), _unnamed(store, manifest)
    if not force:
        _refuse_if_at_work(store, manifest, [*scratch, *unnamed])
    results = _results_by_shard(store)
    garbage = [file for file in unnamed if not (keep_cache and results[file.name])]
    freed_results = sum(results[file.name] for file in garbage)
    garbage += [*scratch, *unfinished_files(store, QUIET_S)]
    to_merge = {log: parts for log, parts in log_parts(store).items() if len(parts) > 1}
    before = _log_size(store)
    if lease is not None:
        lease.check()
        with progress.stage("clean", len(garbage)) as stage:
            for file in garbage:
                lease.raise_if_lost()
                store.delete(file.name)
                stage.advance()
        for log in to_merge:
            lease.check()
            compact(store, log)
    after = before if lease is None else _log_size(store)
    return Cleaning(
        dataset=store.uri,
        dry_run=lease is None,
        files=folder_sizes(garbage),
        results=freed_results,
        log_parts=sum(len(parts) for parts in to_merge.values()),
        freed_files=len(garbage) + before.files - after.files,
        freed_bytes=sum(file.size for file in garbage) + before.bytes - after.bytes,
    )


def _unnamed(store: ObjectStore, manifest: DatasetManifest) -> list[StoredFile]:
    named = {file.name for file in manifest.files}
    return [file for file in content_files(store) if file.name not in named]


def _refuse_if_at_work(
    store: ObjectStore, manifest: DatasetManifest, leftovers: list[StoredFile]
) -> None:
    """A run at work has files in work/, or shards without a manifest yet, and goes on writing."""
    scratch = any(file.name.startswith(f"{Folder.WORK}/") for file in leftovers)
    if manifest.kind == LATENTS_KIND and not scratch:
        return
    quiet_s = idle_s([*leftovers, *_log_files(store)])
    if quiet_s < QUIET_S:
        raise DatasetError(
            f"expected no run at work on {store.uri}, got files written {quiet_s:.0f} s ago; wait"
            f" until it has finished, or give --force if it was stopped"
        )


def _results_by_shard(store: ObjectStore) -> Counter[str]:
    """How many results the log knows in each shard."""
    logs = (read_log(store, "windows"), read_log(store, "captions"))
    return Counter(shard for log in logs for shard in log[Column.SHARD].to_pylist())


def _log_size(store: ObjectStore) -> _LogSize:
    files = _log_files(store)
    return _LogSize(len(files), sum(file.size for file in files))


def _log_files(store: ObjectStore) -> list[StoredFile]:
    return [file for parts in log_parts(store).values() for file in parts]
