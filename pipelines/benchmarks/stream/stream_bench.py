"""A whole stream on random weights: text, blocks, picture and sound, and what each of them takes.

Unlike a server, one thing is done after the other: these are the parts, not what overlaps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from actors.latents.codec_loading import load_text_encoder
from infra.config import RunConfig
from infra.errors import ConfigError
from infra.records import Record
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.projections import pack_for_streaming
from pipelines.benchmarks.machine.device import (
    MIB,
    DtypeName,
    held_memory_mb,
    peak_memory_mb,
    seconds_of,
    stopwatch_of,
)
from pipelines.benchmarks.model.steady import SteadyBlocks
from pipelines.benchmarks.stand_ins.stream_codecs import stream_codecs
from pipelines.benchmarks.stand_ins.subject import random_subject

PROMPT = "a red disc flashes twice a second with a high beep"


class StreamBench(Record):
    """Seconds unless the name says otherwise; medians are over blocks whose window is full.

    `block_s` is the model's part of a block, `decode_s` both codecs'.
    `first_chunk_s`: parts of the first whole second of picture and sound, in order; a run without
    a text encoder here has no `encode_text`. `frames_per_second` is the model alone,
    `frames_per_second_decoded` with the codecs after it. `held_mb`: memory after each block, which
    must not grow with the stream.
    """

    config: str
    device: str
    dtype: str
    threads: int
    seconds: int
    codecs: str
    block_s: tuple[float, ...]
    block_s_median: float
    block_s_p99: float
    decode_s: tuple[float, ...]
    decode_s_median: float
    decode_s_p99: float
    decode_video_s_median: float
    decode_audio_s_median: float
    frames: int
    frames_per_second: float
    frames_per_second_decoded: float
    first_chunk_s: dict[str, float]
    cache_mb: tuple[float, ...]
    held_mb: tuple[float, ...]
    peak_memory_mb: float


class TimedStream:
    """One stream, every part of every block timed."""

    def __init__(self, config: RunConfig, device: torch.device, dtype: DtypeName) -> None:
        """Random weights, the run's codecs or random ones, and the run's text encoder if any."""
        self.subject = random_subject(config, dtype, device)
        pack_for_streaming(self.subject.model)
        self.codecs = stream_codecs(config, device)
        self._watch = stopwatch_of(device)
        self._device = device
        self.text_s = self._text_times(config)
        self._rollout = self.subject.rollout()
        self._video, self._audio = self.codecs.video.decoder(), self.codecs.audio.decoder()
        self.denoise: list[float] = []
        self.commit: list[float] = []
        self.decode_video: list[float] = []
        self.decode_audio: list[float] = []
        self.frames: list[int] = []
        self.cache_mb: list[float] = []
        self.held_mb: list[float] = []

    @property
    def block(self) -> list[float]:
        """The model's part of each block."""
        return [sum(both) for both in zip(self.denoise, self.commit, strict=True)]

    @property
    def decode(self) -> list[float]:
        """Both codecs' part of each block."""
        return [sum(both) for both in zip(self.decode_video, self.decode_audio, strict=True)]

    @torch.no_grad()
    def next_block(self, final: bool) -> None:
        """Compute a block and decode it."""
        blocks: list[PerStream[Tensor]] = []
        pictures: list[Tensor] = []
        self._time(self.denoise, lambda: blocks.append(self._rollout.next_block()))
        latents = blocks[0]
        self._time(
            self.decode_video, lambda: pictures.append(self._video.decode(latents.video, final))
        )
        self._time(self.decode_audio, lambda: self._audio.decode(latents.audio, final))
        # After the block is out: the pass that commits it delays nobody.
        self._time(self.commit, self._rollout.commit)
        self.frames.append(pictures[0].shape[1])
        self.cache_mb.append(self._rollout.cache.nbytes() / MIB)
        self.held_mb.append(held_memory_mb(self._device))

    def _time(self, into: list[float], work: Callable[[], object]) -> None:
        into.append(seconds_of(self._watch, work))

    def _text_times(self, config: RunConfig) -> dict[str, float]:
        """Seconds until a prompt is read; without the encoding, if the run has no encoder here."""
        times = {}
        try:
            encoder = load_text_encoder(config, str(self._device))
        except ConfigError:
            pass
        else:
            times["encode_text"] = seconds_of(self._watch, lambda: encoder.encode([PROMPT]))
        model, features = self.subject.model, self.subject.features
        times["read_text"] = seconds_of(self._watch, lambda: model.read_text(features))
        return times


@torch.inference_mode()
def bench_stream(
    config: RunConfig,
    seconds: int,
    device: torch.device,
    dtype: DtypeName,
    advance: Callable[[], None],
) -> StreamBench:
    """Stream `seconds` seconds and decode them; `advance` is called per block."""
    stream = TimedStream(config, device, dtype)
    blocks = BlockLayout(config.model.layout).blocks_for_seconds(seconds)
    for index in range(blocks):
        stream.next_block(final=index == blocks - 1)
        advance()
    steady = SteadyBlocks(blocks, config.model.layout.window_blocks)
    every_s = [sum(parts) for parts in zip(stream.block, stream.decode, strict=True)]
    return StreamBench(
        config=config.name,
        device=str(device),
        dtype=dtype,
        threads=torch.get_num_threads(),
        seconds=seconds,
        codecs=stream.codecs.what,
        block_s=tuple(stream.block),
        block_s_median=steady.median(stream.block),
        block_s_p99=steady.p99(stream.block),
        decode_s=tuple(stream.decode),
        decode_s_median=steady.median(stream.decode),
        decode_s_p99=steady.p99(stream.decode),
        decode_video_s_median=steady.median(stream.decode_video),
        decode_audio_s_median=steady.median(stream.decode_audio),
        frames=sum(stream.frames),
        frames_per_second=VIDEO_FPS / steady.median(stream.block),
        frames_per_second_decoded=VIDEO_FPS / steady.median(every_s),
        first_chunk_s=_first_chunk(config, stream),
        cache_mb=tuple(stream.cache_mb),
        held_mb=tuple(stream.held_mb),
        peak_memory_mb=peak_memory_mb(device),
    )


def _first_chunk(config: RunConfig, stream: TimedStream) -> dict[str, float]:
    parts = dict(stream.text_s)
    blocks = BlockLayout(config.model.layout).blocks_for_seconds(1)
    for index in range(blocks):
        parts[f"block_{index}"] = stream.denoise[index]
        if index + 1 < blocks:
            parts[f"commit_{index}"] = stream.commit[index]
    parts["decode_video"] = sum(stream.decode_video[:blocks])
    parts["decode_audio"] = sum(stream.decode_audio[:blocks])
    return parts | {"sum": sum(parts.values())}
