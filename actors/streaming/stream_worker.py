"""One process that turns prompts into blocks of latents, pictures and sound.

It holds the model, or one half of it, the codec of every stream it holds, and a rollout per open
stream. The same class serves a command, the `colocated` layout and each half of a `pair`.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.latents.codec_loading import load_audio_codec, load_video_codec, own_device
from infra.config import RunConfig
from infra.errors import MediaError
from omniforcing_model.codecs.audio_codec import StreamingAudioDecoder
from omniforcing_model.codecs.pixels import to_pixels
from omniforcing_model.codecs.video_codec import StreamingVideoDecoder
from omniforcing_model.errors import DivergenceError, ShapeError, StreamStateError
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.exchange import Exchange
from omniforcing_model.transformer.float8 import use_float8
from omniforcing_model.transformer.projections import pack_for_streaming
from omniforcing_model.weights.checkpoint_files import load_model
from omniforcing_model.weights.rotary_profile import StatedProfile


class BlockTimings(NamedTuple):
    """Seconds that one block took in this process."""

    generate_s: float
    decode_s: float


@dataclass(frozen=True)
class MediaBlock:
    """Block `index` of a stream; what this worker does not hold is None.

    latents: video (frames, channels, height, width) and audio (frames, channels), float32.
    frames: (frames, height, width, 3) uint8. waveform: (2, samples) float32 in [-1, 1].
    """

    index: int
    latents: PerStream[NDArray[np.float32] | None]
    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None
    timings: BlockTimings


@dataclass
class _OpenStream:
    rollout: Rollout
    blocks: int
    video_decoder: StreamingVideoDecoder | None
    audio_decoder: StreamingAudioDecoder | None


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
    ) -> None:
        """Load the weights and codecs of `halves`.

        Args:
            model_folder: model.safetensors and config.json.
            config: the run; its codec, sampling and data sections are read.
            halves: "video", "audio" or both.
            exchange: how the other half is reached, where it is not in `halves`.
        """
        self._device = own_device()
        self._model = self._load(Path(model_folder), config, halves, exchange)
        self._layout = BlockLayout(self._model.config.layout)
        self._grid = latent_grid(
            config.data.height, config.data.width, self._model.config.spatial_stride
        )
        self._sigmas = config.sampling.student_sigmas
        codec = config.codec
        video, audio = "video" in halves, "audio" in halves
        self._video_codec = load_video_codec(codec, self._device) if video else None
        self._audio_codec = load_audio_codec(codec, self._device) if audio else None
        self._streams: dict[str, _OpenStream] = {}
        self._lock = threading.Lock()

    @property
    def sample_rate(self) -> int | None:
        """Samples a second of the waveforms; None without the audio half."""
        return None if self._audio_codec is None else self._audio_codec.sample_rate

    @property
    def open_streams(self) -> list[str]:
        """Ids of the open streams."""
        return list(self._streams)

    def use_exchange(self, exchange: Exchange) -> None:
        """Reach the other half through `exchange` from the next block on."""
        with self._lock:
            self._model.exchange = exchange

    def open(self, stream_id: str, text: PerStream[Any], seed: int, seconds: int) -> int:
        """Open a stream and return its number of blocks.

        Args:
            stream_id: a new name.
            text: features (text tokens, text width) per held stream, NumPy or torch.
            seed: the stream is a function of text, seed and weights, and of nothing else.
            seconds: length; the clip has 1 + 24 * seconds frames.

        Raises:
            StreamStateError: the id is open already.
            LayoutError: less than a second.
        """
        blocks = self._layout.blocks_for_seconds(seconds)
        with self._lock:
            if stream_id in self._streams:
                raise StreamStateError(
                    f"expected a new stream id, got {stream_id!r}, which is open; close it first"
                )
            features = text.map(_add_batch_axis)
            context = self._model.read_text(
                features.map(lambda x: x.to(self._device, self._model.dtype))
            )
            self._streams[stream_id] = _OpenStream(
                rollout=Rollout(self._model, context, self._grid, self._sigmas, seeded_noise(seed)),
                blocks=blocks,
                video_decoder=self._video_codec.decoder() if self._video_codec else None,
                audio_decoder=self._audio_codec.decoder() if self._audio_codec else None,
            )
        return blocks

    @torch.inference_mode()
    def next_block(self, stream_id: str) -> MediaBlock:
        """Compute and decode the next block of a stream.

        Raises:
            StreamStateError: the stream is not open, or has ended.
            ExchangeError: the other half did not answer.
            DivergenceError: the latents are not finite.
            MediaError: they cannot be decoded; other streams go on.
        """
        with self._lock:
            stream = self._find(stream_id)
            index = stream.rollout.block_index
            if index >= stream.blocks:
                raise StreamStateError(
                    f"expected at most {stream.blocks} blocks of stream {stream_id!r}, got a"
                    " request for another; close it, or open a longer one"
                )
            started = time.perf_counter()
            latents = stream.rollout.next_block()
            generated = time.perf_counter()
            for name, value in latents.present():
                if not torch.isfinite(value).all():
                    raise DivergenceError(
                        f"expected finite {name} latents in block {index}, got NaN or infinity;"
                        " take another checkpoint"
                    )
            frames, waveform = _decode(stream, latents, final=index == stream.blocks - 1)
            timings = BlockTimings(generated - started, time.perf_counter() - generated)
        arrays: PerStream[NDArray[np.float32] | None] = latents.map(_to_array)
        return MediaBlock(index, arrays, frames, waveform, timings)

    def close(self, stream_id: str) -> None:
        """Forget a stream; one that is not open is no error. Waits for the block in progress."""
        with self._lock:
            self._streams.pop(stream_id, None)

    def _load(
        self, folder: Path, config: RunConfig, halves: Collection[str], exchange: Exchange | None
    ) -> DualStreamTransformer:
        precision = config.sampling.student_precision
        model = load_model(
            folder,
            halves=halves,
            exchange=exchange,
            dtype=torch.float32 if precision == "float32" else torch.bfloat16,
            device=self._device,
            stated=StatedProfile.of(config.model),
        )
        model.requires_grad_(False)
        if precision == "float8":
            use_float8(model)
        pack_for_streaming(model)
        return model

    def _find(self, stream_id: str) -> _OpenStream:
        if stream_id not in self._streams:
            raise StreamStateError(
                f"expected an open stream, got {stream_id!r}; open it before asking for blocks"
            )
        return self._streams[stream_id]


def _decode(
    stream: _OpenStream, latents: PerStream[Tensor], final: bool
) -> tuple[NDArray[np.uint8] | None, NDArray[np.float32] | None]:
    """Pictures and sound of a block, of what is held. The other half does not wait for this."""
    frames = waveform = None
    try:
        if stream.video_decoder:
            frames = _to_pixels(stream.video_decoder.decode(latents.video, final))
        if stream.audio_decoder:
            waveform = _to_array(stream.audio_decoder.decode(latents.audio, final))
    except Exception as error:
        raise MediaError(
            f"expected latents that decode, got {type(error).__name__}; look at the server's log"
        ) from error
    return frames, waveform


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


def _to_array(batch_of_one: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = batch_of_one[0].float().cpu().numpy()
    return array


def _to_pixels(decoded: Tensor) -> NDArray[np.uint8]:
    """(1, frames, 3, height, width) in [-1, 1] to (frames, height, width, 3) uint8."""
    pixels: NDArray[np.uint8] = to_pixels(decoded[0]).cpu().numpy()
    return pixels
