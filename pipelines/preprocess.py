"""Clips and captions to a dataset of latents: a Ray Data graph, and its commit.

    list clips -> rewrite captions -> text features -> probe, gates, decode -> latents -> shards

Frames are the heaviest column by far, so decoding stands right before the encoder that drops them.
Every clip ends in exactly one outcome, and none of them stops the others.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from actors.caption_rewriter import CaptionRewriting
from actors.clip_decoder import ClipDecoder
from actors.latent_encoder import LatentEncoder
from actors.text_encoder import CaptionEncoder
from infra.config import ActorResources, RunConfig
from infra.errors import ClusterError, ConfigError, DatasetError
from infra.latent_shards import DatasetManifest, ShardRecord, commit, shard_without
from infra.object_store import ObjectStore
from infra.outcome_table import (
    OUTCOMES,
    Outcome,
    OutcomeCounts,
    count_outcomes,
    write_outcomes,
)
from infra.package_files import with_absolute_codecs
from infra.progress import Progress
from infra.ray_cluster import local_cluster
from omniforcing_model.codecs.mel import SAMPLE_RATE
from pipelines.clip_listing import list_clips
from pipelines.preprocess_plan import (
    KIND,
    PreprocessPlan,
    finished_before,
    identify,
    plan_preprocessing,
)
from pipelines.shard_writing import ENDS, write_rows

# Small, so that clips of one batch of work fit in memory, and work spreads over the actors.
ROWS_PER_TASK = 4
WRITER_CPUS = 1.0


class PreprocessSummary(OutcomeCounts):
    """What a run did: rows by outcome, where the dataset is, and its digest."""

    dataset: str
    digest: str
    seconds: float


class Stage(NamedTuple):
    """One step of the graph: a plain class, its arguments, and what each copy claims."""

    actor: type[Any]
    arguments: dict[str, Any]
    claim: ActorResources


def preprocess(config: RunConfig, clips: str, out: str, progress: Progress) -> PreprocessSummary:
    """Make the dataset `out` from the folder `clips`; what is there already is not made again.

    The same clips and configuration give the same digest. DatasetError if there are no clips or
    none is usable (the outcomes are written all the same), ConfigError or CheckpointError if the
    configuration does not fit, ClusterError if Ray fails; a later call goes on where this stopped.
    """
    started = time.monotonic()
    source, target = ObjectStore(clips), ObjectStore(out)
    _check_size(config)
    _check_target(target)
    given = identify(config, list_clips(source), source, target)
    manifest = finished_before(given, target)
    if manifest is None:
        plan = plan_preprocessing(given, target)
        provenance = {
            "clips": source.uri,
            "input_digest": given.digest,
            "codecs": given.recipe["codecs"],
            "recipe": given.recipe,
            "config": config.model_dump(mode="json", include={"name", "data", "codec"}),
        }
        outcomes, shards = _carry_out(plan, config, source, target, progress)
        manifest = _commit(plan, outcomes, shards, target, provenance)
    counts = OutcomeCounts.model_validate(manifest.provenance["counts"])
    if counts.ok == 0:
        raise DatasetError(_nothing_usable(source, target, counts))
    return PreprocessSummary(
        **counts.model_dump(),
        dataset=target.uri,
        digest=manifest.digest,
        seconds=time.monotonic() - started,
    )


def stages(config: RunConfig, clips: str) -> list[Stage]:
    """The steps between a listed clip and a row of the dataset, in order."""
    cluster, config = config.cluster, with_absolute_codecs(config)
    decoding = {"data": config.data, "clips": clips, "sample_rate": SAMPLE_RATE}
    return [
        Stage(CaptionRewriting, {"rewriter": config.data.rewriter}, cluster.caption_rewriter),
        Stage(CaptionEncoder, {"config": config}, cluster.text_encoder),
        Stage(ClipDecoder, decoding, cluster.clip_decoder),
        Stage(LatentEncoder, {"config": config}, cluster.latent_encoder),
    ]


def graph(rows: list[dict[str, str]], config: RunConfig, clips: str, out: str) -> Dataset:
    """The steps as actor pools that stream into each other; gives `write_rows`' small rows."""
    tasks = math.ceil(len(rows) / ROWS_PER_TASK)
    dataset: Dataset = ray.data.from_items(rows, override_num_blocks=tasks)
    for stage in stages(config, clips):
        dataset = dataset.map_batches(
            stage.actor,
            batch_size=None,
            fn_constructor_kwargs=stage.arguments,
            compute=ActorPoolStrategy(size=min(stage.claim.replicas, tasks)),
            num_cpus=stage.claim.cpus,
            num_gpus=stage.claim.gpus,
        )
    shards = dataset.repartition(target_num_rows_per_block=config.data.rows_per_shard, strict=True)
    return shards.map_batches(partial(write_rows, out=out), batch_size=None, num_cpus=WRITER_CPUS)


def _carry_out(
    plan: PreprocessPlan,
    config: RunConfig,
    source: ObjectStore,
    target: ObjectStore,
    progress: Progress,
) -> tuple[list[Outcome], list[ShardRecord]]:
    """Work on what is missing; every row's outcome, and the shards that were written."""
    outcomes = list(plan.ended)
    shards: dict[str, ShardRecord] = {}
    with progress.stage("preprocess", total=len(outcomes) + len(plan.missing)) as stage:
        stage.advance(len(outcomes))
        if plan.missing:
            with local_cluster(config.cluster):
                for outcome, shard in _worked_on(plan.missing, config, source.uri, target.uri):
                    outcomes.append(outcome)
                    if shard:
                        record = ShardRecord.model_validate_json(shard)
                        shards[record.name] = record
                    stage.advance()
    return outcomes, list(shards.values())


def _worked_on(
    missing: list[Outcome], config: RunConfig, clips: str, out: str
) -> Iterator[tuple[Outcome, str]]:
    """Run the graph over `missing`; each row with its end, and the record of its shard."""
    _check_claims(config, clips)
    by_clip = {row.clip_uri: row for row in missing}
    columns = ("row_id", "clip_uri", "clip_digest", "caption_raw")
    rows = [{name: getattr(row, name) for name in columns} for row in missing]
    try:
        with _our_ray_data_settings():
            for row in graph(rows, config, clips, out).iter_rows():
                ended = {name: row[name] for name in ("caption", "rewritten", *ENDS)}
                yield by_clip[row["clip_uri"]]._replace(**ended), row["shard"]
    except RayError as error:
        reason = " ".join(str(error).strip().splitlines()[-1:])
        raise ClusterError(
            f"expected Ray to finish {len(rows)} clips, got: {reason}; correct the cause and run"
            " the same command again: what is finished is kept"
        ) from error


@contextmanager
def _our_ray_data_settings() -> Iterator[None]:
    """Ordered and quiet, for this run only: other work of this process may use Ray Data too."""
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    before = (context.execution_options.preserve_order, context.enable_progress_bars, logger.level)
    # The same rows go into the same shards, whichever actor is faster.
    context.execution_options.preserve_order = True
    # Our progress and our errors are enough: Ray Data narrates each execution.
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before[:2]
        logger.setLevel(before[2])


def _commit(
    plan: PreprocessPlan,
    outcomes: list[Outcome],
    shards: list[ShardRecord],
    target: ObjectStore,
    provenance: dict[str, Any],
) -> DatasetManifest:
    """Write outcomes, then the manifest; only then remove what no dataset names any more."""
    narrowed = [shard_without(target, name, gone) for name, gone in plan.narrowed.items()]
    written = {"name": OUTCOMES, "sha256": write_outcomes(target, outcomes)}
    counts = count_outcomes(outcomes).model_dump()
    manifest = commit(
        target.uri,
        KIND,
        [*plan.kept, *narrowed, *shards],
        {"counts": counts, "outcomes": written, **provenance},
    )
    named = {shard.name for shard in manifest.shards}
    for name in plan.stale:
        if name not in named:
            target.delete(name)
    return manifest


def _nothing_usable(source: ObjectStore, target: ObjectStore, counts: OutcomeCounts) -> str:
    reasons = ", ".join(
        f"{n} {reason}" for reason, n in sorted((counts.filtered | counts.quarantined).items())
    )
    return (
        f"expected a usable clip in {source.uri}, got none of {counts.rows}: {reasons};"
        f" {target.uri}/{OUTCOMES} says why for each"
    )


def _check_size(config: RunConfig) -> None:
    data, stride = config.data, config.model.spatial_stride
    if data.height % stride or data.width % stride:
        raise ConfigError(
            f"expected data.height and data.width as multiples of {stride} (model.spatial_stride),"
            f" got {data.height} x {data.width}; change them"
        )


def _check_target(target: ObjectStore) -> None:
    if target.is_local and Path(target.uri).exists() and not target.exists():
        raise DatasetError(
            f"expected a folder for the dataset at {target.uri}, got a file; name another place"
        )


def _check_claims(config: RunConfig, clips: str) -> None:
    """Ray waits for ever for an actor that no machine has room for."""
    claims = [stage.claim for stage in stages(config, clips)]
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, needed in (
        ("CPU", sum(claim.replicas * claim.cpus for claim in claims) + WRITER_CPUS),
        ("GPU", sum(claim.replicas * claim.gpus for claim in claims)),
    ):
        if needed > has.get(name, 0):
            raise ConfigError(
                f"expected a cluster with {needed:g} {name}s for the actors of preprocessing, got"
                f" {has.get(name, 0):g}; lower the claims under cluster.*, or raise"
                " cluster.local_cpus (logical) or add machines"
            )
