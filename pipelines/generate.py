"""One prompt to one MP4 file: streamed in this process, or from a server."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import torch

from actors.latents.codec_loading import load_text_encoder, own_device
from actors.streaming.media_block import PendingBlock
from actors.streaming.media_muxer import MediaMuxer
from actors.streaming.stream_worker import StreamWorker
from infra.config import RunConfig, ServeConfig
from infra.errors import ConfigError, ServerError
from infra.media.files import probe, read_frames, read_waveform
from infra.plain_text import text_problem
from infra.runs.checkpoint_store import resolve_model
from infra.storage.key_files import read_key
from infra.stream_limits import exceeded_limit
from infra.terminal.progress import Progress, StageProgress
from omniforcing_model.beacons.metrics import measure_clip
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.weights.checkpoint_files import folder_digest

STREAM_ID = "generate"
CONNECTIONS_IN_VAIN = 3
CONNECT_TIMEOUT_S = 10.0
SHOWN_CHARACTERS = 300
BOX_HEADER_BYTES = 8


@dataclass(frozen=True)
class Request:
    """A clip to make: a prompt, whole seconds, and the seed that makes it repeatable."""

    prompt: str
    seconds: int
    seed: int

    def require_possible(self) -> None:
        """ConfigError if no server would take it; how much one takes is for the server to say."""
        if not self.prompt.strip():
            raise ConfigError("expected a prompt, got an empty one; say what is seen and heard")
        problem = text_problem(self.prompt)
        if problem is not None:
            raise ConfigError(f"expected a prompt of text, got {problem}; leave it out")
        if self.seconds < 1:
            raise ConfigError(
                f"expected 1 second or more, got {self.seconds}; ask for a longer clip"
            )

    def require_within(self, limits: ServeConfig) -> None:
        """ConfigError if a stream made here, under `limits`, may not be so."""
        problem = exceeded_limit(self.prompt, self.seconds, limits)
        if problem is not None:
            raise ConfigError(f"{problem}, or raise serve.max_prompt_chars or serve.max_seconds")
        self.require_possible()


@dataclass(frozen=True)
class BlockTimes:
    """When a block of a stream was computed and sent, in seconds since the request.

    `media_s`: seconds of picture that were out before the block; `block_s`: how long it took. A
    block whose frames are all held back by the codec counts as sent when it was computed.
    """

    index: int
    media_s: float
    block_s: float
    computed_at_s: float
    sent_at_s: float


@dataclass(frozen=True)
class GeneratedClip:
    """A written file, and how fast it came.

    `first_chunk_s` counts from the request to the whole first second of media, `first_bytes_s` to
    the first picture.
    """

    file: str
    model: str
    kernels: str
    frames: int
    sample_rate: int
    first_bytes_s: float
    first_chunk_s: float
    fps: float
    av_offset_ms: float
    blocks: tuple[BlockTimes, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain values, with `block_s` as a list of its own."""
        return asdict(self) | {"block_s": [block.block_s for block in self.blocks]}


def generate_here(
    config: RunConfig, model: str, request: Request, out: Path, progress: Progress
) -> GeneratedClip:
    """Stream in this process, both halves together, into the MP4 file `out`.

    Raises:
        ConfigError: the request is beyond what the configuration allows.
        CheckpointError: `model` does not resolve.
        DivergenceError: the model's latents are not finite.
    """
    request.require_within(config.serve)
    folder = resolve_model(model, config.tracking.uri)
    # As many threads as the same stream has when it is served: more only wait for each other.
    torch.set_num_threads(max(1, round(config.cluster.video_stream.cpus)))
    # Before the model is there: at the size of LTX-2 the text encoder needs as much room.
    encoded = load_text_encoder(config, own_device()).encode([request.prompt])
    text = encoded.map(lambda features: features[0].numpy())
    worker = StreamWorker(folder, config)
    digest, rate = folder_digest(folder), worker.sample_rate
    assert rate is not None, "the worker holds both halves"
    muxer = MediaMuxer(config.data.height, config.data.width, rate, digest)
    began = time.perf_counter()
    with _whole_file(out) as file:
        count = worker.open(STREAM_ID, text, request.seed, request.seconds)
        writer = _BlockWriter(muxer, file, began)
        with progress.stage("generate", count) as stage, ThreadPoolExecutor(1) as thread:
            written: Future[None] | None = None
            for _ in range(count):
                requested = time.perf_counter()
                pending = worker.begin_block(STREAM_ID)
                if written is not None:
                    written.result()
                # Decoded and encoded while the next block is computed.
                written = thread.submit(writer.write, pending, requested)
                stage.advance()
            if written is not None:
                written.result()
        file.write(muxer.finish())
        worker.close(STREAM_ID)
        by = f"{model} {digest}", worker.kernels
        return _measure(config, file, out, by, request, writer.blocks)


class _BlockWriter:
    """Encodes blocks into a file, one after the other, and notes when each was there."""

    def __init__(self, muxer: MediaMuxer, file: BinaryIO, began: float) -> None:
        self.blocks: list[BlockTimes] = []
        self._muxer = muxer
        self._file = file
        self._began = began
        file.write(muxer.init_segment)

    def write(self, pending: PendingBlock, requested: float) -> None:
        """Write the next block, which was asked for at `requested`, once it is decoded."""
        media_s, block = self._muxer.video_seconds, pending.result()
        computed = time.perf_counter()
        self._file.write(self._muxer.write_block(block.frames, block.waveform))
        sent = time.perf_counter()
        times = (computed - requested, computed - self._began, sent - self._began)
        self.blocks.append(BlockTimes(block.index, media_s, *times))


def generate_from_server(
    config: RunConfig, url: str, request: Request, out: Path, progress: Progress
) -> GeneratedClip:
    """Stream from the server at `url` into the MP4 file `out`.

    Computing times are the server's; when a block was there is measured here.

    Raises:
        ConfigError: no server would take the request, or `url` is none.
        ServerError: nobody answers, the server refuses, or the stream breaks off.
    """
    request.require_possible()
    arrived: list[float] = []
    timeout = httpx.Timeout(config.serve.session_timeout_s, connect=CONNECT_TIMEOUT_S)
    key = read_key(config.serve.api_key_file, "serve.api_key_file")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with (
        _server_errors(url),
        httpx.Client(base_url=url, timeout=timeout, headers=headers) as client,
    ):
        began = time.perf_counter()
        opened = client.post("/v1/streams", json=asdict(request))
        _refuse_errors(opened)
        urls = opened.json()["urls"]
        with _whole_file(out) as file:
            fragments = FragmentCounter(lambda: arrived.append(time.perf_counter() - began))
            with progress.stage("receive", None) as stage:
                _receive(client, urls, file, fragments, stage)
            status = _status(client, urls)
            blocks = _blocks_of(status, arrived)
            by = status["model"], status["kernels"]
            return _measure(config, file, out, by, request, blocks)


def _receive(
    client: httpx.Client,
    urls: dict[str, str],
    file: BinaryIO,
    fragments: "FragmentCounter",
    stage: StageProgress,
) -> None:
    """The media of a stream into `file`; where a connection breaks, another one goes on from the
    first block that is not here. httpx.HTTPError if several bring none."""
    place, had, in_vain = urls["media"], 0, 0
    while True:
        try:
            with client.stream("GET", place) as media:
                _refuse_errors(media)
                for chunk in media.iter_raw():
                    file.write(chunk)
                    fragments.feed(chunk)
                    stage.advance(kilobytes=fragments.received // 1000)
            return
        except (httpx.ReadError, httpx.RemoteProtocolError):
            status = _status(client, urls)
            in_vain = in_vain + 1 if fragments.count == had else 0
            if status["state"] == "failed" or in_vain == CONNECTIONS_IN_VAIN:
                raise
            had = fragments.count
            fragments.begin_anew()
            file.truncate(fragments.received)
            file.seek(fragments.received)
            place = f"{urls['media']}{'&' if '?' in urls['media'] else '?'}block="
            place += str(_block_of_fragment(status, had))


def _block_of_fragment(status: dict[str, Any], number: int) -> int:
    """Which block fragment `number` carries; a block that the codecs hold back whole has none."""
    blocks = [block["index"] for block in status["blocks"] if block["fragment_bytes"]]
    return int(blocks[number]) if number < len(blocks) else len(status["blocks"])


def _status(client: httpx.Client, urls: dict[str, str]) -> dict[str, Any]:
    known = client.get(urls["status"])
    _refuse_errors(known)
    status: dict[str, Any] = known.json()
    return status


def _blocks_of(status: dict[str, Any], arrived: list[float]) -> list[BlockTimes]:
    """Blocks from the server's record of the stream, and from when their fragments were here."""
    # A block that the codecs hold back whole has no fragment.
    sent = sum(block["fragment_bytes"] > 0 for block in status["blocks"])
    if status["state"] != "done" or len(arrived) < sent:
        raise ServerError(
            f"expected a stream to its end, got {status['state']!r} after {len(arrived)} blocks:"
            f" {status['reason']}; look at the server's log and ask again"
        )
    blocks, media_s, fragments = [], 0.0, iter(arrived)
    for block in status["blocks"]:
        computed_at_s = block["computed_at"] - status["created_at"]
        here = next(fragments) if block["fragment_bytes"] else computed_at_s
        blocks.append(BlockTimes(block["index"], media_s, block["block_s"], computed_at_s, here))
        media_s = block["video_s"]
    return blocks


class FragmentCounter:
    """Tells when each fragment of a fragmented MP4 is complete, however the bytes are cut."""

    def __init__(self, fragment_is_complete: Callable[[], None]) -> None:
        self._report = fragment_is_complete
        self._rest = b""
        self._skip = 0
        self._whole = 0
        self.received = 0
        self.count = 0

    def begin_anew(self) -> None:
        """The next bytes follow the last fragment that is complete."""
        self._rest, self._skip, self.received = b"", 0, self._whole

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        self.received += len(data)
        self._rest += data
        while True:
            skipped = min(self._skip, len(self._rest))
            self._rest, self._skip = self._rest[skipped:], self._skip - skipped
            if self._skip or len(self._rest) < BOX_HEADER_BYTES:
                return
            size, kind = int.from_bytes(self._rest[:4], "big"), self._rest[4:8]
            if kind == b"mdat" and len(self._rest) < size:
                return  # a fragment counts once its last byte is here
            if kind == b"mdat":
                self.count += 1
                self._whole = self.received - len(self._rest) + size
                self._report()
            self._skip = max(size, BOX_HEADER_BYTES)


def _measure(
    config: RunConfig,
    file: BinaryIO,
    out: Path,
    by: tuple[str, str],
    request: Request,
    blocks: list[BlockTimes],
) -> GeneratedClip:
    """Read `file`, which becomes `out`, back: what was promised is only true if it is in there.

    `by`: the model and the kernels that it was made with.
    """
    file.flush()
    written = Path(file.name)
    size = (config.data.height, config.data.width)
    frame_count = BlockLayout(config.model.layout).frames_for_seconds(request.seconds)
    frames = read_frames(written, VIDEO_FPS, size, frame_count)
    rate = probe(written).sample_rate
    waveform = read_waveform(written, rate, 1, request.seconds + 1)
    if not blocks or len(frames) < frame_count:
        raise ServerError(
            f"expected {frame_count} frames in {out}, got {len(frames)}; the stream broke off,"
            " look at the server's log and ask again"
        )
    # A block that begins at a second or later follows the one that completed the first second.
    completing = [block for block in blocks if block.media_s < 1][-1]
    return GeneratedClip(
        file=str(out),
        model=by[0],
        kernels=by[1],
        frames=len(frames),
        sample_rate=rate,
        first_bytes_s=round(_first_with_picture(blocks).sent_at_s, 4),
        first_chunk_s=round(completing.sent_at_s, 4),
        fps=round(len(frames) / blocks[-1].sent_at_s, 2),
        av_offset_ms=round(measure_clip(frames, waveform, rate).av_offset_ms, 2),
        blocks=tuple(
            BlockTimes(block.index, *(round(value, 4) for value in astuple(block)[1:]))
            for block in blocks
        ),
    )


def _first_with_picture(blocks: list[BlockTimes]) -> BlockTimes:
    """The block after which some picture was out: a codec with look-ahead holds the first back."""
    return next((one for one, after in pairwise(blocks) if after.media_s > 0), blocks[-1])


@contextmanager
def _whole_file(out: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete, and is gone if it does not."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
        file = unfinished.open("wb")
    except OSError as error:
        raise ConfigError(f"expected a place to write, got {out}: {error.strerror}") from error
    try:
        with file:
            yield file
        unfinished.replace(out)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def _server_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(
            f"expected a URL such as http://host:8000, got {url!r}: {error}"
        ) from error
    except httpx.ConnectError as error:
        raise ServerError(
            f"expected a server at {url}, got: {error}; start one with `omniforcing serve`"
        ) from error
    except httpx.HTTPError as error:
        raise ServerError(
            f"expected a whole stream from {url}, got {type(error).__name__}: {error};"
            " look at the server's log"
        ) from error


def _refuse_errors(response: httpx.Response) -> None:
    if response.is_success:
        return
    body = " ".join(response.read().decode(errors="replace").split())[:SHOWN_CHARACTERS]
    raise ServerError(
        f"expected the server to accept the stream, got {response.status_code}: {body}"
    )
