"""One stream from acceptance to its last byte.

Three things go on at once: the pair computes block k + 1, block k is encoded, and block k - 1 is on
its way to the reader. At most `max_queued_blocks` blocks are computed and not yet taken; then the
session waits for its reader, and only this session.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from actors.streaming.media_muxer import MediaMuxer
from actors.streaming.stream_worker import MediaBlock
from infra.config import ServeConfig
from infra.errors import RefusedError, ServerError
from omniforcing_model.errors import OmniForcingError
from serve.leased_pair import LeasedPair, Opening
from serve.protocol import (
    ENDED,
    BlockEvent,
    BlockRecord,
    EndEvent,
    StreamState,
    StreamStatus,
)

LOG = logging.getLogger(__name__)
FIRST_CHUNK_S = 1.0
NO_READER = "no reader took a block in time"
READER_GONE = "the reader went away"


@dataclass(frozen=True)
class StreamOrder:
    """What was accepted: the request with every default filled in.

    `accepted` is when, by `time.perf_counter`.
    """

    stream_id: str
    prompt: str
    seconds: int
    seed: int
    model: str
    accepted: float


class _Chunk(NamedTuple):
    """Bytes for the reader; `block` is the one they carry, None for header and tail."""

    block: int | None
    data: bytes


class Session:
    """Drives one order through a leased pair and holds what it became."""

    def __init__(
        self,
        order: StreamOrder,
        limits: ServeConfig,
        pair: LeasedPair,
        muxer: MediaMuxer,
        encode_prompt: Callable[[str], Awaitable[Opening]],
        give_back: Callable[[bool], Awaitable[None]],
    ) -> None:
        """Take an accepted order; `run` does the work.

        Args:
            order: what to stream.
            limits: of the endpoint.
            pair: leased for this session.
            muxer: fresh.
            encode_prompt: the prompt's text features, with seed and length.
            give_back: returns the lease; True says that the pair failed.
        """
        self.order = order
        self._limits = limits
        self._pair = pair
        self._encode_prompt = encode_prompt
        self._give_back = give_back
        self._muxer = muxer
        self.created_at = time.time() - (time.perf_counter() - order.accepted)
        self.state: StreamState = "starting"
        self.reason: str | None = None
        self.blocks: list[BlockRecord] = []
        self.first_byte_s: float | None = None
        self.first_chunk_s: float | None = None
        self._room = asyncio.Semaphore(self._limits.max_queued_blocks)
        self._outbox: asyncio.Queue[_Chunk | None] = asyncio.Queue()
        self._outbox.put_nowait(_Chunk(None, self._muxer.init_segment))
        self._stopping = asyncio.Event()
        self._has_reader = False
        self._computed = asyncio.Event()
        self._delivered = asyncio.Event()
        self._listeners: set[asyncio.Queue[BlockEvent | EndEvent]] = set()

    @property
    def content_type(self) -> str:
        """Of the media, with the exact codecs."""
        return self._muxer.content_type

    @property
    def computes(self) -> bool:
        """Whether it still holds its pair."""
        return self.state not in ENDED

    def status(self) -> StreamStatus:
        """Everything that is known about the stream."""
        return StreamStatus(
            id=self.order.stream_id,
            state=self.state,
            reason=self.reason,
            prompt=self.order.prompt,
            seconds=self.order.seconds,
            seed=self.order.seed,
            model=self.order.model,
            layout=self._limits.layout,
            pair=self._pair.lease.pair,
            epoch=self._pair.lease.epoch,
            created_at=self.created_at,
            first_byte_s=self.first_byte_s,
            first_chunk_s=self.first_chunk_s,
            queued_blocks=sum(block.sent_at is None for block in self.blocks),
            blocks=list(self.blocks),
        )

    def stop(self, reason: str) -> None:
        """End after the block in progress; what is computed by then still reaches a reader."""
        if self.computes and not self._stopping.is_set():
            self.reason = reason
            self._stopping.set()

    async def stop_and_wait(self, reason: str) -> None:
        """Stop, and return when the pair is free; without a reader nothing is kept."""
        self.stop(reason)
        await self._computed.wait()
        if not self._has_reader:
            self._delivered.set()

    async def run(self) -> None:
        """Compute the stream to its end, however it ends; raises nothing of ours."""
        pair_failed = False
        try:
            await self._stream()
            ended: StreamState = "stopped" if self._stopping.is_set() else "done"
        except OmniForcingError as error:
            ended, self.reason = "failed", str(error)
            pair_failed = isinstance(error, ServerError)
            LOG.warning("stream %s failed: %s", self.order.stream_id, error)
        except Exception as error:
            ended, self.reason, pair_failed = "failed", f"unexpected {type(error).__name__}", True
            LOG.exception("stream %s failed", self.order.stream_id)
        finally:
            await self._free_the_pair(pair_failed)
        self.state = ended
        self._computed.set()
        self._outbox.put_nowait(None)
        self._tell(EndEvent(state=ended, reason=self.reason))
        await self._wait_for_delivery()

    async def media(self) -> AsyncIterator[bytes]:
        """The MP4 as it grows, for the reader that claimed it; if it leaves, the stream ends."""
        whole = False
        try:
            while (chunk := await self._outbox.get()) is not None:
                yield chunk.data
                self._mark_sent(chunk)
            whole = True
        finally:
            if not whole:
                self.stop(READER_GONE)
            self._delivered.set()

    def claim_reader(self) -> None:
        """Become the reader; RefusedError if there is, or was, another one."""
        if self._has_reader:
            raise RefusedError(
                "expected one reader per stream, got a second one; create another stream",
                status=409,
            )
        self._has_reader = True

    async def events(self) -> AsyncIterator[BlockEvent | EndEvent]:
        """Blocks so far, then every block as it is encoded, then the end."""
        inbox: asyncio.Queue[BlockEvent | EndEvent] = asyncio.Queue()
        for record in self.blocks:
            inbox.put_nowait(BlockEvent(block=record))
        if not self.computes:
            inbox.put_nowait(EndEvent(state=self.state, reason=self.reason))
        self._listeners.add(inbox)
        try:
            while True:
                event = await inbox.get()
                yield event
                if isinstance(event, EndEvent):
                    return
        finally:
            self._listeners.discard(inbox)

    async def _free_the_pair(self, failed: bool) -> None:
        try:
            if not failed:
                await self._pair.close(self.order.stream_id)
            await self._give_back(failed)
        except Exception:
            # The registry finds out by itself; the reader must hear the end in any case.
            LOG.exception("stream %s could not give its pair back", self.order.stream_id)

    async def _stream(self) -> None:
        opening = await self._encode_prompt(self.order.prompt)
        blocks = await self._pair.open(self.order.stream_id, opening)
        self.state = "streaming"
        encoding = asyncio.create_task(asyncio.sleep(0))
        try:
            for _ in range(blocks):
                if not await self._has_room():
                    break
                asked = time.perf_counter()
                block = await self._pair.next_block(self.order.stream_id)
                computed = time.perf_counter()
                await encoding
                encoding = asyncio.create_task(self._deliver(block, computed - asked, computed))
        finally:
            await encoding
        tail = await asyncio.to_thread(self._muxer.finish)
        self._outbox.put_nowait(_Chunk(None, tail))

    async def _has_room(self) -> bool:
        """Wait until another block may be computed; False if the stream is to end.

        What lies between here and the reader takes bytes even while the reader takes none. So a
        stream also keeps to its clock, once it is `max_lead_s` ahead of it.
        """
        lead = self._muxer.video_seconds - self._playing_s()
        if lead > self._limits.max_lead_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(lead - self._limits.max_lead_s):
                    await self._stopping.wait()
        waiting = asyncio.create_task(self._room.acquire())
        stopping = asyncio.create_task(self._stopping.wait())
        timeout = self._limits.session_timeout_s
        tasks = {waiting, stopping}
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if not waiting.done() and not self._stopping.is_set():
            self.stop(f"{NO_READER} ({timeout:g} s)")
        return not self._stopping.is_set()

    def _playing_s(self) -> float:
        """Seconds that a player could have shown by now."""
        if self.first_byte_s is None:
            return 0.0
        return time.perf_counter() - self.order.accepted - self.first_byte_s

    async def _deliver(self, block: MediaBlock, block_s: float, computed: float) -> None:
        fragment = await asyncio.to_thread(self._muxer.write_block, block.frames, block.waveform)
        encoded = time.perf_counter()
        if self.first_chunk_s is None and self._muxer.video_seconds >= FIRST_CHUNK_S:
            self.first_chunk_s = round(encoded - self.order.accepted, 6)
        record = BlockRecord(
            index=block.index,
            block_s=round(block_s, 6),
            generate_s=round(block.timings.generate_s, 6),
            computed_at=self._unix(computed),
            encoded_at=self._unix(encoded),
            video_s=self._muxer.video_seconds,
            audio_s=self._muxer.audio_seconds,
            fragment_bytes=len(fragment),
        )
        self.blocks.append(record)
        self._outbox.put_nowait(_Chunk(block.index, fragment))
        self._tell(BlockEvent(block=record))

    def _mark_sent(self, chunk: _Chunk) -> None:
        now = time.perf_counter()
        if self.first_byte_s is None:
            self.first_byte_s = round(now - self.order.accepted, 6)
        if chunk.block is not None:
            record = self.blocks[chunk.block]
            self.blocks[chunk.block] = record.model_copy(update={"sent_at": self._unix(now)})
            self._room.release()

    async def _wait_for_delivery(self) -> None:
        """Keep what is computed for a while for a reader that is late."""
        try:
            async with asyncio.timeout(self._limits.session_timeout_s):
                await self._delivered.wait()
        except TimeoutError:
            self._delivered.set()
            while not self._outbox.empty():
                self._outbox.get_nowait()
            self._outbox.put_nowait(None)

    def _tell(self, event: BlockEvent | EndEvent) -> None:
        for inbox in self._listeners:
            inbox.put_nowait(event)

    def _unix(self, moment: float) -> float:
        return round(self.created_at + moment - self.order.accepted, 6)
