"""What a command would do: stages with their claims, steps and memory."""

from typing import Any, Literal

from infra.claims import ActorClaim, LaterPoolResources
from infra.config import RunConfig
from infra.stages import STAGES, TRAJECTORIES, StageSpec, TrainedStageConfig
from pipelines.planning.memory import model_memory
from pipelines.planning.preprocess_costs import preprocess_costs
from pipelines.planning.training_plan import training_plan

Job = Literal["preprocess", "distill", "serve"]
JOBS: tuple[Job, ...] = ("preprocess", "distill", "serve")


def plan(
    config: RunConfig, jobs: tuple[Job, ...] = JOBS, gpu_gib: float | None = None
) -> dict[str, Any]:
    """Configuration, each job's stages in order, sizes and costs, as plain values.

    Args:
        config: of the run.
        jobs: that are planned.
        gpu_gib: memory of a worker's device, for the verdict on training.
    """
    stages = {"preprocess": _preprocess, "distill": _distill, "serve": _serve}
    planned: dict[str, Any] = {
        "preset": config.name,
        "jobs": {job: stages[job](config) for job in jobs},
    }
    if "preprocess" in jobs:
        planned["preprocess_costs"] = preprocess_costs(config)
    if "distill" in jobs:
        planned |= training_plan(config, gpu_gib)
    if "distill" in jobs or "serve" in jobs:
        planned["memory"] = model_memory(config)
    return planned | {"config": config.model_dump(mode="json")}


def _preprocess(config: RunConfig) -> list[dict[str, Any]]:
    cluster, data = config.cluster, config.data
    stages = [
        _stage("clip_surveyor", cluster.clip_surveyor, "clip", _windows(config)),
        _stage("clip_decoder", cluster.clip_decoder, "window", "frames, waveform, gates"),
    ]
    for name, claim, takes, gives in (
        ("latent_encoder", cluster.latent_encoder, "frames, waveform", "latents per stream"),
        ("caption_rewriter", cluster.caption_rewriter, "caption", f"by {data.rewriter.kind}"),
        ("text_encoder", cluster.text_encoder, "caption", "text features per stream"),
    ):
        stages.append(_stage(name, claim, takes, gives) | _pool_of(claim, stages[-1]))
    return [*stages, _stage("shards", None, "rows", f"Parquet, {data.rows_per_shard} rows a shard")]


def _pool_of(claim: LaterPoolResources, previous: dict[str, Any]) -> dict[str, Any]:
    """A stage that works in the actors of the one before it has as many as that."""
    pool = ("replicas", "min_replicas")
    return {name: previous[name] for name in pool} if claim.with_previous else {}


def _windows(config: RunConfig) -> str:
    sizes = ", ".join(f"{size.height} x {size.width}" for size in config.data.sizes)
    return f"windows by {config.data.split.kind}, in {sizes}"


def _distill(config: RunConfig) -> list[dict[str, Any]]:
    return [_distill_stage(config, name, spec) for name, spec in STAGES.items()]


def _distill_stage(config: RunConfig, name: str, spec: StageSpec) -> dict[str, Any]:
    cluster, settings = config.cluster, config.stages.of(name)
    rows = TRAJECTORIES if spec.reads == TRAJECTORIES else "dataset"
    takes = ", ".join(dict.fromkeys((rows, *spec.starts_from.values())))
    if isinstance(settings, TrainedStageConfig):
        planned = _stage(name, cluster.distillation_worker, takes, spec.about)
        return planned | _training_steps(settings)
    trajectories = config.stages.trajectories
    steps = {"steps": -(-trajectories.count // trajectories.batch), "batch": trajectories.batch}
    return _stage(name, cluster.teacher_sampler, takes, spec.about) | steps


def _training_steps(settings: TrainedStageConfig) -> dict[str, int]:
    """Steps and batch, and how often each of several roles learns."""
    optimiser, roles = settings.optimiser, settings.roles
    updates = {f"{role.name}_steps": role.updates for role in roles if len(roles) > 1}
    return {"steps": optimiser.steps, "batch": optimiser.batch} | updates


def _serve(config: RunConfig) -> list[dict[str, Any]]:
    cluster = config.cluster
    streams = [
        _stage("video_stream", cluster.video_stream, "prompt", "picture, one second a block"),
        _stage("audio_stream", cluster.audio_stream, "prompt", "sound, one second a block"),
    ]
    if config.serve.layout == "colocated":
        streams = [_stage("video_stream", cluster.video_stream, "prompt", "picture and sound")]
    return [
        _stage("gateway", cluster.gateway, "HTTP", "fragmented MP4, sessions"),
        _stage("prompt_encoder", cluster.prompt_encoder, "prompt", "text features"),
        *(stage | {"replicas": config.serve.pairs} for stage in streams),
    ]


def _stage(name: str, claim: ActorClaim | None, takes: str, gives: str) -> dict[str, Any]:
    resources = (claim or ActorClaim(cpus=0, gpus=0)).model_dump()
    return {"stage": name, "takes": takes, "gives": gives, "replicas": 1} | resources
