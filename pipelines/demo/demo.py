"""Everything once, small and for real: clips, dataset, every stage, lineage, a server, a report.

The short passes of the teacher, stage I and stage II start from the models that the configuration
names for them, so that minutes of training keep their quality; stage III starts from the stage II
model made here. A second run makes only what is missing or has changed.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import yaml

from infra.config import DemoConfig, RunConfig
from infra.errors import ConfigError
from infra.leases.output_lease import OutputLease, hold_output
from infra.machine import machine_facts, version_facts
from infra.presets.overrides import apply_overrides
from infra.ray_cluster import local_cluster
from infra.runs.checkpoint_store import resolve_model, write_text_at_once
from infra.runs.loss_curve import CURVE_FILE, STEP, read_curve
from infra.runs.provenance import digest_of, read_model_manifest
from infra.runs.run_folder import result_folder, stage_folder
from infra.runs.stage_recipe import deciding_values
from infra.stages import STUDENT, TRAINED
from infra.terminal.progress import Progress
from omniforcing_model.beacons.metrics import Scores
from omniforcing_model.beacons.world import held_out_prompts
from omniforcing_model.weights.checkpoint_files import folder_digest
from pipelines.demo.demo_clips import gather_clips
from pipelines.demo.report.page import DemoRecord, StageRecord, write_report
from pipelines.demo.server_process import run_server
from pipelines.evaluation.evaluate import (
    DEFAULT_SEED,
    Candidate,
    Evaluation,
    configured_models,
    evaluate,
)
from pipelines.generate import GeneratedClip, Request, generate_from_server
from pipelines.lineage.lineage import lineage
from pipelines.preprocessing.preprocess import check_sizes, preprocess
from pipelines.reports.pictures import Curve
from pipelines.training.distill import DistillSummary, StageSummary, distill
from pipelines.training.stage_plan import refuse_idle_roles

STREAM_FILE = "stream.mp4"
SERVER_LOG = "serve.log"
CONFIG_FILE = "config.yaml"
SHIPPED = "shipped"
SHOWN_LOSSES = ("generator_loss", "critic_loss")
STREAM_SEED = 1
DIGEST_IN_NAMES = 12
# A student is as good as another one if it loses no more than this against it.
TOLERATED_OFFSET_MS = 15.0


class Choice(NamedTuple):
    """The model that is streamed, and why."""

    uri: str
    reason: str


@dataclass
class Phases:
    """Seconds by phase, in the order they were done."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done meanwhile under `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 2)


def demo(config: RunConfig, out: Path, media: Sequence[Path], progress: Progress) -> DemoRecord:
    """Do all of it in the folder `out`; leaves report.html, report.json and stream.mp4 there.

    Args:
        config: of the run; its demo section says how much of everything.
        out: folder; may hold an earlier demo.
        media: the user's own clips, files or folders, that join the rendered ones.
        progress: gets every phase.

    Raises what the phases raise: ConfigError, DatasetError, CheckpointError, ClusterError,
    DivergenceError, ServerError; OwnershipError if another demo is at work in `out`. What was
    started is stopped in any case.
    """
    small = short_pass(config)
    check_sizes(small)
    refuse_idle_roles(small, TRAINED)
    with hold_output(out, "demo", config.output.lease_s) as lease:
        return _demo(config, out, media, progress, lease)


def _demo(
    config: RunConfig, out: Path, media: Sequence[Path], progress: Progress, lease: OutputLease
) -> DemoRecord:
    """As `demo`, in a folder that is held."""
    began, phases = time.monotonic(), Phases()
    settings, small = demo_settings(config), short_pass(config)
    with phases.phase("clips"):
        gather_clips(out / "clips", settings.clips, config.data.seconds, media, progress)
    with ExitStack() as stack:
        if not any(result_folder(run, STUDENT).is_dir() for run in out.glob("run-*")):
            # Both parts below would start a cluster of their own; one is enough.
            with phases.phase("start Ray"):
                stack.enter_context(local_cluster(small.cluster))
        with phases.phase("preprocess"):
            dataset = preprocess(small, str(out / "clips"), str(out / "dataset"), progress)
        starts = starting_models(small)
        run = out / f"run-{_name_of(small, dataset.digest, starts)}"
        with phases.phase("distill"):
            trained = distill(small, dataset.dataset, str(run), TRAINED, starts, progress)
    tracked = _with_tracking(small, trained.tracking)
    with phases.phase("evaluate"):
        evaluation = _evaluate_models(tracked, trained, progress)
    choice = choose_student(tracked, trained, evaluation)
    with phases.phase("serve and stream"):
        stream = _stream(tracked, choice, out, progress)
    nodes = lineage(trained.model, trained.tracking)
    record = DemoRecord(
        preset=config.name,
        seconds=round(time.monotonic() - began, 1),
        phases_s=phases.seconds,
        dataset=dataset.model_dump(mode="json"),
        stages=tuple(_stage_record(small, run, stage) for stage in trained.stages),
        scores=evaluation.as_dict(),
        prompt=settings.prompt,
        streamed=choice.reason,
        stream=replace(stream, file=STREAM_FILE),
        lineage=[node.model_dump(mode="json") for node in nodes],
        versions=version_facts(),
        machine=machine_facts(),
    )
    lease.check()
    write_report(out, record, evaluation.samples, evaluation.measures)
    return record


def demo_settings(config: RunConfig) -> DemoConfig:
    """The demo section; ConfigError if the configuration has none."""
    if config.demo is None:
        raise ConfigError(
            f"expected a configuration with a demo, got demo: null in {config.name}; use --preset"
            " tiny, or give the section in a file that extends yours"
        )
    return config.demo


def short_pass(config: RunConfig) -> RunConfig:
    """`config` with the few steps and the small rate of its demo section in every stage."""
    small = demo_settings(config)
    overrides = [f"stages.trajectories.count={small.trajectories}"]
    for stage in TRAINED:
        optimiser = f"stages.{stage}.optimiser"
        overrides += [
            f"{optimiser}.steps={small.steps}",
            f"{optimiser}.learning_rate={small.learning_rate}",
            f"{optimiser}.warmup_steps={small.steps // 4}",
            f"{optimiser}.checkpoint_every={small.steps}",
        ]
    values = apply_overrides(config.model_dump(mode="json"), overrides)
    return RunConfig.model_validate(values)


def starting_models(config: RunConfig) -> dict[str, str]:
    """Model URI by the role that starts from it; stage III goes on from this run's stage II."""
    chosen = [model for model in configured_models(config) if model.stage != STUDENT]
    return {f"{model.stage}.generator": model.uri for model in chosen}


def _name_of(config: RunConfig, dataset_digest: str, starts: dict[str, str]) -> str:
    """Changed clips, settings or weights make another run folder, and the older ones stay."""
    tracking = config.tracking.uri
    decides = {
        "dataset": dataset_digest,
        **deciding_values(config),
        "stages": config.stages.model_dump(mode="json"),
        "starts": {
            role: folder_digest(resolve_model(uri, tracking)) for role, uri in starts.items()
        },
    }
    return digest_of(decides).removeprefix("sha256:")[:DIGEST_IN_NAMES]


def _with_tracking(config: RunConfig, uri: str) -> RunConfig:
    tracking = config.tracking.model_copy(update={"uri": uri})
    return config.model_copy(update={"tracking": tracking})


def _evaluate_models(config: RunConfig, trained: DistillSummary, progress: Progress) -> Evaluation:
    """Score the demo's own models, and the student they started from, the demo's prompt first."""
    results = {stage.stage: stage.result for stage in trained.stages}
    candidates = [model._replace(uri=results[model.stage]) for model in configured_models(config)]
    candidates.append(Candidate(SHIPPED, STUDENT, config.models.student))
    settings = demo_settings(config)
    prompts = [settings.prompt, *held_out_prompts(settings.prompts, DEFAULT_SEED)]
    return evaluate(config, candidates, prompts[: settings.prompts], progress)


def choose_student(config: RunConfig, trained: DistillSummary, evaluation: Evaluation) -> Choice:
    """The student this demo has trained if it is as good as the configured one, else that one."""
    manifest = read_model_manifest(Path(trained.model))
    assert manifest is not None, "distill publishes models with their manifest"
    own, shipped = evaluation.scores[STUDENT], evaluation.scores[SHIPPED]
    if is_as_good(own, shipped):
        return Choice(f"models:/{manifest.name}@candidate", "the student this demo has trained")
    return Choice(
        config.models.student,
        "the student that the configuration names, because the short pass has made a worse one",
    )


def is_as_good(own: Scores, other: Scores) -> bool:
    """Whether `own` loses at most one clip in every accuracy, and no sync that can be seen."""
    one_clip = 1 / max(1, own.clips) + 1e-9
    accuracies = ("rate_accuracy", "colour_accuracy", "pitch_accuracy")
    keeps = all(getattr(own, name) >= getattr(other, name) - one_clip for name in accuracies)
    return keeps and own.av_offset_ms_median <= other.av_offset_ms_median + TOLERATED_OFFSET_MS


def _stream(config: RunConfig, choice: Choice, out: Path, progress: Progress) -> GeneratedClip:
    """Deploy the chosen student, stream from it over HTTP, and stop the server."""
    resolved = out / CONFIG_FILE
    write_text_at_once(resolved, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    arguments = ["--config", str(resolved), "--model", choice.uri, "--port", "0"]
    settings = demo_settings(config)
    request = Request(settings.prompt, settings.seconds, STREAM_SEED)
    with ExitStack() as stack:
        with progress.stage("start server", 1) as stage:
            server = stack.enter_context(run_server(arguments, out / SERVER_LOG))
            stage.advance()
        generated = generate_from_server(config, server.url, request, out / STREAM_FILE, progress)
        with progress.stage("stop server", 1) as stage:
            stack.close()
            stage.advance()
    return generated


def _stage_record(config: RunConfig, run: Path, stage: StageSummary) -> StageRecord:
    steps = config.stages.trajectories.count
    losses: dict[str, Curve] = {}
    if stage.stage in TRAINED:
        curve = read_curve(stage_folder(run, stage.stage) / CURVE_FILE)
        steps = len(curve)
        for name in SHOWN_LOSSES:
            points = [(int(line[STEP]), line[name]) for line in curve if name in line]
            if points:
                losses[name.replace("_", " ")] = points
    return StageRecord(
        name=stage.stage,
        steps=steps,
        seconds=round(stage.seconds, 1),
        model=stage.result,
        digest=stage.digest,
        reused=not stage.made_now,
        losses=losses,
    )
