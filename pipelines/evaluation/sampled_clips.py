"""Clips that answer prompts: real ones through a file, and those of each stage's model.

The table of stages says how a model samples: with a teacher's many guided steps, in few steps, or
streamed block by block, as it is served. All are decoded by the streaming decoders.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.latents.codec_loading import load_audio_codec, load_text_encoder, load_video_codec
from actors.streaming.student import load_student
from actors.training.guided_sampling import teacher_guidance, teacher_schedule
from infra.config import RunConfig
from infra.machine import usable_cores
from infra.media.files import read_frames, read_waveform, write_clip
from infra.stages import STAGES, Sampler
from omniforcing_model.beacons.world import (
    FPS,
    Beacon,
    BeaconTraits,
    parse_caption,
    render_frames,
    render_waveform,
)
from omniforcing_model.codecs.mel import SAMPLE_RATE
from omniforcing_model.codecs.pixels import to_pixels
from omniforcing_model.latent_clock import frames_for_seconds
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import BlockNoise, seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import (
    ClipShape,
    draw_noise,
    few_step_sample,
    ode_trajectory,
)
from omniforcing_model.streaming.rollout import Rollout, roll_out
from omniforcing_model.transformer.text_context import TextContext
from omniforcing_model.weights.checkpoint_files import load_model

BATCH = 8
FILE_SAMPLE_RATE = 48_000
FILES_AT_A_TIME = 2


class Clip(NamedTuple):
    """One clip: frames (frames, height, width, 3) uint8, waveform (channels, samples)."""

    prompt: str
    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    sample_rate: int


class ClipSampler:
    """Answers prompts with one stage's model, in batches."""

    def __init__(self, config: RunConfig, stage: str, model_folder: Path) -> None:
        """Load the model and the codecs; WeightsError if they are not what they should be."""
        self._config = config
        # The student is scored as it is served, in its precision.
        self._model = (
            load_student(model_folder, config)
            if STAGES[stage].sampler == "streamed"
            else load_model(model_folder).eval().requires_grad_(False)
        )
        self._layout = BlockLayout(self._model.config.layout)
        self._grid = latent_grid(
            config.data.height, config.data.width, self._model.config.spatial_stride
        )
        self._blocks = self._layout.blocks_for_seconds(config.data.seconds)
        self._text_encoder = load_text_encoder(config)
        self._video_codec = load_video_codec(config.codec)
        self._audio_codec = load_audio_codec(config.codec)
        samplers: dict[
            Sampler | None, Callable[[TextContext, int, BlockNoise], PerStream[Tensor]]
        ] = {
            "guided": self._sample_guided,
            "few_steps": self._sample_few_steps,
            "streamed": self._sample_streamed,
        }
        self._latents = samplers[STAGES[stage].sampler]

    def clips(self, prompts: Sequence[str], seed: int) -> Iterator[Clip]:
        """A clip per prompt; the clip of prompt number n is drawn with seed + n."""
        starts = range(0, len(prompts), BATCH)
        batches = [prompts[start : start + BATCH] for start in starts]
        # A batch per core: threads inside one small model would only wait for each other.
        workers = min(usable_cores(), len(batches))
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for clips in pool.map(self._batch, batches, (seed + start for start in starts)):
                yield from clips

    @torch.no_grad()
    def _batch(self, prompts: Sequence[str], first_seed: int) -> list[Clip]:
        noise = seeded_noise([first_seed + place for place in range(len(prompts))])
        features = self._text_encoder.encode(prompts)
        text = self._model.read_text(features.map(lambda x: x.to(self._model.dtype)))
        return list(self._decode(prompts, self._latents(text, len(prompts), noise)))

    def _sample_guided(self, text: TextContext, batch: int, noise: BlockNoise) -> PerStream[Tensor]:
        sampling = self._config.sampling
        negative = self._text_encoder.encode([sampling.negative_prompt] * batch)
        guidance = teacher_guidance(sampling, self._model.read_text(negative))
        sigmas = teacher_schedule(self._config, self._model.config)
        start = draw_noise(self._model, self._shape(batch), noise)
        return ode_trajectory(self._model, text, start, sigmas, guidance)[-1]

    def _sample_few_steps(
        self, text: TextContext, batch: int, noise: BlockNoise
    ) -> PerStream[Tensor]:
        sigmas = self._config.sampling.student_sigmas
        return few_step_sample(self._model, text, self._shape(batch), sigmas, noise)

    def _sample_streamed(
        self, text: TextContext, batch: int, noise: BlockNoise
    ) -> PerStream[Tensor]:
        sigmas = self._config.sampling.student_sigmas
        return roll_out(Rollout(self._model, text, self._grid, sigmas, noise, batch), self._blocks)

    def _shape(self, batch: int) -> ClipShape:
        return ClipShape(batch, self._layout.latents(self._blocks), self._grid)

    def _decode(self, prompts: Sequence[str], latents: PerStream[Tensor]) -> Iterator[Clip]:
        pictures = self._video_codec.decoder().decode(latents.video, final=True)
        sound = self._audio_codec.decoder().decode(latents.audio, final=True)
        frames = to_pixels(pictures).numpy()
        for prompt, clip_frames, waveform in zip(prompts, frames, sound.numpy(), strict=True):
            yield Clip(prompt, clip_frames, waveform, self._audio_codec.sample_rate)


def real_clips(config: RunConfig, prompts: Sequence[str], seed: int) -> Iterator[Clip]:
    """Rendered clips of what the prompts ask, written as H.264 and AAC and read back.

    The first flash of each is drawn at random, as nothing in a prompt tells it.
    """
    rng = np.random.default_rng(seed)
    beacons = [_beacon(parse_caption(prompt), rng) for prompt in prompts]
    with (
        TemporaryDirectory(prefix="real-clips-") as folder,
        ThreadPoolExecutor(FILES_AT_A_TIME) as pool,
    ):
        paths = [Path(folder) / f"{index}.mp4" for index in range(len(prompts))]
        yield from pool.map(
            lambda *clip: _write_and_read_back(config, *clip), paths, prompts, beacons
        )


def _beacon(traits: BeaconTraits, rng: np.random.Generator) -> Beacon:
    period = FPS // traits.rate_hz
    return Beacon(traits.colour, traits.rate_hz, traits.pitch, int(rng.integers(period)))


def _write_and_read_back(config: RunConfig, path: Path, prompt: str, beacon: Beacon) -> Clip:
    count = frames_for_seconds(config.data.seconds)
    sound = render_waveform(beacon, count / FPS, FILE_SAMPLE_RATE)
    size = (config.data.height, config.data.width)
    write_clip(path, render_frames(beacon, count, config.data.height), sound, FILE_SAMPLE_RATE)
    frames = read_frames(path, FPS, size, count)
    waveform = read_waveform(path, SAMPLE_RATE, 1, count / FPS)
    path.unlink()
    return Clip(prompt, frames, waveform, SAMPLE_RATE)
