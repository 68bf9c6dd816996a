"""Preprocessing of many rows without media: what listing, planning, scheduling and commit cost.

The graphs are the real ones with stages that only answer: a survey that finds one window, and a
worker that gives latents and text of a few numbers.
"""

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.clips.clip_surveyor import ALL_LOOKS
from infra.claims import PoolResources
from infra.config import RunConfig
from infra.dataset.columns import (
    CLIP_MEASURES,
    LATENT_TENSORS,
    OUTCOME_COLUMNS,
    SIGNAL_MEASURES,
    TEXT_OUTCOME_COLUMNS,
    TEXT_TENSORS,
    Column,
)
from infra.dataset.outcome_table import OK
from infra.ray_cluster import local_cluster
from infra.records import Record
from infra.storage.object_store import ObjectStore
from pipelines.benchmarks.machine.cluster_memory import peak_memory
from pipelines.preprocessing.keys import RecipeDigests
from pipelines.preprocessing.listing.clips import ListedClip
from pipelines.preprocessing.pending_rows import rules_of
from pipelines.preprocessing.pieces import planned_pieces, progress_of
from pipelines.preprocessing.preprocess import clips_per_part
from pipelines.preprocessing.row_tables import (
    Listing,
    RowJob,
    RowPlan,
    commit_rows,
    plan_rows,
    plan_survey,
    write_listing,
)
from pipelines.preprocessing.shard_writing import log_clips, write_rows
from pipelines.ray_jobs.pools import map_through_pools, write_stage
from pipelines.ray_jobs.settings import ray_data_settings
from pipelines.ray_jobs.tasks import TableProcess, run_in_task

ROWS_PER_SHARD = 1024
WORKERS = 2
STEPS = ("listing", "survey", "work", "commit")
Batch = Mapping[str, NDArray[Any]]


class DryRun(Record):
    """Seconds of each step; memory in MiB, at most at a time."""

    rows: int
    seconds: dict[str, float]
    rows_per_s: float
    ms_per_row: float
    driver_mb: float
    driver_mb_before: float
    all_mb: float
    files: int


class EchoSurvey:
    """Finds one window in every clip, whose content is its name."""

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """As `ClipSurveyor`."""
        rows = len(batch[Column.CLIP_URI])
        starts = np.empty(rows, object)
        starts[:] = [[0.0]] * rows
        digests = [
            f"sha256:{hashlib.sha256(n.encode()).hexdigest()}" for n in batch[Column.CLIP_URI]
        ]
        return {
            **batch,
            **_good_outcomes(rows, OUTCOME_COLUMNS),
            Column.CLIP_DIGEST: np.array(digests, object),
            Column.STARTS_S: starts,
            Column.LOOKS: np.full(rows, ALL_LOOKS),
            **{name: np.full(rows, np.nan) for name in CLIP_MEASURES},
        }


class EchoWorker:
    """Gives every row latents, a caption and text features of a few numbers."""

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """As all stages between a window and a row of the dataset."""
        rows = len(batch[Column.CLIP_URI])
        tensors = {name: np.zeros((rows, 2, 2), np.float32) for name in LATENT_TENSORS}
        tensors |= {name: np.zeros((rows, 2), np.float32) for name in TEXT_TENSORS.values()}
        return {
            **batch,
            **tensors,
            **_good_outcomes(rows, TEXT_OUTCOME_COLUMNS),
            Column.CAPTION: batch[Column.CAPTION_RAW],
            Column.REWRITTEN: np.zeros(rows, bool),
            **{name: np.full(rows, np.nan) for name in SIGNAL_MEASURES},
        }


class _EchoStage(NamedTuple):
    actor: type[Any]
    arguments: dict[str, Any]
    claim: PoolResources
    rows_at_a_time: int | None = None


def dry_run(config: RunConfig, rows: int, advance: Callable[..., None]) -> DryRun:
    """List, survey, plan, work on and commit `rows` synthetic rows; `advance` gets steps done."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="dry-run-") as folder:
        out = ObjectStore(Path(folder) / "dataset")
        with peak_memory() as idle:
            time.sleep(1)
        with local_cluster(config.cluster), ray_data_settings(), peak_memory() as peak:
            run = _DryRows(out, rows, config)
            for name in STEPS:
                began = time.monotonic()
                getattr(run, name)()
                seconds[name] = time.monotonic() - began
                advance(1, step=name)
        files = sum(len(names) for _, _, names in os.walk(folder))
    whole_s = sum(seconds.values())
    return DryRun(
        rows=rows,
        seconds=seconds,
        rows_per_s=rows / whole_s,
        ms_per_row=1000 * whole_s / rows,
        driver_mb=peak.value.driver_mb,
        driver_mb_before=idle.value.driver_mb,
        all_mb=peak.value.all_mb,
        files=files,
    )


class _DryRows:
    """The steps of a run, one after the other, on synthetic rows."""

    def __init__(self, out: ObjectStore, rows: int, config: RunConfig) -> None:
        self._out, self._rows, self._settings = out, rows, config.preprocessing
        self._rules = rules_of(config.data)
        self._tables = TableProcess()
        self._job: RowJob | None = None
        self._claim = PoolResources(replicas=WORKERS, cpus=1, gpus=0)

    def listing(self) -> None:
        listing = run_in_task(_list, self._rows, self._out.uri)
        self._job = RowJob(self._out.uri, listing, RecipeDigests("s", "l", "t"), self._rules)

    def survey(self) -> None:
        planned = self._tables.run(plan_survey, self._job, False)
        stage = _EchoStage(EchoSurvey, {}, self._claim)
        self._run(stage, planned, log_clips, clips_per_part(planned.rows))

    def work(self) -> None:
        planned = self._tables.run(plan_rows, self._job, False)
        stage = _EchoStage(EchoWorker, {}, self._claim)
        self._run(stage, planned, write_rows, ROWS_PER_SHARD)

    def commit(self) -> None:
        self._tables.run(commit_rows, self._job, {})

    def _run(
        self, stage: _EchoStage, planned: RowPlan, write: Callable[..., Any], rows: int
    ) -> None:
        pieces = planned_pieces(self._out, planned, stage, self._settings)
        graph = map_through_pools(pieces, [stage], planned.rows)
        writers = math.ceil(WORKERS / self._settings.actors_per_writer)
        for _ in progress_of(write_stage(graph, partial(write, out=self._out.uri), rows, writers)):
            pass


def _list(rows: int, out: str) -> Listing:
    return write_listing(_clips(rows), "dry", ObjectStore(out))


def _clips(rows: int) -> Iterator[ListedClip]:
    for number in range(rows):
        yield ListedClip(f"clips/{number:09d}.mp4", 1, 1, -1, f"clip number {number}", "", "")


def _good_outcomes(rows: int, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    values = zip(columns, (OK, "", ""), strict=True)
    return {name: np.full(rows, value, object) for name, value in values}
