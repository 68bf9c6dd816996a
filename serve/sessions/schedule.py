"""What a pair computes next: the work of the stream whose player would run dry first.

Both halves of a pair must do the same stream's work at a time, so one piece is done at a time. Of
those that wait, the one with the earliest playout deadline is next; the wait of a stream that is
far ahead of its player is bounded all the same. A stream computes ahead of its reader only while
nobody waits for the pair.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# A piece of work is due so long after it was asked for, however late its player wants it.
MOST_WAIT_S = 2.0
AT_ONCE = float("-inf")


@dataclass(order=True)
class _Waiting:
    due: float
    number: int  # of those that are due at once, first come first served
    turn: "asyncio.Future[None]" = field(compare=False)


class Schedule:
    """The work on one pair, as long as it lasts.

    `lost` is set when its epoch is over: nobody waits for it any more.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: seconds, by which deadlines are given."""
        self.lost = asyncio.Event()
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._asked = 0
        self._is_busy = False

    @property
    def is_wanted(self) -> bool:
        """Whether some work waits for another piece to be done."""
        return bool(self._waiting)

    @asynccontextmanager
    async def turn(self, deadline: float = AT_ONCE) -> AsyncIterator[None]:
        """Wait for the pair, and keep it to oneself.

        deadline: when a player runs dry without this work.
        """
        await self._wait(deadline)
        try:
            yield
        finally:
            self._next()

    async def _wait(self, deadline: float) -> None:
        if not self._is_busy:
            self._is_busy = True
            return
        self._asked += 1
        due = min(deadline, self._clock() + MOST_WAIT_S)
        turn = asyncio.get_running_loop().create_future()
        waiting = _Waiting(due, self._asked, turn)
        self._waiting.append(waiting)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._next()  # it was given to one that is not there any more
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def _next(self) -> None:
        while self._waiting:
            first = min(self._waiting)
            self._waiting.remove(first)
            # One that went away in this moment has not taken itself off the list yet.
            if not first.turn.done():
                first.turn.set_result(None)
                return
        self._is_busy = False
