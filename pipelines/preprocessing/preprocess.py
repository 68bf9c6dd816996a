"""Clips and captions to a dataset of latents: two Ray Data graphs, and their commit.

    list -> survey: digest, measures, windows of `data.seconds`
         -> decode, measures -> latents -> rewrite captions -> text features -> shards and log

Frames are the heaviest column by far, so decoding stands right before the encoder that drops them.
Gates are decided from what was measured (actors/clips/gates.py): a stage stops at one that refuses,
and when they change, what was measured is decided anew and only what they admit now is worked on.
Every row gets one outcome and none stops the others. What is done is in the commit log
(infra/dataset/commit_log.py) by key: a run works on what is not there yet, whatever stopped the
last one.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.data import Dataset

from actors.captions.caption_rewriter import RewriteCaptions
from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from actors.latents.caption_encoder import CaptionEncoder
from actors.latents.latent_encoder import LatentEncoder
from infra.claims import PoolResources
from infra.config import RunConfig
from infra.dataset.outcome_table import FILTERED, OK, OUTCOMES, QUARANTINED
from infra.errors import ConfigError, DatasetError
from infra.leases.output_lease import OutputLease, hold_output
from infra.machine import GIB
from infra.ray_cluster import local_cluster
from infra.runs.provenance import code_commit
from infra.storage.object_store import ObjectStore, confined_store
from infra.storage.package_files import with_absolute_places
from infra.storage.scratch import without_abandoned_copies
from infra.terminal.progress import Progress
from omniforcing_model.codecs.mel import SAMPLE_RATE
from omniforcing_model.latent_clock import frames_for_seconds
from pipelines.preprocessing.listing.caption_tables import find_caption_table
from pipelines.preprocessing.pending_rows import rules_of
from pipelines.preprocessing.pieces import planned_pieces, progress_of, rows_per_call
from pipelines.preprocessing.recipe import (
    PreprocessRecipe,
    finished_before,
    input_digest,
    recipe_of,
    usable_manifest,
)
from pipelines.preprocessing.row_tables import (
    Listing,
    RowJob,
    RowPlan,
    commit_rows,
    delete_work,
    list_source_clips,
    plan_rows,
    plan_survey,
)
from pipelines.preprocessing.shard_writing import log_clips, write_rows
from pipelines.preprocessing.summary import PreprocessSummary, summarize
from pipelines.ray_jobs.pools import claim_of, map_through_pools, pools_of, write_stage
from pipelines.ray_jobs.settings import ray_data_settings
from pipelines.ray_jobs.tasks import TASK_CPUS, TableProcess, run_in_task

# What a copy has finished streams on after so many, and is not lost when it is killed.
CLIPS_AT_A_TIME = 4
WINDOWS_AT_A_TIME = 8
PARTS, MOST_CLIPS_PER_PART = 8, 256
COLOURS = 3


class _Job(NamedTuple):
    config: RunConfig
    clips: str
    out: str
    redrive: bool
    lease: OutputLease


class _Work(NamedTuple):
    """What a graph did: rows, each time that it worked on one, and seconds by stage."""

    rows: int
    stage_seconds: dict[str, float]


class GraphStage(NamedTuple):
    """One step of the graph: a plain class, its arguments, and what each copy claims."""

    actor: type[Any]
    arguments: dict[str, Any]
    claim: PoolResources
    rows_at_a_time: int | None = None


def preprocess(
    config: RunConfig,
    clips: str,
    out: str,
    progress: Progress,
    *,
    captions: str | None = None,
    redrive: bool = False,
    report: Callable[[PreprocessSummary], None] | None = None,
) -> PreprocessSummary:
    """Make the dataset `out` of the clips in `clips`; what is there is not made again.

    The same clips and configuration give the same digest.

    Args:
        config: of the run.
        clips: folder or URI.
        out: folder or URI.
        progress: gets a step per clip and per row.
        captions: a caption table, as of `list_clips`.
        redrive: try quarantined rows again.
        report: gets the result while this run still owns the dataset.

    Raises:
        OwnershipError: another run is at work on `out`, or has taken it over.
        DatasetError: there are no clips, or none is usable (the outcomes are written all the same).
        ConfigError, CheckpointError: the configuration does not fit.
        StoreError: storage or its credentials fail.
        RewriterError: the server that rewrites captions serves none of them.
        ClusterError: Ray fails; after this and the two above a later call goes on where this
            stopped.
    """
    started = time.monotonic()
    source, target = confined_store(clips), ObjectStore(out)
    check_sizes(config)
    _check_target(target)
    table = find_caption_table(source, captions) if captions else None
    recipe = recipe_of(config)
    place = f"{table[0].uri}/{table[1]}" if table else None
    with hold_output(target.uri, "preprocess", config.output.lease_s) as lease:
        job = _Job(config, source.uri, target.uri, redrive, lease)
        summary = _bring_up_to_date(job, recipe, place, progress)
        if summary.ok == 0:
            raise DatasetError(_no_usable_clip(source, summary))
        summary = summary.model_copy(update={"seconds": time.monotonic() - started})
        if report is not None:
            lease.check()
            report(summary)
    return summary


def _bring_up_to_date(
    job: _Job, recipe: PreprocessRecipe, captions: str | None, progress: Progress
) -> PreprocessSummary:
    """List the clips, and make what is not there."""
    target = ObjectStore(job.out)
    present = usable_manifest(target)
    with without_abandoned_copies(), local_cluster(job.config.cluster), ray_data_settings():
        listing = run_in_task(list_source_clips, job.clips, captions, job.out, job.lease.fence)
        manifest = finished_before(recipe, listing.digest, present, target)
        if manifest is None or job.redrive:
            return _run_graphs(job, recipe, listing, progress)
        job.lease.check()
        delete_work(target, job.lease.fence)
        return summarize(manifest, target.uri)


def survey_stages(config: RunConfig, clips: str) -> list[GraphStage]:
    """The steps between a listed clip and its windows."""
    arguments = {"data": config.data, "clips": clips}
    return [GraphStage(ClipSurveyor, arguments, config.cluster.clip_surveyor, CLIPS_AT_A_TIME)]


def row_stages(config: RunConfig, clips: str) -> list[GraphStage]:
    """The steps between a window and a row of the dataset, in order."""
    cluster, config = config.cluster, with_absolute_places(config)
    rewriter = config.data.rewriter
    decoding = {"data": config.data, "clips": clips, "sample_rate": SAMPLE_RATE}
    return [
        GraphStage(ClipDecoder, decoding, cluster.clip_decoder, _windows_at_a_time(config)),
        GraphStage(LatentEncoder, {"config": config}, cluster.latent_encoder),
        GraphStage(RewriteCaptions, {"config": rewriter}, cluster.caption_rewriter, rewriter.batch),
        GraphStage(CaptionEncoder, {"config": config}, cluster.text_encoder),
    ]


def survey_graph(planned: RowPlan, config: RunConfig, clips: str, out: str) -> Dataset:
    """Clips to the log of clips; gives counts of outcomes."""
    stages = survey_stages(config, clips)
    dataset = map_through_pools(
        planned_pieces(ObjectStore(out), planned, stages[0], config.preprocessing),
        stages,
        planned.rows,
    )
    write = partial(log_clips, out=out, plan=planned.parts[0])
    return write_stage(dataset, write, clips_per_part(planned.rows), _writers(stages[0], config))


def clips_per_part(clips: int) -> int:
    """Clips that one part of the log tells of: a kill costs no more than a few looks."""
    return max(1, min(MOST_CLIPS_PER_PART, clips // PARTS))


def row_graph(planned: RowPlan, config: RunConfig, clips: str, out: str) -> Dataset:
    """Windows to shards, as actor pools that stream into each other; gives counts of outcomes."""
    stages = row_stages(config, clips)
    dataset = map_through_pools(
        planned_pieces(ObjectStore(out), planned, stages[0], config.preprocessing),
        stages,
        planned.rows,
    )
    write = partial(write_rows, out=out, plan=planned.parts[0])
    return write_stage(dataset, write, config.data.rows_per_shard, _writers(stages[0], config))


def _writers(first: GraphStage, config: RunConfig) -> int:
    return math.ceil(first.claim.replicas / config.preprocessing.actors_per_writer)


def _windows_at_a_time(config: RunConfig) -> int:
    data = config.data
    pixels = max(size.height * size.width for size in data.sizes)
    window_bytes = frames_for_seconds(data.seconds) * pixels * COLOURS
    most = max(1, min(WINDOWS_AT_A_TIME, (config.preprocessing.decoded_mib << 20) // window_bytes))
    return rows_per_call(data.rows_per_shard, most)


def _run_graphs(
    job: _Job, recipe: PreprocessRecipe, listing: Listing, progress: Progress
) -> PreprocessSummary:
    """Survey the clips, work on the rows until none waits, and commit."""
    config, clips, out, _, lease = job
    rows = RowJob(out, listing, recipe.parts, rules_of(config.data), lease.fence)
    _check_claims(config, clips)
    tables = TableProcess()
    survey = _work_off(
        survey_graph, "survey", partial(tables.run, plan_survey, rows), job, progress
    )
    work = _work_off(row_graph, "preprocess", partial(tables.run, plan_rows, rows), job, progress)
    seconds = survey.stage_seconds | work.stage_seconds
    provenance = {
        "clips": clips,
        "input_digest": input_digest(recipe, listing.digest),
        "codecs": recipe.codecs,
        "recipe": recipe.values,
        "commit": code_commit(),
        "config": config.model_dump(mode="json", include={"name", "data", "codec"}),
    }
    return summarize(tables.run(commit_rows, rows, provenance), out, work.rows, seconds)


def _work_off(
    graph: Callable[..., Dataset],
    name: str,
    plan: Callable[[bool], RowPlan],
    job: _Job,
    progress: Progress,
) -> _Work:
    """Run a graph until nothing waits for it.

    plan: gives what waits, also what is quarantined if it is called with True.
    """
    config, clips, out, redrive, lease = job
    worked = 0
    seconds: dict[str, float] = {}
    for round_ in count():
        planned = plan(redrive and round_ == 0)
        if planned.rows == 0:
            break
        if round_ == config.preprocessing.max_rounds:
            raise DatasetError(
                f"expected an outcome for every row, got {planned.rows} without one after"
                f" {round_} rounds; run the same command again with --debug and look into"
                " the log"
            )
        worked += planned.rows
        spent = _run_graph(graph, name, planned, (config, clips, out), lease, progress)
        seconds |= {stage: seconds.get(stage, 0.0) + spent_s for stage, spent_s in spent.items()}
    return _Work(worked, seconds)


def _run_graph(
    graph: Callable[..., Dataset],
    name: str,
    planned: RowPlan,
    what: tuple[RunConfig, str, str],
    lease: OutputLease,
    progress: Progress,
) -> dict[str, float]:
    """Run a graph and show how far it is; the seconds that each stage worked."""
    seconds: dict[str, float] = {}
    began, done = time.monotonic(), 0
    outcomes = Counter({OK: 0, FILTERED: 0, QUARANTINED: 0})
    with progress.stage(name, total=planned.rows) as stage:
        for news in progress_of(graph(planned, *what)):
            lease.raise_if_lost()
            outcomes.update(news.outcomes)
            for worker, spent_s in news.stage_seconds.items():
                seconds[worker] = seconds.get(worker, 0.0) + spent_s
            new = sum(news.outcomes.values())
            done += new
            rate = done / max(time.monotonic() - began, 1e-9)
            left_s = round((planned.rows - done) / rate) if rate else 0
            stage.advance(new, rows_per_s=round(rate, 2), left_s=left_s, **outcomes)
    return seconds


def _no_usable_clip(source: ObjectStore, summary: PreprocessSummary) -> str:
    refused = summary.filtered | summary.quarantined
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(refused.items()))
    return (
        f"expected a usable clip in {source.uri}, got none: {reasons};"
        f" {summary.dataset}/{OUTCOMES} says why for each"
    )


def check_sizes(config: RunConfig) -> None:
    """ConfigError if the codecs cannot divide the sizes of pictures."""
    stride = config.model.spatial_stride
    for size in config.data.sizes:
        if size.height % stride or size.width % stride:
            raise ConfigError(
                f"expected data.height, data.width and data.buckets in multiples of {stride}"
                f" (model.spatial_stride), got {size.height} x {size.width}; change them"
            )


def _check_target(target: ObjectStore) -> None:
    if target.is_local and Path(target.uri).exists() and not target.exists():
        raise DatasetError(
            f"expected a folder for the dataset at {target.uri}, got a file; name another place"
        )


def _check_claims(config: RunConfig, clips: str) -> None:
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for stages in (survey_stages(config, clips), row_stages(config, clips)):
        _check_room([claim_of(pool) for pool in pools_of(stages)], has)


def _check_room(claims: list[PoolResources], has: dict[str, float]) -> None:
    """Ray waits for ever for an actor that no machine has room for."""
    for name, resource, needed in (
        ("CPU", "CPU", sum(claim.min_replicas * claim.cpus for claim in claims) + TASK_CPUS),
        ("GPU", "GPU", sum(claim.min_replicas * claim.gpus for claim in claims)),
        ("GiB", "memory", sum(claim.min_replicas * claim.memory_gib for claim in claims)),
    ):
        there = has.get(resource, 0) / (GIB if resource == "memory" else 1)
        if needed > there:
            raise ConfigError(
                f"expected a cluster with {needed:g} {name}s for the actors of preprocessing, got"
                f" {there:g}; lower the claims under cluster.*, or raise cluster.local_cpus"
                " (logical) or add machines"
            )
