"""ODE trajectories, what stage II regresses: a Ray Data job.

Each row of the job is the number of a shard. An actor, or a group of them where one GPU does not
hold the model, makes the shard and writes it; only its record travels. What a stopped job has
finished is kept and not made again.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy

from actors.training.guided_sampling import trajectory_sigmas
from actors.training.teacher_sampler import TeacherSampler, TrajectoryWork
from actors.training.trajectory_shards import prompt_table, trajectory_shards
from infra.config import ClusterConfig
from infra.dataset.manifest import DatasetManifest, commit
from infra.dataset.shards import ShardRecord
from infra.errors import ConfigError
from infra.leases.output_lease import OutputLease, hold_output
from infra.runs.checkpoint_store import write_text_at_once
from infra.runs.provenance import code_commit, digest_of
from infra.stages import TRAJECTORIES
from infra.terminal.progress import Progress
from pipelines.ray_jobs.settings import ray_data_settings
from pipelines.ray_jobs.tasks import translated_ray_errors
from pipelines.training.sampler_group import SamplerGroup
from pipelines.training.stage_plan import ResolvedStage

# Records of finished shards, by recipe, until the manifest is written.
LEDGER = ".finished"
NOTHING: dict[str, Any] = {"num_cpus": 0}


def make_teacher_trajectories(stage: ResolvedStage, progress: Progress) -> DatasetManifest:
    """Make the trajectories of a stage on the Ray cluster that is connected, and commit them.

    Args:
        stage: model, prompts and place; its recipe and inputs go into the manifest.
        progress: gets a step per trajectory.

    Raises:
        ConfigError: a local cluster does not hold a sampler.
        SamplingError: the teacher's steps are too few for the student's sigmas, or differ by size.
        DatasetError: the prompts cannot be read.
        ClusterError: Ray failed; another call goes on where this one stopped.
        OwnershipError: another run, or `dataset gc`, is at work in its folder, or has taken over.
    """
    lease_s = stage.work.config.output.lease_s
    with hold_output(stage.folder, "distill (trajectories)", lease_s) as lease:
        return _make(stage, progress, lease)


def _make(stage: ResolvedStage, progress: Progress, lease: OutputLease) -> DatasetManifest:
    work, out = stage.work, stage.folder
    assert isinstance(work, TrajectoryWork), f"{stage.name} is a job of its own"
    settings = work.config.stages.trajectories
    _require_room(work.config.cluster)
    sigmas = trajectory_sigmas(work.config, work.config.model)
    count = len(trajectory_shards(work.config, prompt_table(work.config, work.dataset)))
    ledger = ledger_folder(stage)
    ledger.mkdir(parents=True, exist_ok=True)
    lease.check()
    finished = _finished_shards(ledger, out)
    with progress.stage(stage.name, settings.count) as bar:
        bar.advance(sum(record.rows for record in finished.values()))
        for number, record in _shards([n for n in range(count) if n not in finished], work):
            lease.raise_if_lost()
            write_text_at_once(ledger / f"{number:07d}.json", record.model_dump_json())
            finished[number] = record
            bar.advance(record.rows)
    manifest = commit(
        out,
        TRAJECTORIES,
        [finished[number] for number in sorted(finished)],
        {
            "sigmas": sigmas,
            "recipe": stage.recipe,
            "recipe_digest": stage.recipe_digest,
            "inputs": [ref.model_dump() for ref in stage.inputs],
            "commit": code_commit(),
            "seed": settings.seed,
        },
        fence=lease.fence,
    )
    lease.check()
    shutil.rmtree(out / LEDGER, ignore_errors=True)
    return manifest


def _require_room(cluster: ClusterConfig) -> None:
    """A local cluster never grows: a sampler that it does not hold would wait for ever."""
    claim = cluster.teacher_sampler
    needed = claim.processes * claim.cpus
    if cluster.address is None and needed > cluster.local_cpus:
        raise ConfigError(
            f"expected a cluster with {needed:g} CPUs for a sampler of {claim.processes} processes,"
            f" got {cluster.local_cpus}; lower processes or cpus of cluster.teacher_sampler, or"
            " raise cluster.local_cpus (logical)"
        )


def ledger_folder(stage: ResolvedStage) -> Path:
    """Where finished shards are noted: of this recipe, and with as many rows each."""
    assert isinstance(stage.work, TrajectoryWork), f"{stage.name} is a job of its own"
    rows = stage.work.config.stages.trajectories.rows_per_shard
    digest = digest_of([stage.recipe_digest, rows])
    return stage.folder / LEDGER / digest.removeprefix("sha256:")[:32]


def _finished_shards(ledger: Path, out: Path) -> dict[int, ShardRecord]:
    """Shards that an earlier job of this recipe has written whole, by number.

    A damaged one is removed: a file that is there would not be written again.
    """
    finished: dict[int, ShardRecord] = {}
    for path in ledger.glob("[0-9]*.json"):
        record = ShardRecord.model_validate_json(path.read_text(encoding="utf-8"))
        shard = out / record.name
        if shard.is_file() and shard.stat().st_size == record.bytes:
            finished[int(path.stem)] = record
        else:
            shard.unlink(missing_ok=True)
    return finished


def _shards(numbers: list[int], work: TrajectoryWork) -> Iterator[tuple[int, ShardRecord]]:
    if not numbers:
        return
    claim = work.config.cluster.teacher_sampler
    # A group's processes claim what they need; the actor that has them computes nothing.
    several = claim.processes > 1
    sampler, options = (SamplerGroup, NOTHING) if several else (TeacherSampler, claim.ray_options)
    with ray_data_settings(), translated_ray_errors():
        rows = [{"id": number} for number in numbers]
        shards = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            sampler,
            batch_size=1,
            fn_constructor_args=(work,),
            compute=ActorPoolStrategy(size=min(claim.replicas, len(rows))),
            **options,
        )
        for row in shards.iter_rows():
            yield int(row["id"]), ShardRecord.model_validate_json(row["record"])
