"""Streams of one process on random weights, one after the other, every part of them timed.

The first finds everything as a new process does; what a later one takes is what a server that has
run once takes.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from actors.latents.codec_loading import load_text_encoder
from actors.streaming.media_muxer import MediaMuxer
from infra.config import RunConfig
from infra.errors import ConfigError
from omniforcing_model.codecs.pixels import to_pixels
from omniforcing_model.codecs.text_encoder import TextEncoder
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.seats import Seats, Stream
from omniforcing_model.transformer.text_context import TextContext
from pipelines.benchmarks.machine.device import (
    MIB,
    DtypeName,
    held_memory_mb,
    seconds_of,
    stopwatch_of,
    synchronise,
)
from pipelines.benchmarks.stand_ins.stream_codecs import stream_codecs
from pipelines.benchmarks.stand_ins.subject import SEED, random_features, unread_subject

PROMPTS = (
    "a red disc flashes twice a second with a high beep",
    "a blue disc flashes once a second with a low beep",
)


class StreamEngine:
    """A model with its codecs and text encoder, as a server's process holds them."""

    def __init__(self, config: RunConfig, device: torch.device, dtype: DtypeName) -> None:
        """Random weights, the run's codecs or random ones, and the run's text encoder if any."""
        self.config, self.device = config, device
        self.subject = unread_subject(config, dtype, device)
        self.subject.model.seal()
        self.codecs = stream_codecs(config, device)
        self.encoder = _text_encoder(config, device)
        self.watch = stopwatch_of(device)
        self._seats: Seats | None = None
        self._stream: Stream | None = None
        self.first_blocks = BlockLayout(config.model.layout).blocks_for_seconds(1)

    @torch.no_grad()
    def open(self, prompt: str, features: PerStream[Tensor]) -> "TimedStream":
        """A new stream; its text's features are random, and no other stream's."""
        return TimedStream(self, prompt, features)

    def open_seat(self, text: TextContext) -> Stream:
        """A stream as a server opens it; the one before it is over."""
        if self._seats is None:
            model, grid, sigmas = self.subject.model, self.subject.grid, self.subject.sigmas
            captures = self.config.sampling.student_passes == "captured"
            self._seats = Seats(model, grid, sigmas, captures=captures)
        if self._stream is not None:
            self._seats.leave(self._stream)
        self._stream = self._seats.open(text, seeded_noise(SEED))
        return self._stream

    def other_features(self) -> PerStream[Tensor]:
        """Of another prompt than the last: nothing that is kept for a prompt is met again."""
        return random_features(self.config, self.subject.model)


class TimedStream:
    """One stream: seconds of each of its parts, a value per block.

    `first_chunk`: parts of the first whole second of picture and sound, in order, from the prompt
    to its bytes; `other` is what lies between them, `sum` the time by the clock.
    """

    def __init__(self, engine: StreamEngine, prompt: str, features: PerStream[Tensor]) -> None:
        self.denoise: list[float] = []
        self.commit: list[float] = []
        self.decode_video: list[float] = []
        self.decode_audio: list[float] = []
        self.frames: list[int] = []
        self.cache_mb: list[float] = []
        self.held_mb: list[float] = []
        self.first_chunk: dict[str, float] = {}
        self._engine = engine
        synchronise(engine.device)
        self._began = time.perf_counter()
        self._parts: dict[str, float] = {}
        if engine.encoder is not None:
            encoder = engine.encoder
            self._part("encode_text", lambda: encoder.encode([prompt]))
        texts: list[TextContext] = []
        model = engine.subject.model
        self._part("read_text", lambda: texts.append(model.read_text(features)))
        self._part("open", lambda: self._open(texts[0]))

    def _open(self, text: TextContext) -> None:
        engine, config = self._engine, self._engine.config
        self._stream = engine.open_seat(text)
        self._video = engine.codecs.video.decoder()
        self._audio = engine.codecs.audio.decoder()
        rate = engine.codecs.audio.sample_rate
        self._muxer = MediaMuxer(config.data.height, config.data.width, rate)

    @property
    def blocks(self) -> int:
        """How many are there so far."""
        return len(self.denoise)

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
        """Compute a block and decode it; those of the first second are also muxed."""
        index, is_first = self.blocks, not self.first_chunk
        blocks: list[PerStream[Tensor]] = []
        pictures: list[Tensor] = []
        sound: list[Tensor] = []
        self._time(self.denoise, lambda: blocks.append(self._stream.next_block()))
        latents = blocks[0]
        self._time(
            self.decode_video, lambda: pictures.append(self._video.decode(latents.video, final))
        )
        self._time(
            self.decode_audio, lambda: sound.append(self._audio.decode(latents.audio, final))
        )
        if is_first:
            self._add("block", self.denoise[-1], index)
            self._add("decode_video", self.decode_video[-1])
            self._add("decode_audio", self.decode_audio[-1])
            self._part("mux", lambda: self._mux(pictures[0], sound[0]))
            if self.blocks == self._engine.first_blocks:
                self._end_first_chunk()
        # After the block is out: the pass that commits it delays nobody.
        self._time(self.commit, self._stream.commit)
        if is_first and not self.first_chunk:
            self._add("commit", self.commit[-1], index)
        self.frames.append(pictures[0].shape[1])
        self.cache_mb.append(self._stream.cache.nbytes() / MIB)
        self.held_mb.append(held_memory_mb(self._engine.device))

    def _mux(self, pictures: Tensor, sound: Tensor) -> None:
        pixels = to_pixels(pictures[0]).cpu().numpy()
        self._muxer.write_block(pixels, sound[0].float().cpu().numpy())

    def _end_first_chunk(self) -> None:
        total = time.perf_counter() - self._began
        other = total - sum(self._parts.values())
        self.first_chunk = self._parts | {"other": other, "sum": total}

    def _part(self, name: str, work: Callable[[], object]) -> None:
        self._add(name, seconds_of(self._engine.watch, work))

    def _add(self, name: str, seconds: float, index: int | None = None) -> None:
        name = name if index is None else f"{name}_{index}"
        self._parts[name] = self._parts.get(name, 0.0) + seconds

    def _time(self, into: list[float], work: Callable[[], object]) -> None:
        into.append(seconds_of(self._engine.watch, work))


def _text_encoder(config: RunConfig, device: torch.device) -> TextEncoder | None:
    """The run's, if its weights are here."""
    try:
        return load_text_encoder(config, str(device))
    except ConfigError:
        return None
