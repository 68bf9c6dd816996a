"""The pair works for whom would run dry first, one at a time, and lets nobody wait for ever."""

import asyncio
from contextlib import suppress

import pytest

from serve.sessions.schedule import AT_ONCE, MOST_WAIT_S, Schedule


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


class Pair:
    """A schedule, and who had the pair in which order; each keeps it until `finish`."""

    def __init__(self):
        self.clock = Clock()
        self.schedule = Schedule(self.clock)
        self.had = []
        self.at_once = 0
        self._done = {}

    async def want(self, name, deadline=AT_ONCE):
        """Ask for a turn; returns the task."""
        self._done[name] = asyncio.Event()
        task = asyncio.create_task(self._work(name, deadline))
        await settle()
        return task

    async def finish(self):
        self._done[self.had[-1]].set()
        await settle()

    async def _work(self, name, deadline):
        async with self.schedule.turn(deadline):
            self.at_once += 1
            assert self.at_once == 1
            self.had.append(name)
            await self._done[name].wait()
            self.at_once -= 1


def order_of(wants, before=lambda pair, name: None):
    """Who is served in which order behind one that is being served."""

    async def scenario():
        pair = Pair()
        await pair.want("busy", 0.0)
        for name, deadline in wants:
            before(pair, name)
            await pair.want(name, deadline)
        for _ in range(len(wants) + 1):
            await pair.finish()
        assert not pair.schedule.is_wanted
        return pair.had[1:]

    return asyncio.run(scenario())


def test_the_earliest_deadline_is_next():
    assert order_of([("late", 101.5), ("early", 100.5), ("first picture", 99.0)]) == [
        "first picture",
        "early",
        "late",
    ]
    assert order_of([("due", 100.5), ("end", AT_ONCE)]) == ["end", "due"]


def test_of_the_same_deadline_who_asked_first_is_next():
    wants = [(str(k), 100.5) for k in range(5)]
    assert order_of(wants) == ["0", "1", "2", "3", "4"]


def test_a_stream_far_ahead_of_its_player_does_not_wait_for_ever():
    def later(pair, name):
        pair.clock.now += 0.0 if name == "far ahead" else MOST_WAIT_S

    wants = [("far ahead", 500.0), ("dry", 102.5), ("dry again", 104.5)]
    assert order_of(wants, later) == ["far ahead", "dry", "dry again"]


def test_a_pair_that_nobody_has_is_given_at_once():
    async def scenario():
        pair = Pair()
        for name in ("one", "two"):
            await pair.want(name, 1000.0)
            assert pair.had[-1] == name
            await pair.finish()

    asyncio.run(scenario())


def test_others_are_known_to_wait():
    async def scenario():
        pair = Pair()
        await pair.want("one")
        assert not pair.schedule.is_wanted
        await pair.want("two")
        assert pair.schedule.is_wanted
        await pair.finish()
        assert not pair.schedule.is_wanted
        await pair.finish()

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", ["while it waits", "with its turn", "right before its turn"])
def test_one_that_went_away_keeps_the_pair_from_nobody(moment):
    async def scenario():
        pair = Pair()
        await pair.want("one")
        gone = await pair.want("gone", 100.1)
        await pair.want("three", 100.2)
        if moment != "while it waits":
            pair._done["one"].set()
        if moment == "with its turn":
            await asyncio.sleep(0)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        await settle()
        if moment == "while it waits":
            await pair.finish()
        assert pair.had == ["one", "three"]
        await pair.finish()
        await pair.want("four")
        assert pair.had[-1] == "four"
        await pair.finish()

    asyncio.run(scenario())


def test_a_failure_gives_the_pair_on():
    async def scenario():
        schedule = Schedule()
        with suppress(ValueError):
            async with schedule.turn():
                raise ValueError
        async with asyncio.timeout(5), schedule.turn():
            return True

    assert asyncio.run(scenario())
