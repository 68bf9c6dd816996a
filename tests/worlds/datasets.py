"""Small datasets in a moment: preprocessing as it plans, writes and commits, with made-up tensors
instead of actors and Ray."""

import hashlib
import os
import time
from pathlib import PurePosixPath

import numpy as np

from infra.dataset.shards import read_columns
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.keys import RecipeDigests
from pipelines.preprocessing.listing.clips import ListedClip
from pipelines.preprocessing.pending_rows import rules_of
from pipelines.preprocessing.row_tables import (
    RowJob,
    commit_rows,
    plan_rows,
    plan_survey,
    write_listing,
)
from pipelines.preprocessing.shard_writing import log_clips, write_rows
from pipelines.preprocessing.summary import PreprocessSummary

RECIPES = RecipeDigests("survey", "latents", "text")
DATA = load_preset("tiny", ["data.seconds=1", "data.gates.max_caption_chars=40"]).data
RULES = rules_of(DATA)
# What surveys and decoders measure of a good clip and window.
CLIP = {
    "source_height": 64.0,
    "source_width": 64.0,
    "source_pixels": 4096.0,
    "source_fps": 24.0,
    "header_s": 100.0,
    "picture_s": 100.0,
    "sound_tracks": 1.0,
    "sound_begins_s": 0.0,
    "sound_ends_s": 100.0,
    "picture_jitter": 0.0,
    "aspect": 1.0,
}
WINDOW = {
    "decoded_frames": 25.0,
    "rms_dbfs": -20.0,
    "clipped_share": 0.0,
    "frozen_share": 0.0,
    "av_lag_ms": 0.0,
    "loudness_lufs": -20.0,
}
THREE = {"a.mp4": "a dog barks", "b.mp4": "rain on a roof", "c.mp4": "a bell rings"}
HOUR_S = 3600


def preprocessed(out, captions=None, *, recipes=RECIPES, bad=None, settings=None, starts=(0.0,)):
    """Make or go on with the dataset `out`; its manifest.

    captions: of each clip, by name; clips of one name have one content, whatever their folder.
    bad: (outcome, reason) of windows that cannot be used, by clip: of gates `silence` alone.
    starts: of the windows in each clip.
    """
    job = surveyed(out, captions, recipes=recipes, starts=starts)
    work_on_rows(job, bad)
    provenance = {
        "clips": "clips",
        "codecs": {"video": "sha256:video"},
        "recipe": {"survey": {"version": 1}, "latents": {"size": [64, 64]}, **(settings or {})},
        "commit": "0123abc",
        "config": {"name": "tiny"},
    }
    return commit_rows(job, provenance)


def surveyed(out, captions=None, *, recipes=RECIPES, starts=(0.0,), rules=RULES):
    """List and survey the clips; what the rest of a run works on."""
    store = ObjectStore(out)
    clips = [
        ListedClip(name, 9, 1, -1, caption, "", "")
        for name, caption in (THREE if captions is None else captions).items()
    ]
    listing = write_listing(clips, "clips", store)
    job = RowJob(store.uri, listing, recipes, rules)
    for batch in batches(job, plan_survey(job, redrive=False)):
        names = batch["clip_uri"]
        survey_columns = {
            "outcome": texts("ok" for _ in names),
            "reason": texts("" for _ in names),
            "error": texts("" for _ in names),
            "clip_digest": texts(f"sha256:{PurePosixPath(name).name}" for name in names),
            "looks": np.full(len(names), 4),
            **{name: np.full(len(names), value) for name, value in CLIP.items()},
            "starts_s": texts(list(starts) for _ in names),
        }
        log_clips(batch | survey_columns, job.out)
    return job


def work_on_rows(job, bad=None):
    """Write tensors and log for the rows that wait, a shard per part of the plan."""
    for batch in batches(job, plan_rows(job, redrive=False)):
        outcome_reasons = [(bad or {}).get(name, ("ok", "")) for name in batch["clip_uri"]]
        outcomes = texts(outcome for outcome, _ in outcome_reasons)
        has_text = batch["needs_text"] & (outcomes == "ok")
        columns = {
            "outcome": outcomes,
            "reason": texts(reason for _, reason in outcome_reasons),
            "error": texts(
                f"expected better, got {reason}" if reason else "" for _, reason in outcome_reasons
            ),
            "video": drawn(batch["window_key"], (2, 3)),
            "audio": drawn(batch["window_key"], (4,)),
            **{name: np.full(len(outcome_reasons), value) for name, value in WINDOW.items()},
            "rms_dbfs": np.array(
                [-90.0 if reason == "silence" else -20.0 for _, reason in outcome_reasons]
            ),
            "text_outcome": texts("ok" if row else "" for row in has_text),
            "text_reason": texts("" for _ in outcome_reasons),
            "text_error": texts("" for _ in outcome_reasons),
            "caption": texts(f"{caption}." for caption in batch["caption_raw"]),
            "rewritten": np.ones(len(outcome_reasons), bool),
            "video_text": drawn(batch["caption_key"], (2,)),
            "audio_text": drawn(batch["caption_key"], (2,)),
        }
        write_rows(batch | columns, job.out)


def summary_of(seconds, stage_seconds, rows_worked):
    """What a run that took so long says of itself."""
    return PreprocessSummary(
        rows=rows_worked,
        ok=rows_worked,
        filtered={},
        quarantined={},
        dataset="dataset",
        digest="sha256:0",
        seconds=seconds,
        rows_worked=rows_worked,
        stage_seconds=stage_seconds,
    )


def batches(job, planned):
    """The parts of a plan, as a task gets them."""
    for name in planned.parts:
        table = read_columns(ObjectStore(job.out), name, None)
        yield {
            column: texts(values) if isinstance(values[0], str) else np.array(values)
            for column, values in table.to_pydict().items()
        }


def texts(values):
    """A column of objects."""
    values = list(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def drawn(keys, shape):
    """Numbers that a key decides, (len(keys), *shape)."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        rows.append(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    return np.stack(rows)


def names(out, folder=""):
    """Files of a dataset, or of a folder in it."""
    return [file.name for file in ObjectStore(out).list(folder, recursive=True)]


def make_old(out):
    """Let an hour and more pass for every file of a local dataset."""
    before = time.time() - 2 * HOUR_S
    for path in out.rglob("*"):
        if path.is_file():
            os.utime(path, (before, before))


def numbered_rows(first, last):
    """Rows whose tensors say their number."""
    numbers = np.arange(first, last)
    return {
        "row_id": np.array([f"row-{number:03d}" for number in numbers], dtype=object),
        "clip_uri": np.array([f"{number}.mp4" for number in numbers], dtype=object),
        "rewritten": numbers % 2 == 0,
        "video": np.broadcast_to(
            numbers[:, None, None, None, None], (len(numbers), 4, 3, 2, 2)
        ).astype(np.float32),
        "audio": np.broadcast_to(numbers[:, None, None], (len(numbers), 26, 5)).astype(np.float32),
    }
