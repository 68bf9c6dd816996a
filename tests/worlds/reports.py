"""A dataset to report on: real latents of small clips, and clips that were refused in every way."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from actors.latents.latent_encoder import LatentEncoder
from infra.dataset.columns import Column
from infra.dataset.manifest import commit
from infra.dataset.outcome_table import SCHEMA, count_outcomes, write_outcomes
from infra.dataset.shards import row_digests, write_shard, write_table
from infra.media.files import read_frames, read_waveform
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds
from tests.worlds.beacon_clips import truncated, without_sound, write_beacon_clip

RATE = 16_000
HOSTILE = '<script>document.title = "owned"</script> a <b>red</b> disc & "more"'
TEMPLATE_LIKE = """</script></style>{{ 7 * 7 }}{% if x %} {# "quoted" 'twice' #} ${title}"""
REFUSED = (
    ("silent.mp4", "filtered", "silence", "expected sound louder than -60 dBFS, got -inf"),
    ("mute.mp4", "filtered", "no_audio", "expected a clip with sound, got none"),
    ("pack.tar/one.mp4", "filtered", "duplicate", "expected each clip once, got one again"),
    ("bad.mp4", "quarantined", "unreadable", "expected a clip, got <img src=x onerror=boom>"),
    ("cut.mp4", "quarantined", "unreadable", "expected 25 frames, got 3"),
    ("gone.mp4", "quarantined", "missing_file", "expected gone.mp4 beside captions.jsonl"),
    ("../up.mp4", "quarantined", "missing_file", "expected a name below the folder"),
)


class ReportWorld(NamedTuple):
    """The configuration, the folder of clips, and the dataset made of them."""

    config: Any
    clips: ObjectStore
    out: ObjectStore


def write_dataset(folder, rows=3, refused=REFUSED):
    """A dataset of `rows` rows and of the `refused` clips; the first captions try to run."""
    config = load_preset("tiny", ["data.seconds=1"])
    clips, out = ObjectStore(folder / "clips"), ObjectStore(folder / "dataset")
    names = [f"clip_{number}.mp4" for number in range(rows)]
    captions = {name: f"terse {name}" for name in names}
    captions |= {"clip_0.mp4": HOSTILE, "clip_1.mp4": TEMPLATE_LIKE}
    _write_clips(folder / "clips", names)
    lines = [_line(name, captions[name], number) for number, name in enumerate(names)]
    lines += [
        _line(name, f"words about {name}", number, outcome, reason, error)
        for number, (name, outcome, reason, error) in enumerate(refused, start=rows)
    ]
    outcomes = pa.Table.from_pylist(lines, SCHEMA)
    write_outcomes(out, outcomes)
    tables, shards = [], []
    if rows:
        tables, shards = _write_rows(config, folder / "clips", out, outcomes.slice(0, rows))
    provenance = {
        "counts": count_outcomes(outcomes).model_dump(),
        "clips": clips.uri,
        "codecs": {"video": "sha256:v"},
        "recipe": {"max_caption_chars": 2000},
        "commit": "c0ffee",
        "config": config.model_dump(mode="json", include={"name", "data", "codec"}),
    }
    commit(out.uri, "latents", shards, provenance, tables)
    return ReportWorld(config, clips, out)


def _write_clips(folder, names):
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        write_beacon_clip(folder / name, number)
    write_beacon_clip(folder / "silent.mp4", 1, loudness=0.0)
    whole = write_beacon_clip(folder / "cut.mp4", 2)
    without_sound(whole, folder / "mute.mp4")
    truncated(whole, whole)
    (folder / "bad.mp4").write_text("not a clip")
    (folder / "pack.tar").write_bytes(b"")


def _line(name, caption, number, outcome="ok", reason="", error=""):
    good = outcome == "ok"
    return {
        "clip_uri": name,
        "start_s": 0.0,
        "clip_bytes": 20_000,
        "clip_modified_ns": 0,
        "clip_digest": f"sha256:{number}",
        "row_id": f"{number:04d}",
        "caption_raw": caption,
        "caption": f"a sentence about {caption}" if good else "",
        "rewritten": good,
        "outcome": outcome,
        "reason": reason,
        "error": error,
        "attempts": 1,
        "av_lag_ms": 10.0 * number if good else None,
        "loudness_lufs": -20.0 - number if good else None,
    }


def _write_rows(config, folder, out, rows):
    encoder, seconds = LatentEncoder(config), frames_for_seconds(1) / VIDEO_FPS
    latents = []
    for name in rows["clip_uri"].to_pylist():
        frames = read_frames(folder / name, VIDEO_FPS, (64, 64), frames_for_seconds(1))
        sound = read_waveform(folder / name, RATE, 2, seconds)
        latents.append(encoder.encode(frames, sound))
    ids = np.array(rows[Column.ROW_ID].to_pylist(), dtype=object)
    video, audio = (np.stack(stream) for stream in zip(*latents, strict=True))
    tensors = write_shard(out.uri, {Column.ROW_ID: ids, "video": video, "audio": audio}, "latents")
    words = np.zeros((len(ids), 2, 4), np.float32)
    text = write_shard(
        out.uri, {Column.ROW_ID: ids, "video_text": words, "audio_text": words}, "text"
    )
    outcome = ("outcome", "reason", "error", "attempts")
    kept_rows = rows.select([name for name in SCHEMA.names if name not in outcome])
    for name, values in (
        ("latents_key", ids),
        ("latents_shard", [tensors.name] * len(ids)),
        ("text_key", ids),
        ("text_shard", [text.name] * len(ids)),
    ):
        kept_rows = kept_rows.append_column(name, pa.array(list(values), pa.string()))
    digests = row_digests({name: kept_rows[name].to_pylist() for name in kept_rows.column_names})
    kept_rows = kept_rows.append_column(Column.ROW_DIGEST, pa.array(digests, pa.string()))
    return [write_table(out, kept_rows, "rows")], [tensors, text]
