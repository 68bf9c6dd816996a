"""A very small run to train on: two layers, a dozen clips of noise, steps of a few milliseconds."""

import numpy as np
import torch

from actors.latents.caption_encoder import CaptionEncoder
from infra.dataset.latent_table import LatentTable
from infra.dataset.manifest import commit
from infra.dataset.shards import write_shard
from infra.presets import load_preset
from infra.runs.loss_curve import LossCurve
from infra.runs.provenance import ModelManifest, digest_of
from omniforcing_model.distillation.ode_trajectory import make_trajectories
from omniforcing_model.distillation.trained_transformer import SharedPasses, TrainedTransformer
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.checkpoint_files import folder_digest, save_model

CLIPS = 12
SIGMAS = (1.0, 0.5)
SMALL = (
    "model.layers=1",
    "model.video={latent_channels: 4, heads: 2, head_dim: 8}",
    "model.audio={latent_channels: 3, heads: 2, head_dim: 8}",
    "model.text_width=16",
    "model.spatial_stride=32",
    "model.layout.sinks=2",
    "codec.text_tokens=6",
    "sampling.student_sigmas=[1.0, 0.5]",
    "data.seconds=1",
    "data.height=32",
    "data.width=32",
    "stages.trajectories.count=8",
    "stages.trajectories.batch=4",
    "stages.trajectories.rows_per_shard=4",
)
STAGES = ("teacher", "stage_1", "stage_2", "stage_3")


def small_run(*overrides, steps=4, batch=4, micro_batch=2, zero_stage=1):
    """The configuration of a run of a few quick steps per stage."""
    settings = {
        "steps": steps,
        "batch": batch,
        "micro_batch": micro_batch,
        "warmup_steps": 2,
        "decay_share": 0.25,
        "checkpoint_every": 2,
        "zero_stage": zero_stage,
    }
    each = [f"stages.{s}.optimiser.{key}={v}" for s in STAGES for key, v in settings.items()]
    ratios = [f"stages.{stage}.critic_ratio=2" for stage in ("stage_1", "stage_3")]
    return load_preset("tiny", [*SMALL, *each, *ratios, *overrides])


def run_worker(worker, stop_after=None):
    """Train to the end, or as if killed after so many steps, and close; the figures of every step
    that was made."""
    figures = []

    def after_step(step, of_step):
        figures.append(of_step)
        if step == stop_after:
            raise KeyboardInterrupt

    try:
        worker.run(after_step)
    except KeyboardInterrupt:
        assert stop_after is not None
    finally:
        worker.close()
    return figures


def loss_of(objective, role, models, batch, generator, backward=True):
    """A role's loss and its parts, summed over its terms, whose gradients are taken in turn."""
    sums = {}
    called = {name: in_passes(model) for name, model in models.items()}
    for term in objective.losses(role, called, batch, generator):
        if backward and term["loss"].requires_grad:
            term["loss"].backward()
        for name, value in term.items():
            sums[name] = sums.get(name, 0) + value.detach()
    return sums


def in_passes(model):
    """A transformer as training calls it; what stands in for one as it is."""
    if not isinstance(model, DualStreamTransformer):
        return model
    return SharedPasses(model, TrainedTransformer(model))


def latent_counts(config):
    layout = BlockLayout(config.model.layout)
    return layout.latents(layout.blocks_for_seconds(config.data.seconds))


def grid_of(config):
    """Latent (height, width) of the run's clips."""
    return latent_grid(config.data.height, config.data.width, config.model.spatial_stride)


def write_clips(config, folder, clips=CLIPS, seed=0):
    """A dataset of `clips` random clips; returns its URI."""
    rng = np.random.default_rng(seed)
    counts, model = latent_counts(config), config.model
    captions = np.array([f"clip number {index}" for index in range(clips)], dtype=object)
    good = np.array(["ok"] * clips, dtype=object)
    features = CaptionEncoder(config)({"caption": captions, "text_outcome": good})
    del features["text_outcome"]
    names = [f"{seed:02d}{index:04d}" for index in range(clips)]
    columns = {
        "row_id": np.array(names, dtype=object),
        "clip_uri": np.array([f"/clips/{name}.mp4" for name in names], dtype=object),
        "clip_digest": np.array([f"sha256:{name}" for name in names], dtype=object),
        "caption_raw": np.array([f"{text}!" for text in captions], dtype=object),
        **features,
        "video": rng.standard_normal(
            (clips, counts.video, model.video.latent_channels, *grid_of(config)), np.float32
        ),
        "audio": rng.standard_normal(
            (clips, counts.audio, model.audio.latent_channels), np.float32
        ),
    }
    half = clips // 2
    shards = [
        write_shard(folder, {name: values[part] for name, values in columns.items()})
        for part in (slice(0, half), slice(half, None))
    ]
    commit(folder, "latents", shards, {})
    return str(folder)


def write_trajectories(config, folder, count=8):
    """Trajectories of a random model, without Ray, and the rows that they name beside them; returns
    their URI."""
    model = random_model(config, seed=3)
    text = torch.randn(count, config.codec.text_tokens, config.model.text_width)
    prompts = folder.with_name(f"{folder.name}-prompts")
    rows = {
        "row_id": np.array([f"prompt-{count - index:04d}" for index in range(count)], dtype=object),
        "caption": np.array(["a clip"] * count, dtype=object),
        "video_text": text.numpy(),
        "audio_text": text.numpy(),
    }
    digest = commit(prompts, "latents", [write_shard(prompts, rows)], {}).digest
    table = LatentTable.open(prompts)
    shape = ClipShape(count, latent_counts(config), grid_of(config))
    states = make_trajectories(
        model, PerStream(text, text), shape, SIGMAS, seeded_noise(list(range(count)))
    )
    columns = {
        "row_id": np.array([f"{index:04d}" for index in range(count)], dtype=object),
        "caption": rows["caption"],
        "prompt_row": rows["row_id"],
        "prompt_digest": np.array(table.text_digests(table.find(rows["row_id"])), dtype=object),
        "video_states": states.video.numpy(),
        "audio_states": states.audio.numpy(),
    }
    place = {"role": "clips", "kind": "dataset", "name": "clips", "digest": digest}
    provenance = {"sigmas": [*SIGMAS, 0.0], "inputs": [place | {"uri": str(prompts)}]}
    commit(folder, "trajectories", [write_shard(folder, columns)], provenance)
    return str(folder)


def random_model(config, seed=0):
    """A model whose every weight is random, output layer included."""
    torch.manual_seed(seed)
    model = DualStreamTransformer(config.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def write_model(config, folder, seed=0):
    """A model folder of random weights; returns its path as text."""
    save_model(folder, random_model(config, seed), {"name": folder.name})
    return str(folder)


class Workers:
    """Workers that take the next of some actions at every look, and then have ended."""

    def __init__(self, *actions, error=None):
        self._actions, self._error = list(actions), error

    def has_ended(self):
        if not self._actions:
            return True
        self._actions.pop(0)()
        return False

    def join(self):
        if self._error is not None:
            raise self._error


def publish(stage, recipe, seed=0):
    """Leave a random model as the result of a resolved stage, made by `recipe`."""
    publish_model(stage.work.config, stage.folder, stage.name, recipe, stage.inputs, seed)


def publish_model(config, folder, stage, recipe, inputs, seed=0):
    """A model folder of random weights, as if a stage had made it by `recipe` of `inputs`."""
    write_model(config, folder, seed)
    manifest = ModelManifest(
        name=f"tiny-{stage}",
        stage=stage,
        digest=folder_digest(folder),
        recipe_digest=digest_of(recipe),
        recipe=recipe,
        inputs=tuple(inputs),
        commit="c0ffee",
        seed=0,
        step=2,
        metrics={},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def write_curve(path, steps):
    """A curve whose loss falls."""
    curve = LossCurve(path, 0)
    for step in range(1, steps + 1):
        curve.append(step, {"generator_loss": 1.0 / step, "generator_video": 0.5})
    curve.close()
