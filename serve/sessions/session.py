"""One stream from acceptance to its last byte.

Three things go on at once: the pair computes block k + 1, block k is encoded, and block k - 1 is on
its way to the reader. At most `max_queued_blocks` blocks are computed and not yet taken; then the
session waits for its reader, and only this session.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace

from actors.streaming.media_block import MediaBlock
from actors.streaming.media_muxer import MediaMuxer
from actors.streaming.stream_history import HistoryRule
from infra.config import ServeConfig
from infra.errors import PairLostError, ServerError
from omniforcing_model.errors import OmniForcingError
from serve.sessions.delivery import Chunk, Delivery
from serve.sessions.leased_pair import LeasedPair, Opening, Replicas
from serve.sessions.metrics import Metrics
from serve.sessions.moving_stream import MovingStream
from serve.sessions.protocol import (
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
NOT_FETCHED = "nobody fetched it in time, and others waited"
READER_GONE = "the reader went away"


@dataclass(frozen=True)
class StreamOrder:
    """What was accepted: the request with every default filled in.

    `accepted` is when, by `time.perf_counter`; `owner` the digest of the key that it came with.
    """

    stream_id: str
    prompt: str
    seconds: int
    seed: int
    model: str
    kernels: str
    accepted: float
    owner: str | None = None


class Session:
    """Drives one order through a leased pair and holds what it became."""

    def __init__(
        self,
        order: StreamOrder,
        limits: ServeConfig,
        replicas: Replicas,
        pair: LeasedPair,
        history: HistoryRule,
        muxer: MediaMuxer,
        metrics: Metrics,
    ) -> None:
        """Take an accepted order; `run` does the work.

        Args:
            order: what to stream.
            limits: of the endpoint.
            replicas: that encode the prompt, and lend another pair where this one is lost.
            pair: leased for this session.
            history: what is kept of the stream for another pair.
            muxer: fresh.
            metrics: of the gateway; count every block as it comes.
        """
        self.order = order
        self._limits = limits
        self._replicas = replicas
        self._source = MovingStream(
            order.stream_id,
            replicas,
            pair,
            history,
            limits.session_timeout_s,
            metrics.count_move,
        )
        self._muxer = muxer
        self._metrics = metrics
        self.created_at = time.time() - (time.perf_counter() - order.accepted)
        self.state: StreamState = "starting"
        self.reason: str | None = None
        self.blocks: list[BlockRecord] = []
        self.first_byte_s: float | None = None
        self.first_chunk_s: float | None = None
        self._changed = asyncio.Event()
        self._delivery = Delivery(muxer.init_segment, self._announce)
        self._unread_since = order.accepted

    @property
    def content_type(self) -> str:
        """Of the media, with the exact codecs."""
        return self._muxer.content_type

    @property
    def holds_pair(self) -> bool:
        """Whether blocks may still come; once it has ended the pair is free."""
        return self.state not in ENDED

    def status(self, first_block: int = 0) -> StreamStatus:
        """What is known about the stream, with the records of the blocks from `first_block` on."""
        return StreamStatus(
            id=self.order.stream_id,
            state=self.state,
            reason=self.reason,
            prompt=self.order.prompt,
            seconds=self.order.seconds,
            seed=self.order.seed,
            model=self.order.model,
            kernels=self.order.kernels,
            layout=self._limits.layout,
            pair=self._source.lease.pair,
            epoch=self._source.lease.epoch,
            moves=self._source.moves,
            created_at=self.created_at,
            first_byte_s=self.first_byte_s,
            first_chunk_s=self.first_chunk_s,
            queued_blocks=len(self.blocks) - self._delivery.taken_blocks,
            blocks=self.blocks[first_block:],
        )

    def stop(self, reason: str) -> None:
        """End after the block in progress; what is computed by then still reaches a reader."""
        if self.holds_pair and not self._is_stopping():
            self.reason = reason
            self._source.stop()
            self._announce()

    async def stop_and_wait(self, reason: str) -> None:
        """Stop, and return when the pair is free; without a reader nothing is kept."""
        self.stop(reason)
        await self._wait_until(lambda: not self.holds_pair)
        # Who has everything may still be sending it on.
        if not self._delivery.has_reader and not self._delivery.is_whole:
            self._delivery.give_up()

    async def run(self) -> None:
        """Compute the stream to its end, however it ends; raises nothing of ours."""
        tail = b""
        try:
            tail = await self._stream()
            last_state: StreamState = "stopped" if self._is_stopping() else "done"
        except OmniForcingError as error:
            last_state, self.reason = "failed", str(error)
            LOG.warning("stream %s failed: %s", self.order.stream_id, error)
        except Exception as error:
            kind = type(getattr(error, "cause", None) or error).__name__
            last_state, self.reason = "failed", f"unexpected {kind}; the server's log has more"
            LOG.exception("stream %s failed", self.order.stream_id)
        finally:
            await self._source.close()
        self.state = last_state
        self._delivery.end(tail)
        await self._wait_for_delivery()

    async def media(self, reader: int) -> AsyncGenerator[bytes, None]:
        """The MP4 as it grows, for the reader that `claim_reader` gave the number.

        If it leaves, the pair is given back; it may come back within `serve.resume_s`.

        ServerError after the last byte if the stream failed: no reader takes it for whole.
        """
        try:
            while True:
                await self._wait_until(lambda: self._delivery.has_chunk(reader))
                chunk = self._delivery.next_chunk(reader)
                if chunk is None:
                    break
                yield chunk.data
                self._mark_sent(reader, chunk)
            if self.state == "failed" or self._delivery.gave_up:
                raise ServerError(f"expected a whole stream, got a part: {self.reason}")
        finally:
            self._unread_since = time.perf_counter()
            self._delivery.leave(reader)

    def free_in_s(self, unfetched_s: float) -> float:
        """Seconds until the place of this stream is free, at its pace so far.

        A reader may show it in real time; a stream that nobody fetches is given `unfetched_s`.
        """
        pace_s = sum(record.block_s for record in self.blocks) / max(1, len(self.blocks))
        if not self._delivery.has_reader:
            unread_s = time.perf_counter() - self._unread_since
            return max(0.0, unfetched_s - unread_s) + pace_s
        missing = self.order.seconds + 1 - len(self.blocks)
        return max(missing * pace_s, self.order.seconds - self._playing_s())

    def give_up_unfetched(self, unfetched_s: float) -> None:
        """End the stream, of which nothing is kept, if nobody fetched it for `unfetched_s`."""
        unread_s = time.perf_counter() - self._unread_since
        delivery = self._delivery
        if not delivery.has_reader and unread_s >= unfetched_s and not delivery.gave_up:
            self.stop(f"{NOT_FETCHED} ({unfetched_s:g} s)")
            delivery.give_up()

    async def abandoned(self) -> None:
        """Return when what is left is kept for no reader any more, also for one that stalls."""
        await self._wait_until(lambda: self._delivery.gave_up)

    def claim_reader(self, block: int | None = None) -> int:
        """Become the reader, or go on from `block`; see `Delivery.claim`."""
        return self._delivery.claim(block)

    async def events(self) -> AsyncIterator[BlockEvent | EndEvent]:
        """Blocks so far, then every block as it is encoded, then the end."""
        sent = 0
        while await self._has_block(sent):
            yield BlockEvent(block=self.blocks[sent])
            sent += 1
        yield EndEvent(state=self.state, reason=self.reason)

    async def _stream(self) -> bytes:
        """Compute and deliver the blocks; returns what follows the last one."""
        text = await self._replicas.encode(self.order.prompt)
        opening = Opening(text, self.order.seed, self.order.seconds)
        blocks = await self._source.open(opening, self._runs_dry())
        self.state = "streaming"
        encoding: asyncio.Task[None] | None = None
        try:
            for index in range(blocks):
                if not await self._has_room(index):
                    break
                began = time.perf_counter()
                try:
                    block = await self._source.next_block(self._runs_dry())
                except PairLostError:
                    if self._is_stopping():
                        break  # what there is ends like something complete
                    raise
                computed = time.perf_counter()
                if encoding is not None:
                    await encoding
                # A block that was computed ahead was not waited for as long as it took.
                took_s = max(computed - began, block.timings.generate_s + block.timings.decode_s)
                encoding = asyncio.create_task(self._deliver(block, took_s, computed))
        finally:
            if encoding is not None:
                await encoding
        if not self._is_stopping():
            return b""  # the last block brought all
        return self._muxer.write_packets(await self._source.finish())

    async def _has_room(self, index: int) -> bool:
        """Wait until block `index` may be computed; False if the stream is to end.

        What lies between here and the reader takes bytes even while the reader takes none. So a
        stream also keeps to its clock, once it is `max_lead_s` ahead of it. While there is no
        reader any more, the pair is another's.
        """
        limits, delivery = self._limits, self._delivery
        while not self._is_stopping():
            if delivery.is_left:
                await self._source.pause()
                await self._in_time(limits.resume_s, lambda: not delivery.is_left, READER_GONE)
                continue
            lead = self._muxer.video_seconds - self._playing_s()
            if lead > limits.max_lead_s:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(lead - limits.max_lead_s):
                        await self._wait_until(lambda: self._is_stopping() or delivery.is_left)
            elif index - delivery.taken_blocks < limits.max_queued_blocks:
                return True
            else:
                await self._in_time(
                    limits.session_timeout_s,
                    lambda: (
                        delivery.is_left or index - delivery.taken_blocks < limits.max_queued_blocks
                    ),
                    f"{NO_READER} ({limits.session_timeout_s:g} s)",
                )
        return False

    async def _in_time(self, patience_s: float, condition: Callable[[], bool], else_: str) -> None:
        """Wait for `condition`, or the stream's end; if it does not come, that is the end."""
        try:
            async with asyncio.timeout(patience_s):
                await self._wait_until(lambda: condition() or self._is_stopping())
        except TimeoutError:
            self.stop(else_)
            self._delivery.give_up()

    def _runs_dry(self) -> float:
        """When a player has shown all that it has been sent, by `time.perf_counter`."""
        if self.first_byte_s is None:
            return self.order.accepted  # the first picture is waited for
        return self.order.accepted + self.first_byte_s + self._muxer.video_seconds

    def _playing_s(self) -> float:
        """Seconds that a player could have shown by now."""
        if self.first_byte_s is None:
            return 0.0
        return time.perf_counter() - self.order.accepted - self.first_byte_s

    async def _deliver(self, block: MediaBlock, block_s: float, computed: float) -> None:
        assert block.encoded is not None, "replicas encode"
        fragment = await asyncio.to_thread(self._muxer.write_packets, block.encoded)
        encoded = time.perf_counter()
        if self.first_chunk_s is None and self._muxer.video_seconds >= FIRST_CHUNK_S:
            self.first_chunk_s = round(encoded - self.order.accepted, 6)
            self._metrics.count_first_chunk(self.first_chunk_s)
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
        self._metrics.count_block(record.block_s)
        self._delivery.add(fragment)

    async def _has_block(self, index: int) -> bool:
        """Wait for a block; False if the stream ended before it."""
        await self._wait_until(lambda: index < len(self.blocks) or not self.holds_pair)
        return index < len(self.blocks)

    def _mark_sent(self, reader: int, chunk: Chunk) -> None:
        now = time.perf_counter()
        if self.first_byte_s is None:
            self.first_byte_s = round(now - self.order.accepted, 6)
        if chunk.block is not None:
            record = self.blocks[chunk.block]
            self.blocks[chunk.block] = replace(record, sent_at=self._unix(now))
        self._delivery.mark_taken(reader, chunk)

    async def _wait_for_delivery(self) -> None:
        """Keep what is computed for a while for a reader that is late, slow, or comes back."""
        delivery = self._delivery
        while not delivery.is_whole and not delivery.gave_up:
            before = (delivery.taken_chunks, delivery.is_left)

            def has_changed(before: tuple[int, bool] = before) -> bool:
                now = (delivery.taken_chunks, delivery.is_left)
                return delivery.is_whole or delivery.gave_up or now != before

            limits = self._limits
            patience_s = limits.resume_s if delivery.is_left else limits.session_timeout_s
            try:
                async with asyncio.timeout(patience_s):
                    await self._wait_until(has_changed)
            except TimeoutError:
                delivery.give_up()

    def _is_stopping(self) -> bool:
        return self.reason is not None

    def _announce(self) -> None:
        """Something changed: everyone who waits in `_wait_until` looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it may depend on whatever is announced."""
        while not condition():
            await self._changed.wait()

    def _unix(self, moment: float) -> float:
        return round(self.created_at + moment - self.order.accepted, 6)
