"""A block of a stream on its way out: latents to pictures and sound, on the host."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.streaming.block_encoders import BlockEncoders, EncodedBlock
from actors.streaming.decode_queue import DecodeQueue, Decoding
from actors.streaming.stream_history import HistoryRule
from infra.errors import MediaError
from omniforcing_model.codecs.audio_codec import StreamingAudioDecoder
from omniforcing_model.codecs.pixels import to_pixels
from omniforcing_model.codecs.video_codec import StreamingVideoDecoder
from omniforcing_model.errors import DivergenceError
from omniforcing_model.per_stream import PerStream


class BlockTimings(NamedTuple):
    """Seconds that one block took in this process: on a GPU of the GPU, but for encoding."""

    generate_s: float
    decode_s: float
    encode_s: float = 0.0


class WorkerFacts(NamedTuple):
    """What streams are made of in a worker; `sample_rate` is None without the audio half.

    history: what a stream needs of its past to go on elsewhere.
    """

    sample_rate: int | None
    kernels: str
    history: HistoryRule


@dataclass(frozen=True)
class MediaBlock:
    """Block `index` of a stream; what this worker does not hold is None.

    latents: video (frames, channels, height, width) and audio (frames, channels), float32.
    frames: (frames, height, width, 3) uint8. waveform: (2, samples) float32 in [-1, 1].
    encoded: both as packets, in their place, from a worker that encodes.
    """

    index: int
    latents: PerStream[NDArray[np.float32] | None]
    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None
    timings: BlockTimings
    encoded: EncodedBlock | None = None


@dataclass(frozen=True)
class ComputedBlock:
    """Latents of block `index`, batch of one, and the moments around computing them.

    `final`: no block follows.
    """

    index: int
    latents: PerStream[Tensor]
    started: Any
    computed: Any
    final: bool


class _OnHost(NamedTuple):
    """What decoding gives; `finite` holds a bool per stream, `error` what decoding raised."""

    latents: PerStream[Tensor]
    finite: PerStream[Tensor]
    frames: Tensor | None
    waveform: Tensor | None
    error: Exception | None


class StreamDecoders:
    """Decodes one stream, of the halves that are held."""

    def __init__(
        self,
        video: StreamingVideoDecoder | None,
        audio: StreamingAudioDecoder | None,
        encoders: BlockEncoders | None = None,
    ) -> None:
        """`encoders`: what a block is decoded to goes through them."""
        self._video = video
        self._audio = audio
        self.encoders = encoders

    def begin(self, block: ComputedBlock, queue: DecodeQueue) -> "PendingBlock":
        """Queue the decoding of the stream's next block."""

        def work(latents: PerStream[Tensor]) -> _OnHost:
            finite = latents.map(lambda values: queue.to_host(torch.isfinite(values).all()))
            frames = waveform = error = None
            try:
                frames, waveform = self._decode(latents, block.final, queue.to_host)
            except Exception as failure:  # noqa: BLE001  # `result` raises it
                error = failure
            host = latents.map(lambda values: queue.to_host(values[0].float()))
            return _OnHost(host, finite, frames, waveform, error)

        return PendingBlock(block, queue, queue.submit(work, block.latents), self.encoders)

    def _decode(
        self, latents: PerStream[Tensor], final: bool, to_host: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        frames = waveform = None
        if self._video:
            frames = to_host(to_pixels(self._video.decode(latents.video, final)[0]))
        if self._audio:
            waveform = to_host(self._audio.decode(latents.audio, final)[0].float())
        return frames, waveform


class PendingBlock:
    """A block that is being decoded; other blocks may be computed meanwhile."""

    def __init__(
        self,
        block: ComputedBlock,
        queue: DecodeQueue,
        decoding: Decoding[_OnHost],
        encoders: BlockEncoders | None,
    ) -> None:
        self._block = block
        self._queue = queue
        self._decoding = decoding
        self._encoders = encoders

    def result(self) -> MediaBlock:
        """The block; waits until it is decoded, and encodes it where the worker does.

        Blocks of one stream are to be asked for in their order, each once.

        Raises:
            DivergenceError: the latents are not finite.
            MediaError: they cannot be decoded; other streams go on.
        """
        index, seconds_between = self._block.index, self._queue.seconds_between
        host = self._decoding.result()
        for name, is_finite in host.finite.present():
            if not is_finite:
                raise DivergenceError(
                    f"expected finite {name} latents in block {index}, got NaN or infinity;"
                    " take another checkpoint"
                )
        if host.error is not None:
            raise MediaError(
                f"expected latents that decode, got {type(host.error).__name__}; look at the"
                " server's log"
            ) from host.error
        timings = BlockTimings(
            seconds_between(self._block.started, self._block.computed),
            seconds_between(self._block.computed, self._decoding.done),
        )
        latents: PerStream[Any] = host.latents.map(Tensor.numpy)
        frames = None if host.frames is None else host.frames.numpy()
        waveform = None if host.waveform is None else host.waveform.numpy()
        if self._encoders is None:
            return MediaBlock(index, latents, frames, waveform, timings)
        began = time.perf_counter()
        encoded = self._encoders.encode(frames, waveform, self._block.final)
        timings = timings._replace(encode_s=time.perf_counter() - began)
        return MediaBlock(index, latents, None, None, timings, encoded)
