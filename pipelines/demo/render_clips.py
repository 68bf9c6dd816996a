"""Renders the beacon world to a folder of MP4 files with captions, as a dataset would come."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from infra.media.files import write_clip
from omniforcing_model.beacons.world import (
    FPS,
    Beacon,
    flash_times,
    raw_caption,
    render_frames,
    render_waveform,
    sample_beacon,
)
from omniforcing_model.latent_clock import frames_for_seconds

CAPTIONS_FILE = "captions.jsonl"
TRUTH_FILE = "truth.jsonl"
DEFAULT_SECONDS = 5
_SAMPLE_RATE = 48_000
_PROCESSES = 2


def _render_one(path: Path, beacon: Beacon, frames: int) -> None:
    mono = render_waveform(beacon, frames / FPS, _SAMPLE_RATE)
    write_clip(path, render_frames(beacon, frames), np.stack((mono, mono)), _SAMPLE_RATE, FPS)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unfinished.replace(path)


def render_clips(
    out_dir: Path, count: int, seed: int, seconds: int | None = None
) -> list[dict[str, Any]]:
    """Render `count` clips of `seconds` (5 unless given) and one frame; returns the truth rows.

    Writes clip_00000.mp4 ..., captions.jsonl ({"clip", "caption"}) and truth.jsonl ({"clip",
    "colour", "rate_hz", "pitch", "phase_frames", "flash_times_s"}); a row per clip, in order.
    The same seed gives the same clips, and a larger count begins with those of a smaller one.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    frames = frames_for_seconds(DEFAULT_SECONDS if seconds is None else seconds)
    rng = np.random.default_rng(seed)
    jobs: list[tuple[Path, Beacon, int]] = []
    captions: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for index in range(count):
        beacon = sample_beacon(rng)
        name = f"clip_{index:05d}.mp4"
        jobs.append((out_dir / name, beacon, frames))
        captions.append({"clip": name, "caption": raw_caption(beacon, rng)})
        truth.append(
            {
                "clip": name,
                "colour": beacon.colour,
                "rate_hz": beacon.rate_hz,
                "pitch": beacon.pitch,
                "phase_frames": beacon.phase_frames,
                "flash_times_s": flash_times(beacon, frames / FPS),
            }
        )
    # Spawned, not forked: the caller may hold threads of torch or Ray.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(_PROCESSES, max(1, count)), mp_context=spawn) as pool:
        for _ in pool.map(_render_one, *zip(*jobs, strict=True), chunksize=4):
            pass
    _write_lines(out_dir / CAPTIONS_FILE, captions)
    _write_lines(out_dir / TRUTH_FILE, truth)
    return truth
