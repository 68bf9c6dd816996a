"""What a dataset is: its rows and files, what it was made from, and what became of each clip."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from infra.dataset.columns import SIZE, Column, Folder
from infra.dataset.manifest import MANIFEST, DatasetManifest, read_manifest
from infra.dataset.outcome_table import (
    OUTCOME_KINDS,
    OUTCOMES,
    OutcomeCounts,
    read_outcomes,
)
from infra.dataset.reasons import RefusedRows, explained_counts
from infra.dataset.shards import read_columns
from infra.errors import ConfigError, DatasetError
from infra.leases.output_lease import current_holder
from infra.records import Record
from infra.runs.provenance import digest_of
from infra.storage.object_store import ObjectStore
from pipelines.datasets.files import (
    FolderSize,
    UnfinishedRun,
    content_files,
    finished_manifest,
    folder_sizes,
    log_parts,
    scratch_files,
    unfinished_run,
)
from pipelines.preprocessing.gate_lines import GateLine, gate_lines
from pipelines.preprocessing.keys import RecipeDigests


class FinishedDataset(Record):
    """What a manifest says, and how often rows were tried.

    `counts`, `refused` (the same, explained), `gates`, `sizes` (rows by height and width) and
    `attempts` (rows by number of attempts): of datasets that keep outcomes.
    `recipes`: digests of the recipe, by the part of it that decides a family of results.
    """

    kind: str
    rows: int
    digest: str
    counts: OutcomeCounts | None
    refused: tuple[RefusedRows, ...]
    gates: tuple[GateLine, ...]
    sizes: dict[str, int]
    attempts: dict[int, int]
    clips: str | None
    preset: str | None
    codecs: dict[str, str]
    recipes: dict[str, str]
    commit: str | None


class DatasetOverview(Record):
    """A dataset on storage: `finished` if it has a manifest, `unfinished` if a run is at work.

    Both are there when a dataset is being made anew. `files` counts what lies there, also what the
    manifest does not name. `at_work`: the run that holds it now, and since when.
    """

    dataset: str
    at_work: str | None
    finished: FinishedDataset | None
    unfinished: UnfinishedRun | None
    files: tuple[FolderSize, ...]


class RowOutcome(Record):
    """What became of one input row."""

    clip_uri: str
    start_s: float
    row_id: str
    outcome: str
    reason: str
    error: str
    attempts: int


class RowOutcomes(Record):
    """The first of the matching rows, and how many match."""

    dataset: str
    found: int
    rows: tuple[RowOutcome, ...]


def overview(uri: str) -> DatasetOverview:
    """Look at the dataset at `uri`, finished or not; reads no tensors.

    Raises DatasetError if there is none, or its manifest is damaged.
    """
    store = ObjectStore(uri)
    manifest, unfinished = read_manifest(store), unfinished_run(store)
    if manifest is None and unfinished is None:
        finished_manifest(store)  # says what is wrong
    holder = current_holder(store)
    log_files = [file for parts in log_parts(store).values() for file in parts]
    own = [file for file in store.list() if file.name in (MANIFEST, OUTCOMES)]
    return DatasetOverview(
        dataset=store.uri,
        at_work=None if holder is None else str(holder),
        finished=None if manifest is None else _finished(store, manifest),
        unfinished=unfinished,
        files=(
            *folder_sizes([*own, *content_files(store)]),
            *_sum_of(Folder.LOG, folder_sizes(log_files)),
            *_sum_of(Folder.WORK, folder_sizes(scratch_files(store))),
        ),
    )


def row_outcomes(uri: str, outcome: str, reason: str | None = None, limit: int = 20) -> RowOutcomes:
    """The rows of the dataset at `uri` whose outcome is `outcome`, by clip and time.

    Args:
        uri: of the dataset.
        outcome: ok, filtered or quarantined.
        reason: only rows with this reason.
        limit: at most so many.

    Raises:
        ConfigError: there is no such outcome, or no row has such a reason.
        DatasetError: the dataset has no table of outcomes, or it is damaged.
    """
    store = ObjectStore(uri)
    if outcome not in OUTCOME_KINDS:
        raise ConfigError(
            f"expected an outcome of {', '.join(OUTCOME_KINDS)}, got {outcome!r}; name one of them"
        )
    if not store.has(OUTCOMES):
        manifest = finished_manifest(store)
        raise DatasetError(
            f"expected {OUTCOMES} in {store.uri}, got a dataset of {manifest.kind} without it;"
            " leave --outcome out, or run `omniforcing dataset verify`"
        )
    rows = read_outcomes(store)
    if not rows.num_rows:
        raise DatasetError(
            f"expected what became of each clip in {store.uri}/{OUTCOMES}, got a damaged table; run"
            " `omniforcing dataset verify --repair`, and do what it says"
        )
    rows = rows.filter(pc.equal(rows[Column.OUTCOME], outcome))
    if reason is not None:
        known = sorted(set(rows[Column.REASON].to_pylist()))
        if reason not in known:
            raise ConfigError(
                f"expected a reason of {', '.join(filter(None, known)) or 'none'} for {outcome},"
                f" got {reason!r}; name one that is there"
            )
        rows = rows.filter(pc.equal(rows[Column.REASON], reason))
    shown = rows.select(list(RowOutcome.model_fields)).slice(0, limit).to_pylist()
    return RowOutcomes(
        dataset=store.uri,
        found=rows.num_rows,
        rows=tuple(RowOutcome.model_validate(row) for row in shown),
    )


def _finished(store: ObjectStore, manifest: DatasetManifest) -> FinishedDataset:
    provenance: Mapping[str, Any] = manifest.provenance
    stated, recipe = provenance.get("counts"), provenance.get("recipe", {})
    counts = None if stated is None else OutcomeCounts.model_validate(stated)
    parts = {name: digest_of(recipe[name]) for name in RecipeDigests._fields if name in recipe}
    whole = provenance.get("recipe_digest")
    limits = provenance.get("config", {}).get("data", {}).get("gates", {})
    attempts = read_outcomes(store)[Column.ATTEMPTS].value_counts().to_pylist()
    return FinishedDataset(
        kind=manifest.kind,
        rows=manifest.rows,
        digest=manifest.digest,
        counts=counts,
        refused=explained_counts(counts) if counts else (),
        gates=gate_lines(limits, counts) if counts else (),
        sizes=_sizes(store, manifest),
        attempts={n["values"]: n["counts"] for n in sorted(attempts, key=lambda n: n["values"])},
        clips=provenance.get("clips"),
        preset=provenance.get("config", {}).get("name"),
        codecs=provenance.get("codecs", {}),
        recipes=parts if whole is None else {"whole": whole},
        commit=provenance.get("commit"),
    )


def _sizes(store: ObjectStore, manifest: DatasetManifest) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for table in manifest.tables:
        rows = read_columns(store, table.name, SIZE)
        counted = rows.group_by(list(SIZE)).aggregate([([], "count_all")])
        heights, widths, counts = (counted[name].to_pylist() for name in (*SIZE, "count_all"))
        for height, width, count in zip(heights, widths, counts, strict=True):
            sizes[f"{height} x {width}"] += count
    return dict(sorted(sizes.items()))


def _sum_of(folder: str, sizes: tuple[FolderSize, ...]) -> tuple[FolderSize, ...]:
    """The folders below `folder` as one, if there are any."""
    if not sizes:
        return ()
    files, size = sum(part.files for part in sizes), sum(part.bytes for part in sizes)
    return (FolderSize(folder=folder, files=files, bytes=size),)
