"""Small real clips, and the ways in which a clip can be wrong."""

import json
from pathlib import Path

import numpy as np

from infra.media.files import write_clip
from omniforcing_model.beacons.world import FPS, Beacon, render_frames, render_waveform
from omniforcing_model.latent_clock import frames_for_seconds
from tests.worlds.media.ffmpeg import run_ffmpeg

SAMPLE_RATE = 48_000
BEACONS = [
    Beacon("red", 2, "high", phase_frames=3),
    Beacon("green", 1, "low", phase_frames=0),
    Beacon("blue", 3, "middle", phase_frames=5),
    Beacon("yellow", 2, "low", phase_frames=7),
]


def write_beacon_clip(path, number=0, seconds=1, sound_s=None, loudness=1.0, size=64):
    """A clip of `seconds` and one frame; `sound_s` of sound if not as long."""
    beacon = BEACONS[number % len(BEACONS)]
    frames = frames_for_seconds(seconds)
    mono = render_waveform(beacon, sound_s or frames / FPS, SAMPLE_RATE) * loudness
    write_clip(path, render_frames(beacon, frames, size), np.stack((mono, mono)), SAMPLE_RATE)
    return path


def write_beacon_clips(folder, count, seconds=1):
    """`count` different clips with their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_beacon_clip(folder / f"clip_{number}.mp4", number, seconds)
    write_captions(folder, {f"clip_{number}.mp4": caption(number) for number in range(count)})
    return folder


def caption(number):
    """A terse caption, as data sets have it."""
    beacon = BEACONS[number % len(BEACONS)]
    return f"{beacon.colour} beacon, {beacon.rate_hz} Hz, {beacon.pitch} tone"


def write_captions(folder, captions):
    """captions.jsonl from captions by clip."""
    lines = [json.dumps({"clip": name, "caption": text}) for name, text in captions.items()]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


def without_sound(source: Path, target: Path):
    """A copy of a clip without its sound track."""
    run_ffmpeg("-i", source, "-an", "-c", "copy", target)
    return target


def truncated(source: Path, target: Path):
    """The first half of a clip's bytes; its header is whole."""
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target
