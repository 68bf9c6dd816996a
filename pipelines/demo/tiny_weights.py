"""Makes everything under omniforcing_model/tiny_weights from nothing: clips, codecs, every stage.

The only step that is not an ordinary command is fitting the codecs; the rest is render, preprocess,
distill and evaluate. What is there already is not made again, so a stopped run goes on.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.config import RunConfig
from infra.leases.output_lease import OutputLease, hold_output
from infra.media.files import read_frames, read_waveform
from infra.records import Record
from infra.runs.checkpoint_store import write_text_at_once
from infra.runs.provenance import MANIFEST, read_model_manifest
from infra.runs.run_folder import result_folder
from infra.stages import STAGES, STUDENT, TRAINED
from infra.terminal.progress import Progress
from omniforcing_model.beacons.world import held_out_prompts
from omniforcing_model.codecs.mel import SAMPLE_RATE
from omniforcing_model.codecs.pixels import from_pixels
from omniforcing_model.codecs.tiny.audio_codec import TinyAudioCodec
from omniforcing_model.codecs.tiny.video_codec import TinyVideoCodec
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model, save_model
from pipelines.demo.render_clips import CAPTIONS_FILE, render_clips
from pipelines.evaluation.evaluate import Candidate, configured_models, evaluate
from pipelines.preprocessing.preprocess import preprocess
from pipelines.training.distill import distill

CLIPS = 600
FITTED_CLIPS = 150
FIT_BATCH = 25
HELD_PROMPTS = 64
HELD_SEED = 7
SHIPPED_NAMES = {stage: stage for stage in STAGES} | {STUDENT: "student"}
CODEC_FILES = ("video_codec.safetensors", "audio_codec.safetensors")
DATASET = "dataset"
METRICS = "metrics.json"


class TinyWeights(Record):
    """Where the weights are now, and their scores on the held prompts."""

    folder: str
    dataset_digest: str
    scores: dict[str, Any]


def make_tiny_weights(
    config: RunConfig, run: Path, target: Path, progress: Progress, seed: int = 0
) -> TinyWeights:
    """Train the codecs and every stage in the folder `run`, score them, and put them in `target`.

    Args:
        config: the tiny preset; its codec URIs are replaced by the codecs fitted here.
        run: gets clips, codecs, dataset and stages.
        target: gets {video,audio}_codec.safetensors, a folder per model, and metrics.json.
        progress: shows each part.
        seed: of the clips.

    OwnershipError if another run is at work in `run`.
    """
    with hold_output(run, "tiny-weights", config.output.lease_s) as lease:
        return _make(config, run, target, progress, seed, lease)


def _make(
    config: RunConfig,
    run: Path,
    target: Path,
    progress: Progress,
    seed: int,
    lease: OutputLease,
) -> TinyWeights:
    """As `make_tiny_weights`, in a folder that is held."""
    clips = _render(config, run / "clips", seed, progress)
    fitted = _with_codecs(config, _fit_codecs(config, clips, run / "codecs", progress))
    dataset = preprocess(fitted, str(clips), str(run / DATASET), progress)
    distill(fitted, dataset.dataset, str(run), TRAINED, {}, progress)
    lease.check()
    ship(run, target)
    shipped = [
        Candidate(model.name, model.stage, str(target / SHIPPED_NAMES[model.stage]))
        for model in configured_models(fitted)
    ]
    result = evaluate(fitted, shipped, held_out_prompts(HELD_PROMPTS, HELD_SEED), progress)
    scores = {
        name: {key: value for key, value in values.items() if key != "model"}
        for name, values in result.as_dict().items()
    }
    summary = {"dataset_digest": dataset.digest, "seed": seed, "scores": scores}
    write_text_at_once(target / METRICS, json.dumps(summary, indent=1))
    return TinyWeights(folder=str(target), dataset_digest=dataset.digest, scores=scores)


def ship(run: Path, target: Path) -> None:
    """Copy codecs, models (as float16) and the trajectories' manifest from `run` to `target`.

    Manifests name their inputs by the digests and places they have in `target`, so that the lineage
    of a shipped model can be followed up to the dataset, which is not shipped.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in CODEC_FILES:
        (target / name).write_bytes((run / "codecs" / name).read_bytes())
    dataset = json.loads((run / DATASET / MANIFEST).read_text())["digest"]
    shipped = {dataset: {"digest": dataset, "uri": f"../{DATASET}"}}  # its digest alone ships
    for stage, spec in STAGES.items():
        ship_result = _ship_model if spec.is_trained else _ship_trajectories
        ship_result(result_folder(run, stage), target / SHIPPED_NAMES[stage], shipped)


def _ship_model(source: Path, target: Path, shipped: dict[str, dict[str, str]]) -> None:
    manifest = read_model_manifest(source)
    assert manifest is not None, "distill publishes models with their manifest"
    notes = json.loads((source / "config.json").read_text())
    del notes["model"]
    save_model(target, load_model(source), notes, torch.float16)
    digest = folder_digest(target)
    inputs = tuple(ref.model_copy(update=shipped.get(ref.digest, {})) for ref in manifest.inputs)
    changed = manifest.model_copy(update={"digest": digest, "inputs": inputs})
    write_text_at_once(target / MANIFEST, changed.model_dump_json(indent=1))
    shipped[manifest.digest] = {"digest": digest, "uri": f"../{target.name}"}


def _ship_trajectories(source: Path, target: Path, shipped: dict[str, dict[str, str]]) -> None:
    target.mkdir(exist_ok=True)
    manifest = json.loads((source / MANIFEST).read_text())
    for ref in manifest["provenance"]["inputs"]:
        ref.update(shipped.get(ref["digest"], {}))
    write_text_at_once(target / MANIFEST, json.dumps(manifest, indent=1))
    shipped[manifest["digest"]] = {"digest": manifest["digest"], "uri": f"../{target.name}"}


def _render(config: RunConfig, clips: Path, seed: int, progress: Progress) -> Path:
    with progress.stage("render", CLIPS) as stage:
        if not (clips / CAPTIONS_FILE).exists():
            render_clips(clips, CLIPS, seed, config.data.seconds)
        stage.advance(CLIPS)
    return clips


def _with_codecs(config: RunConfig, folder: Path) -> RunConfig:
    files = {name: str(folder / f"{name}_codec.safetensors") for name in ("video", "audio")}
    return config.model_copy(update={"codec": config.codec.model_copy(update=files)})


def _fit_codecs(config: RunConfig, clips: Path, folder: Path, progress: Progress) -> Path:
    """Fit both codecs on the first clips, as they come out of their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(clips.glob("*.mp4"))[:FITTED_CLIPS]
    video, audio = folder / "video_codec.safetensors", folder / "audio_codec.safetensors"
    with progress.stage("fit codecs", 2) as stage:
        if not video.exists():
            channels = config.model.video.latent_channels
            TinyVideoCodec.fit(_frames(config, files), channels=channels).save(video)
        stage.advance()
        if not audio.exists():
            layout = BlockLayout(config.model.layout)
            latents = layout.latents(layout.blocks_for_seconds(config.data.seconds)).audio
            channels = config.model.audio.latent_channels
            TinyAudioCodec.fit(_waveforms(config, files), latents, channels=channels).save(audio)
        stage.advance()
    return folder


def _frames(config: RunConfig, files: Sequence[Path]) -> Iterator[Tensor]:
    """Batches (clips, frames, 3, height, width) in [-1, 1]."""
    count = frames_for_seconds(config.data.seconds)
    size = (config.data.height, config.data.width)
    for start in range(0, len(files), FIT_BATCH):
        batch = [
            read_frames(f, size=size, max_frames=count) for f in files[start : start + FIT_BATCH]
        ]
        pixels = torch.stack([torch.from_numpy(frames.copy()) for frames in batch])
        yield from_pixels(pixels)


def _waveforms(config: RunConfig, files: Sequence[Path]) -> Iterator[Tensor]:
    """Batches (clips, 2, samples) at the audio codec's rate."""
    seconds = frames_for_seconds(config.data.seconds) / VIDEO_FPS
    for start in range(0, len(files), FIT_BATCH):
        batch = [
            read_waveform(f, SAMPLE_RATE, 2, seconds) for f in files[start : start + FIT_BATCH]
        ]
        samples = min(waveform.shape[1] for waveform in batch)
        yield torch.stack([torch.from_numpy(w[:, :samples].copy()) for w in batch])
