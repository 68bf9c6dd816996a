"""What a unit of each stage of preprocessing takes on this machine, beside what `plan` expects.

Every stage is the class that preprocessing runs, alone on the machine, with the run's weights where
they are there. Where they are not, a GPU gets random ones of the same shapes: time and memory do
not depend on their values.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from actors.captions.caption_rewriter import REWRITERS
from actors.captions.gemma_rewriter import GemmaRewriter
from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from actors.latents.codec_loading import load_text_encoder, own_device
from actors.latents.latent_encoder import LatentEncoder
from infra.config import RunConfig
from infra.errors import CheckpointError, ConfigError
from infra.media.files import write_clip
from infra.records import Record
from omniforcing_model.beacons.world import render_frames, render_waveform, sample_beacon
from omniforcing_model.codecs.ltx2.text_encoder import Ltx2TextEncoder
from omniforcing_model.codecs.mel import SAMPLE_RATE
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds
from pipelines.benchmarks.machine.device import forget_peak_memory, peak_memory_mb, synchronise
from pipelines.benchmarks.stand_ins.diffusers_pass import diffusers_is_installed
from pipelines.benchmarks.stand_ins.random_text_models import (
    random_connectors,
    random_gemma,
    word_tokenizer,
)
from pipelines.benchmarks.stand_ins.stream_codecs import stream_codecs
from pipelines.planning.preprocess_costs import preprocess_costs

CLIP_HEIGHT, CLIP_WIDTH, CLIP_SECONDS = 1080, 1920, 5
CLIP_RATE = 48_000
CLIP = "clip.mp4"
CAPTION = "a red disc flashes twice a second with a high beep"
STAGES = 5
OWN, RANDOM, NONE, NO_WEIGHTS = "the run's", "random", "none here", "-"


class StageTime(Record):
    """Seconds per unit of one stage, alone.

    `measured_s` is None where its weights are not there and random ones would need a GPU.
    `gpu_mb`: the most that was allocated on the GPU.
    """

    stage: str
    unit: str
    weights: str
    expected_s: float
    measured_s: float | None
    gpu_mb: float | None


class StagesBench(Record):
    """All stages, in the order of the graph; `batch`: captions that are rewritten together."""

    config: str
    device: str
    repetitions: int
    batch: int
    stages: tuple[StageTime, ...]


class _Work(NamedTuple):
    """What is timed: `run` does `units` of it."""

    run: Callable[[], object]
    units: float
    weights: str = OWN


def bench_stages(config: RunConfig, repetitions: int, advance: Callable[[], None]) -> StagesBench:
    """Measure each stage by itself, after a run that warms it up; `advance` is called for each."""
    device = torch.device(own_device())
    expected = preprocess_costs(config)["stages"]
    stages = []
    with tempfile.TemporaryDirectory(prefix="bench-stages-") as folder:
        _write_clip(Path(folder) / CLIP)
        for cost, prepare in zip(expected, _stages(config, folder, device), strict=True):
            forget_peak_memory(device)
            work = prepare()
            seconds = _seconds(work, repetitions, device) if work else None
            stages.append(
                StageTime(
                    stage=cost["stage"],
                    unit=cost["unit"],
                    weights=work.weights if work else NONE,
                    expected_s=cost["seconds_per_unit"],
                    measured_s=seconds,
                    gpu_mb=peak_memory_mb(device) if device.type == "cuda" else None,
                )
            )
            # Before the next one loads: two Gemmas take most of a GPU.
            del work
            advance()
    return StagesBench(
        config=config.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        repetitions=repetitions,
        batch=config.data.rewriter.batch,
        stages=tuple(stages),
    )


def _stages(
    config: RunConfig, folder: str, device: torch.device
) -> Iterator[Callable[[], _Work | None]]:
    """In the order of `preprocess_costs`."""
    yield partial(_survey, config, folder)
    yield partial(_decode, config, folder)
    yield partial(_encode, config, device)
    yield partial(_rewrite, config, device)
    yield partial(_encode_text, config, device)


def _seconds(work: _Work, repetitions: int, device: torch.device) -> float:
    work.run()
    times = []
    for _ in range(repetitions):
        synchronise(device)
        began = time.perf_counter()
        work.run()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / work.units


def _write_clip(path: Path) -> None:
    """A beacon on still grain, which makes the file as large as a camera's."""
    random = np.random.default_rng(0)
    beacon, frames = sample_beacon(random), CLIP_SECONDS * VIDEO_FPS + 1
    pictures = np.empty((frames, CLIP_HEIGHT, CLIP_WIDTH, 3), np.uint8)
    pictures[:] = random.integers(0, 24, pictures.shape[1:], np.uint8)
    square = pictures[:, :, :CLIP_HEIGHT]
    np.maximum(square, render_frames(beacon, frames, CLIP_HEIGHT), out=square)
    mono = render_waveform(beacon, frames / VIDEO_FPS, CLIP_RATE)
    write_clip(path, pictures, np.stack((mono, mono)), CLIP_RATE)


def _survey(config: RunConfig, folder: str) -> _Work:
    surveyor = ClipSurveyor(config.data, folder)
    size = (Path(folder) / CLIP).stat().st_size
    # Decoding for the shots grows with the clip.
    share = CLIP_SECONDS / config.planning.source_seconds
    return _Work(lambda: surveyor.survey(CLIP, -1, size), share, NO_WEIGHTS)


def _decode(config: RunConfig, folder: str) -> _Work:
    seconds = min(config.data.seconds, CLIP_SECONDS)
    data = config.data.model_copy(update={"seconds": seconds})
    decoder = ClipDecoder(data, folder, SAMPLE_RATE)
    return _Work(lambda: decoder.decode(CLIP), seconds / config.data.seconds, NO_WEIGHTS)


def _encode(config: RunConfig, device: torch.device) -> _Work:
    video, audio, what = stream_codecs(config, device)
    encoder = LatentEncoder(config, (video, audio))
    frames, random = frames_for_seconds(config.data.seconds), np.random.default_rng(0)
    shape = (frames, config.data.height, config.data.width, 3)
    pictures = random.integers(0, 256, shape, np.uint8)
    samples = -(-frames * SAMPLE_RATE // VIDEO_FPS)
    sound = random.uniform(-0.5, 0.5, (2, samples)).astype(np.float32)
    return _Work(lambda: encoder.encode(pictures, sound), 1, RANDOM if RANDOM in what else OWN)


def _rewrite(config: RunConfig, device: torch.device) -> _Work | None:
    settings, weights = config.data.rewriter, OWN
    try:
        rewriter: Any = REWRITERS[settings.kind](settings)
    except ConfigError:
        if not _may_be_random(config, device):
            return None
        rewriter, weights = GemmaRewriter(random_gemma(device), word_tokenizer(), settings), RANDOM
    captions, seeds = [CAPTION] * settings.batch, list(range(settings.batch))
    return _Work(lambda: rewriter.rewrite(captions, seeds), settings.batch, weights)


def _encode_text(config: RunConfig, device: torch.device) -> _Work | None:
    weights = OWN
    try:
        encoder: Any = load_text_encoder(config, str(device))
    except (ConfigError, CheckpointError):
        if not _may_be_random(config, device):
            return None
        parts = (random_gemma(device), word_tokenizer(), random_connectors(device))
        encoder, weights = Ltx2TextEncoder(*parts, config.codec.text_tokens), RANDOM
    return _Work(lambda: encoder.encode([CAPTION]), 1, weights)


def _may_be_random(config: RunConfig, device: torch.device) -> bool:
    return device.type == "cuda" and config.codec.kind == "ltx2" and diffusers_is_installed()
