"""A dataset of clips of several sizes, its rows and tensors in files of their own."""

import numpy as np
import pyarrow as pa

from actors.latents.caption_encoder import CaptionEncoder
from infra.config import FrameSize
from infra.dataset.manifest import commit
from infra.dataset.shards import row_digests, write_shard, write_table
from infra.storage.object_store import ObjectStore
from omniforcing_model.latent_grid import latent_grid
from tests.worlds.training import latent_counts

SQUARE, WIDE = FrameSize(height=32, width=32), FrameSize(height=32, width=64)
# `small_run` trains on squares; with this on wide clips too.
TWO_SIZES = "data.buckets=[{height: 32, width: 64}]"


def write_sized_clips(config, folder, clips, seed=0):
    """So many random clips of each size; `clips`: numbers by size. Returns the dataset's URI."""
    rng, shards, tables = np.random.default_rng(seed), [], []
    for size, count in clips.items():
        names = [f"{size.height}x{size.width}-{number:03d}" for number in range(count)]
        latents = write_shard(folder, _latents(config, size, names, rng), "latents")
        captions = np.array([f"clip {name}" for name in names], dtype=object)
        text = write_shard(folder, _text(config, captions, names), "text")
        rows = _rows(size, names, captions.tolist(), latents.name, text.name)
        tables.append(write_table(ObjectStore(folder), pa.table(rows), "rows"))
        shards += [latents, text]
    commit(folder, "latents", shards, {}, tables)
    return str(folder)


def _latents(config, size, names, rng):
    counts, model = latent_counts(config), config.model
    grid = latent_grid(size.height, size.width, model.spatial_stride)
    video = (len(names), counts.video, model.video.latent_channels, *grid)
    audio = (len(names), counts.audio, model.audio.latent_channels)
    return {
        "row_id": np.array(names, dtype=object),
        "video": rng.standard_normal(video, np.float32),
        "audio": rng.standard_normal(audio, np.float32),
    }


def _text(config, captions, names):
    good = np.array(["ok"] * len(names), dtype=object)
    encoded = CaptionEncoder(config)({"caption": captions, "text_outcome": good})
    features = {name: encoded[name] for name in ("video_text", "audio_text")}
    return {"row_id": np.array(names, dtype=object), **features}


def _rows(size, names, captions, latents, text):
    rows = {
        "row_id": names,
        "clip_uri": [f"{name}.mp4" for name in names],
        "caption": captions,
        "height": [size.height] * len(names),
        "width": [size.width] * len(names),
        "latents_key": names,
        "latents_shard": [latents] * len(names),
        "text_key": names,
        "text_shard": [text] * len(names),
        "text_digest": [f"sha256:{name}" for name in names],
    }
    return rows | {"row_digest": row_digests(rows)}
