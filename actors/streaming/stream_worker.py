"""One process that turns prompts into blocks of latents, pictures and sound.

It holds the model, or one half of it, the codec of every stream it holds, and a rollout per open
stream. The same class serves a command, the `colocated` layout and each half of a `pair`.
"""

import contextlib
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.latents.codec_loading import load_audio_codec, load_video_codec, own_device
from actors.streaming.block_encoders import BlockEncoders, EncodedBlock, context_samples
from actors.streaming.decode_queue import decode_queue
from actors.streaming.machine_kernels import kernels_name, take_kernels
from actors.streaming.media_block import (
    ComputedBlock,
    MediaBlock,
    PendingBlock,
    StreamDecoders,
    WorkerFacts,
)
from actors.streaming.prompt_texts import PromptTexts
from actors.streaming.stream_history import HistoryRule, PastBlocks
from actors.streaming.student import load_student
from actors.streaming.warm_up import STREAM_ID as WARM_UP
from actors.streaming.warm_up import SilentPartner, silent_text, warm_up_blocks
from infra.config import RunConfig
from infra.errors import MediaError
from omniforcing_model.errors import DivergenceError, ShapeError, StreamStateError
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.streaming.replay import replay
from omniforcing_model.streaming.seats import Seats, Stream
from omniforcing_model.transformer.exchange import Exchange
from omniforcing_model.transformer.text_context import TextContext
from omniforcing_model.weights.stated_family import warn_of_other_sigmas


@dataclass
class _OpenStream:
    text: TextContext | None  # None where a seat has a copy
    latents: Stream
    blocks: int
    decoders: StreamDecoders
    # Of a stream that was computed elsewhere: its first block here, and those before it that are
    # decoded when they are replayed, since what follows depends on them.
    begins_at: int = 0
    decoded_from: int = 0
    # What is computed before it is asked for: a block, or why there is none.
    ahead: ComputedBlock | Exception | None = None

    @property
    def next_index(self) -> int:
        """Of the block that is given out next."""
        return self.latents.block_index - isinstance(self.ahead, ComputedBlock)


class StreamWorker:
    """Streams blocks of a model folder's student; several streams may be open at a time.

    Blocks of different streams are computed one after the other. Two workers that hold one half
    each must be asked for the same blocks in the same order.
    """

    def __init__(
        self,
        model_folder: Path | str,
        config: RunConfig,
        halves: Collection[str] = STREAMS,
        exchange: Exchange | None = None,
        streams: int = 1,
        encodes: bool = False,
    ) -> None:
        """Load the weights and codecs of `halves`.

        Args:
            model_folder: model.safetensors and config.json.
            config: the run; its codec, sampling and data sections are read.
            halves: "video", "audio" or both.
            exchange: how the other half is reached, where it is not in `halves`.
            streams: how many may be open at a time and find everything warm, after `warm_up`.
            encodes: whether blocks are given out as packets instead of frames and samples.
        """
        self._size = (config.data.height, config.data.width)
        self._encodes = encodes
        self._device = own_device()
        self._kernels = take_kernels(config.sampling.student_kernels, self._device)
        self._model = load_student(Path(model_folder), config, self._device, halves, exchange)
        self._layout = BlockLayout(self._model.config.layout)
        stride = self._model.config.spatial_stride
        grid = latent_grid(config.data.height, config.data.width, stride)
        sampling = config.sampling
        warn_of_other_sigmas(self._model.config, sampling.student_sigmas)
        captures = sampling.student_passes == "captured"
        self._seats = Seats(self._model, grid, sampling.student_sigmas, captures=captures)
        self._warm_streams = streams if self._seats.are_captured else 1
        codec = config.codec
        self._text_tokens = codec.text_tokens
        video, audio = "video" in halves, "audio" in halves
        self._video_codec = load_video_codec(codec, self._device) if video else None
        self._audio_codec = load_audio_codec(codec, self._device) if audio else None
        self._decode_queue = decode_queue(torch.device(self._device))
        self._context_blocks = self._blocks_of_context()
        self._history = self._history_rule(config.serve.replayed_blocks)
        self._texts = PromptTexts(self._read_text)
        self._streams: dict[str, _OpenStream] = {}
        self._lock = threading.Lock()

    @property
    def sample_rate(self) -> int | None:
        """Samples a second of the waveforms; None without the audio half."""
        return None if self._audio_codec is None else self._audio_codec.sample_rate

    @property
    def kernels(self) -> str:
        """The forms of its operations that are chosen by the machine: they decide the last bits."""
        return kernels_name(self._kernels, self._model.dtype)

    @property
    def facts(self) -> WorkerFacts:
        """What streams are made of here."""
        return WorkerFacts(self.sample_rate, self.kernels, self._history)

    @property
    def open_streams(self) -> list[str]:
        """Ids of the open streams."""
        return list(self._streams)

    def use_exchange(self, exchange: Exchange | None) -> None:
        """Reach the other half through `exchange` from the next block on."""
        with self._lock:
            self._model.exchange = exchange

    def warm_up(self) -> None:
        """Run once whatever a stream runs; the streams after it are what they would have been.

        A half needs no partner for it. Weights that do not stream are no error here.
        """
        model = self._model
        text = silent_text(model.config, self._text_tokens)
        halves = model.halves.map(lambda _, features: features, text)
        # All at once: each takes a seat with passes of its own.
        names = [f"{WARM_UP} {seat}" for seat in range(self._warm_streams)]
        with self._lock:
            partner, model.exchange = model.exchange, SilentPartner()
        try:
            for name in names:
                self._open(name, halves, 0, warm_up_blocks(model.config))
            with contextlib.suppress(DivergenceError, MediaError):
                for name in names:
                    for _ in range(self._find(name).blocks):
                        self.next_block(name)
        finally:
            for name in names:
                self.close(name)
            self.use_exchange(partner)

    def open(
        self, stream_id: str, text: PerStream[Any], seed: int, seconds: int, next_block: int = 0
    ) -> int:
        """Open a stream and return its number of blocks.

        Args:
            stream_id: a new name.
            text: features (text tokens, text width) per held stream, NumPy or torch.
            seed: the stream is a function of text, seed and weights, and of nothing else.
            seconds: length; the clip has 1 + 24 * seconds frames.
            next_block: of a stream that was computed elsewhere, and goes on here once `replay` has
                its blocks.

        Raises:
            StreamStateError: the id is open already.
            LayoutError: less than a second.
        """
        blocks = self._layout.blocks_for_seconds(seconds)
        self._open(stream_id, text, seed, blocks, next_block)
        return blocks

    @torch.inference_mode()
    def replay(self, stream_id: str, past: PastBlocks) -> None:
        """Take blocks of a stream that was computed elsewhere, in their order, in as many calls as
        it may need; `actors.streaming.stream_history` says which.

        Args:
            stream_id: opened with `next_block`.
            past: clean latents (frames, ...) of the held streams, float32.

        Raises:
            StreamStateError: the stream is not open, or the blocks are others.
            ShapeError: what is given is not latents of its block.
            ExchangeError: the other half did not answer.
        """
        with self._lock:
            stream = self._find(stream_id)
            for index, latents in sorted(past.items()):
                own = self._model.halves.map(self._as_latents, latents)
                replay(stream.latents, {index: own}, self._layout)
                if index >= stream.decoded_from:
                    moment = self._decode_queue.moment()
                    block = ComputedBlock(index, own, moment, moment, final=False)
                    stream.decoders.begin(block, self._decode_queue).result()

    def next_block(self, stream_id: str) -> MediaBlock:
        """Compute and decode the next block of a stream.

        Raises:
            StreamStateError: the stream is not open, or has ended.
            ExchangeError: the other half did not answer.
            DivergenceError: the latents are not finite.
            MediaError: they cannot be decoded; other streams go on.
        """
        return self.begin_block(stream_id).result()

    @torch.inference_mode()
    def begin_block(self, stream_id: str) -> PendingBlock:
        """Compute the next block, unless `run_ahead` has, and queue its decoding.

        Its `result` raises what concerns this stream alone.

        Raises:
            StreamStateError: the stream is not open, or has ended.
            ExchangeError: the other half did not answer.
        """
        with self._lock:
            stream = self._find(stream_id)
            if stream.next_index >= stream.blocks:
                raise StreamStateError(
                    f"expected at most {stream.blocks} blocks of stream {stream_id!r}, got a"
                    " request for another; close it, or open a longer one"
                )
            if stream.latents.block_index < stream.begins_at:
                raise StreamStateError(
                    f"expected a stream whose blocks are replayed up to {stream.begins_at}, got"
                    f" {stream.latents.block_index}; replay the others first"
                )
            if stream.ahead is None:
                self._compute(stream)
            block = stream.ahead
            if isinstance(block, Exception):
                raise block
            assert block is not None
            stream.ahead = None
            return stream.decoders.begin(block, self._decode_queue)

    @torch.inference_mode()
    def run_ahead(self, stream_id: str) -> None:
        """Compute the block after the one that was begun last, while that one is decoded and sent.

        Its noise, rotations and passes are queued behind what a GPU is at. Nothing to do where no
        block follows, or the stream is not open any more.

        Raises:
            ExchangeError: the other half did not answer.
        """
        with self._lock:
            stream = self._streams.get(stream_id)
            if stream is None or stream.ahead is not None or stream.next_index >= stream.blocks:
                return
            self._compute(stream)

    def finish(self, stream_id: str) -> EncodedBlock:
        """What an encoder still holds of a stream that ends before its last block.

        StreamStateError if the stream is not open.
        """
        with self._lock:
            encoders = self._find(stream_id).decoders.encoders
            return EncodedBlock() if encoders is None else encoders.encode(None, None, final=True)

    def close(self, stream_id: str) -> None:
        """Forget a stream; one that is not open is no error. Waits for the block in progress."""
        with self._lock:
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                self._seats.leave(stream.latents)
                if stream.text is not None:
                    self._texts.close(stream.text)

    def _blocks_of_context(self) -> int:
        """Blocks before one that what it decodes to, or is encoded to, depends on."""
        video, audio, each = self._video_codec, self._audio_codec, self._layout.following_count
        blocks = 0
        if video is not None:
            blocks = -(-video.context // each.video)
        if audio is not None:
            samples = context_samples() if self._encodes else 0
            encoded = -(-samples // (self._layout.block_seconds * audio.sample_rate))
            blocks = max(blocks, -(-audio.context // each.audio) + encoded)
        return blocks

    def _history_rule(self, recent: int | None) -> HistoryRule:
        if recent is None:
            recent = self._layout.blocks_seen(self._model.config.layers)
        return HistoryRule(self._layout.config, max(recent, self._context_blocks))

    def _open(
        self, stream_id: str, text: PerStream[Any], seed: int, blocks: int, next_block: int = 0
    ) -> None:
        with self._lock:
            if stream_id in self._streams:
                raise StreamStateError(
                    f"expected a new stream id, got {stream_id!r}, which is open; close it first"
                )
            context = self._texts.open(text.map(_add_batch_axis))
            try:
                latents = self._seats.open(context, seeded_noise(seed))
            except BaseException:
                self._texts.close(context)
                raise
            video, audio = self._video_codec, self._audio_codec
            decoded_from = max(0, next_block - self._context_blocks)
            first = self._layout.block(decoded_from).first
            sound = None if audio is None else audio.decoder(first.audio)
            encoders = None
            if self._encodes:
                encoders = BlockEncoders(
                    None if video is None else self._size,
                    None if audio is None else audio.sample_rate,
                    first_block=decoded_from,
                    first_sample=0 if sound is None else sound.position,
                )
            pictures = None if video is None else video.decoder(first.video)
            decoders = StreamDecoders(pictures, sound, encoders)
            read = None if self._seats.is_seated(latents) else context
            if read is None:
                self._texts.close(context)
            self._streams[stream_id] = _OpenStream(
                read, latents, blocks, decoders, next_block, decoded_from
            )

    def _read_text(self, features: PerStream[Tensor]) -> TextContext:
        """Keys and values of features that are on the host."""
        device, dtype = self._model.device, self._model.dtype
        return self._model.read_text(features.map(lambda x: to_device(x, device).to(dtype)))

    def _as_latents(self, _: object, values: NDArray[np.float32] | None) -> Tensor:
        # A copy: what Ray hands over is read-only.
        return to_device(torch.tensor(values)[None], self._model.device)

    def _compute(self, stream: _OpenStream) -> None:
        """The stream's next latents, or what kept them from being computed."""
        index, moment = stream.latents.block_index, self._decode_queue.moment
        started = moment()
        try:
            latents = stream.latents.next_block()
        except Exception as error:
            stream.ahead = error  # what was to be there is not: another try would not be the same
            raise
        final = index == stream.blocks - 1
        stream.ahead = ComputedBlock(index, latents, started, moment(), final)

    def _find(self, stream_id: str) -> _OpenStream:
        if stream_id not in self._streams:
            raise StreamStateError(
                f"expected an open stream, got {stream_id!r}; open it before asking for blocks"
            )
        return self._streams[stream_id]


def _add_batch_axis(features: Any) -> Tensor:
    """Text features as a batch of one, (1, text tokens, text width)."""
    # A copy: what Ray hands over is read-only.
    tensor = torch.tensor(np.asarray(features), dtype=torch.float32)
    if tensor.ndim != 2:
        raise ShapeError(
            f"expected text features (tokens, width), got {tuple(tensor.shape)};"
            " pass the features of one prompt"
        )
    return tensor[None]
