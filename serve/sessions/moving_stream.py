"""A stream on a leased pair, that goes on with another one where its pair is lost.

What is committed is kept here, as much of it as a replay needs; the rest of the session, its clock,
encoders and reader, does not notice but for the time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from actors.streaming.block_encoders import EncodedBlock
from actors.streaming.media_block import MediaBlock
from actors.streaming.stream_history import HistoryRule, StreamHistory
from infra.errors import PairLostError
from serve.sessions.leased_pair import LeasedPair, Opening, Replicas

T = TypeVar("T")

LOG = logging.getLogger(__name__)
# In a row, with no block between: then it may be the stream.
MOST_LOSSES = 4
LEASE_POLL_S = 0.1


class MovingStream:
    """Blocks of one stream, whichever pair computes them; the pair is given back at its end."""

    def __init__(
        self,
        stream_id: str,
        replicas: Replicas,
        pair: LeasedPair,
        rule: HistoryRule,
        patience_s: float,
        moved: Callable[[], None],
    ) -> None:
        """Nothing is computed yet.

        Args:
            stream_id: its name on the pairs.
            replicas: lend another pair.
            pair: leased for it.
            rule: what is kept of the stream.
            patience_s: how long another pair is waited for.
            moved: is called for each pair that it goes on with.
        """
        self.lease = pair.lease
        self.moves = 0
        self._id = stream_id
        self._replicas = replicas
        self._pair: LeasedPair | None = pair
        self._history = StreamHistory(rule)
        self._patience_s = patience_s
        self._moved = moved
        self._opening: Opening | None = None
        self._is_open = False  # on the pair that it has
        self._is_paused = False
        self._is_stopped = False

    def stop(self) -> None:
        """Wait for no other pair."""
        self._is_stopped = True

    async def open(self, opening: Opening, deadline: float) -> int:
        """Begin; returns the number of blocks. Raises what `next_block` does."""
        self._opening = opening
        return await self._with_a_pair(lambda pair: self._open_on(pair, deadline))

    async def next_block(self, deadline: float) -> MediaBlock:
        """The next block, which is wanted at `deadline`, as of `LeasedPair.next_block`.

        Raises:
            PairLostError: pair after pair is lost with no block between, or there is none.
            OmniForcingError: this stream alone failed.
        """

        async def compute(pair: LeasedPair) -> MediaBlock:
            if not self._is_open:
                await self._open_on(pair, deadline)
            return await pair.next_block(self._id, deadline)

        block = await self._with_a_pair(compute)
        self._history.keep(block.index, block.latents)
        return block

    async def pause(self) -> None:
        """Give the pair back; the next block takes another one, or the same."""
        await self.close()
        self._is_paused = True

    async def finish(self) -> EncodedBlock:
        """What is left of a stream that ends before its last block; nothing if its pair is lost."""
        with contextlib.suppress(PairLostError):
            if self._pair is not None and self._is_open:
                return await self._pair.finish(self._id)
        return EncodedBlock()

    async def close(self) -> None:
        """Close the stream and end the lease; raises nothing."""
        if self._pair is None:
            return
        failed = False
        try:
            await self._pair.close(self._id)
        except Exception:
            LOG.exception("stream %s could not be closed, its pair ends", self._id)
            failed = True
        await self._give_back(failed)

    async def _with_a_pair(self, work: Callable[[LeasedPair], Awaitable[T]]) -> T:
        """What `work` gives with the pair, or with another one where that is lost."""
        losses: list[PairLostError] = []
        while len(losses) < MOST_LOSSES:
            try:
                if self._pair is None:
                    self._pair = await self._another_pair()
                    self.lease = self._pair.lease
                    if not self._is_paused:
                        self.moves += 1
                        self._moved()
                    self._is_paused = False
                return await work(self._pair)
            except PairLostError as error:
                LOG.warning("stream %s lost its pair: %s", self._id, error)
                losses.append(error)
                if self._pair is None:
                    break  # there is no other
                await self._give_back(failed=True)
        raise losses[-1]

    async def _open_on(self, pair: LeasedPair, deadline: float) -> int:
        """Open the stream there, and let its last blocks be replayed."""
        assert self._opening is not None, "open comes first"
        blocks = await pair.open(self._id, self._opening, self._history, deadline)
        self._is_open = True
        return blocks

    async def _another_pair(self) -> LeasedPair:
        """The first that is ready; PairLostError if none is for long, or the stream is stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                while not self._is_stopped:
                    pair = await self._replicas.lease()
                    if pair is not None:
                        return pair
                    await asyncio.sleep(LEASE_POLL_S)
        raise PairLostError(
            f"expected another pair of replicas to go on, got none within {self._patience_s:g} s;"
            " ask again with the same seed"
        )

    async def _give_back(self, failed: bool) -> None:
        pair, self._pair, self._is_open = self._pair, None, False
        if pair is None:
            return
        try:
            await self._replicas.give_back(pair, failed)
        except Exception:
            # The registry finds out by itself.
            LOG.exception("stream %s could not give its pair back", self._id)
