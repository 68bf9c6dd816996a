"""The preset `tiny` trained on its own world: beacons, its shipped models, and what they sample."""

import math

import numpy as np
import torch

from actors.latents.caption_encoder import CaptionEncoder
from actors.latents.latent_encoder import LatentEncoder
from infra.dataset.latent_table import LatentTable
from infra.dataset.manifest import commit
from infra.dataset.shards import write_shard
from infra.presets import load_preset
from infra.runs.checkpoint_store import resolve_model
from infra.stages import STAGES
from omniforcing_model.beacons.world import (
    FPS,
    beacon_caption,
    render_frames,
    render_waveform,
    sample_beacon,
)
from omniforcing_model.codecs.mel import SAMPLE_RATE
from omniforcing_model.distillation.ode_trajectory import make_trajectories
from omniforcing_model.latent_clock import frames_for_seconds
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.weights.checkpoint_files import load_model
from tests.worlds.training import grid_of, latent_counts


def tiny_run(stage, steps, precision, batch):
    """`tiny` with `steps` of a stage, `batch` clips of two seconds each; four take a core about a
    second."""
    optimiser = (f"steps={steps}", f"batch={batch}", "micro_batch=4", f"precision={precision}")
    of_stage = [f"stages.{stage}.optimiser.{setting}" for setting in optimiser]
    return load_preset("tiny", ["data.seconds=2", *of_stage])


def write_beacons(config, folder, clips=24, seed=0):
    """A dataset of encoded beacons with their captions; returns its URI."""
    rng, encoder = np.random.default_rng(seed), LatentEncoder(config)
    frames = frames_for_seconds(config.data.seconds)
    beacons = [sample_beacon(rng) for _ in range(clips)]
    captions = [beacon_caption(beacon, number) for number, beacon in enumerate(beacons)]
    encoded = [
        encoder.encode(
            render_frames(beacon, frames),
            np.stack(2 * [render_waveform(beacon, frames / FPS, SAMPLE_RATE)]),
        )
        for beacon in beacons
    ]
    columns = {
        **_text_columns(config, captions),
        "row_id": np.array([f"beacon-{number:04d}" for number in range(clips)], dtype=object),
        "clip_uri": np.array([f"/clips/{n:04d}.mp4" for n in range(clips)], dtype=object),
        "clip_digest": np.array([f"sha256:{n:04d}" for n in range(clips)], dtype=object),
        "caption_raw": np.array(captions, dtype=object),
        "video": np.stack([clip.video for clip in encoded]),
        "audio": np.stack([clip.audio for clip in encoded]),
    }
    commit(folder, "latents", [write_shard(folder, columns)], {})
    return str(folder)


def _text_columns(config, captions):
    texts = np.array(captions, dtype=object)
    good = np.array(["ok"] * len(captions), dtype=object)
    columns = CaptionEncoder(config)({"caption": texts, "text_outcome": good})
    del columns["text_outcome"]
    return columns


def write_beacon_trajectories(config, folder, clips):
    """Trajectories of the shipped stage I model for the rows of `clips`; returns their URI."""
    table = LatentTable.open(clips)
    rows = table.read(np.arange(table.rows), ["row_id", "caption", "video_text", "audio_text"])
    text = PerStream(*(torch.from_numpy(rows[name]) for name in ("video_text", "audio_text")))
    shape = ClipShape(table.rows, latent_counts(config), grid_of(config))
    sigmas = config.sampling.student_sigmas
    model = load_model(resolve_model(config.models.stage_1))
    noise = seeded_noise(list(range(table.rows)))
    states = make_trajectories(model, text, shape, sigmas, noise)
    columns = {
        "row_id": rows["row_id"],
        "caption": rows["caption"],
        "prompt_row": rows["row_id"],
        "prompt_digest": np.array(table.text_digests(np.arange(table.rows)), dtype=object),
        "video_states": states.video.numpy(),
        "audio_states": states.audio.numpy(),
    }
    place = {"role": "clips", "kind": "dataset", "name": "clips", "digest": table.manifest.digest}
    provenance = {"sigmas": [*sigmas, 0.0], "inputs": [place | {"uri": clips}]}
    commit(folder, "trajectories", [write_shard(folder, columns)], provenance)
    return str(folder)


def train_tiny(config, stage, data, folder):
    """Train a stage from the shipped models of the stages before it, in this process.

    Returns the figures of every step, and how far each role's weights have travelled.
    """
    from actors.training.distillation_worker import DistillationWorker, StageWork

    starts = {role: config.models.of(of) for role, of in STAGES[stage].starts_from.items()}
    worker = DistillationWorker(StageWork(stage, config, str(folder), data, starts, ()))
    begun = {role: _weights(engine) for role, engine in worker._engines.items()}
    figures = [worker.step() for _ in range(worker.steps)]
    travelled = {
        role: math.dist(begun[role], _weights(engine)) for role, engine in worker._engines.items()
    }
    worker.close()
    return figures, travelled


def _weights(engine):
    return torch.cat([shard.values for shard in engine.shards().values()]).tolist()
