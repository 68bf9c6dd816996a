"""A session sees one block of two halves, or one reason why there is none."""

import asyncio

import numpy as np
import pytest
from ray.exceptions import RayError

from actors.streaming.media_block import BlockTimings, MediaBlock, WorkerFacts
from actors.streaming.stream_history import HistoryRule, StreamHistory
from infra.errors import ClusterError, MediaError, PairLostError
from omniforcing_model.errors import (
    DivergenceError,
    ExchangeError,
    ShapeError,
    StreamStateError,
)
from omniforcing_model.per_stream import PerStream
from serve.pairs.pair_registry import Lease
from serve.sessions.leased_pair import LeasedPair, Opening
from serve.sessions.schedule import Schedule
from tests.worlds.layouts import layout_of

LEASE = Lease("lease", "v-a", 3, {"video": "v", "audio": "a"})
RULE = HistoryRule(layout_of(sinks=2, window_blocks=2), 3)
NEW = StreamHistory(RULE)
OPENING = Opening(PerStream(np.zeros((4, 8)), np.ones((4, 8))), seed=7, seconds=2)


class Method:
    def __init__(self, answer, calls):
        self._answer = answer
        self._calls = calls

    async def remote(self, **arguments):
        self._calls.append(arguments)
        await asyncio.sleep(0)
        if isinstance(self._answer, float):
            await asyncio.sleep(self._answer)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Half:
    """A deployment handle that answers as it is set up."""

    def __init__(self, block, opened=3, facts=None):
        self.calls = []
        self.next_block = Method(block, self.calls)
        self.open = Method(opened, self.calls)
        self.replay = Method(None, self.calls)
        self.close = Method(None, self.calls)
        self.facts = Method(facts, self.calls)


def video_block(index=0):
    frames = np.zeros((24, 2, 2, 3), np.uint8)
    return MediaBlock(
        index, PerStream(np.zeros((3, 1, 2, 2)), None), frames, None, BlockTimings(0.2, 0.1)
    )


def audio_block(index=0):
    sound = np.zeros((2, 16), np.float32)
    return MediaBlock(
        index, PerStream(None, np.zeros((25, 4))), None, sound, BlockTimings(0.1, 0.3)
    )


def pair_of(video, audio, timeout_s=5.0):
    return LeasedPair(LEASE, {"video": video, "audio": audio}, Schedule(), timeout_s)


def test_a_block_is_the_picture_of_one_half_and_the_sound_of_the_other():
    block = asyncio.run(pair_of(Half(video_block()), Half(audio_block())).next_block("s"))
    assert block.frames.shape == (24, 2, 2, 3)
    assert block.waveform.shape == (2, 16)
    assert all(latents is not None for latents in block.latents)
    assert block.timings == BlockTimings(0.2, 0.3)


@pytest.mark.parametrize(("of_audio", "named"), [("plain", "plain"), ("native", "plain; native")])
def test_kernels_of_the_halves_are_named_once_where_they_are_the_same(of_audio, named):
    video = Half(video_block(), facts=WorkerFacts(None, "plain", RULE))
    audio = Half(audio_block(), facts=WorkerFacts(16_000, of_audio, RULE._replace(recent=4)))
    assert asyncio.run(pair_of(video, audio).facts()) == (16_000, named, RULE._replace(recent=4))


def test_each_half_is_called_by_name_and_epoch_and_gets_its_own_text():
    video, audio = Half(video_block()), Half(audio_block())
    assert asyncio.run(pair_of(video, audio).open("s", OPENING, NEW)) == 3
    (call,) = video.calls
    assert (call["replica"], call["epoch"], call["seed"]) == ("v", 3, 7)
    assert call["text"].video is OPENING.text.video
    assert call["text"].audio is None
    assert audio.calls[0]["text"].audio is OPENING.text.audio


def test_a_stream_is_replayed_a_few_blocks_at_a_time_each_half_its_own():
    video, audio = Half(video_block()), Half(audio_block())
    history = StreamHistory(RULE._replace(recent=9))
    for index in range(8):
        history.keep(index, PerStream(np.full((3, 1, 2, 2), index), np.full((25, 4), index)))
    asyncio.run(pair_of(video, audio).open("s", OPENING, history))
    opened, *replayed = video.calls
    assert (opened["next_block"], "past" in opened) == (8, False)
    assert [list(call["past"]) for call in replayed] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert replayed[1]["past"][5].video[0, 0, 0, 0] == 5
    assert replayed[1]["past"][5].audio is None
    assert [call["past"][4].audio[0, 0] for call in audio.calls if 4 in call.get("past", ())] == [4]


def test_halves_out_of_step_are_an_error_and_not_a_block():
    pair = pair_of(Half(video_block(4)), Half(audio_block(5)))
    with pytest.raises(PairLostError, match=r"blocks \[4, 5\]"):
        asyncio.run(pair.next_block("s"))


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (ExchangeError("rank 1, [192.0.2.7]:4321: closed"), "a broken exchange"),
        (ClusterError("expected replica r7 in epoch 3"), "a broken exchange"),
        (RayError("actor 0123 on 192.0.2.7"), "a lost replica"),
        (ValueError("odd, at 192.0.2.7"), "an unexpected ValueError"),
    ],
)
def test_a_lost_half_is_one_line_without_names_and_places(failure, problem):
    pair = pair_of(Half(failure), Half(audio_block()))
    with pytest.raises(PairLostError) as error:
        asyncio.run(pair.next_block("s"))
    assert str(error.value) == (
        f"expected next_block to succeed, got {problem}; the pair is formed anew, ask again with"
        " the same seed"
    )


def test_a_pair_that_is_lost_is_waited_for_no_longer():
    async def scenario():
        turn = Schedule()
        pair = LeasedPair(LEASE, {"video": Half(video_block()), "audio": Half(60.0)}, turn, 60.0)
        asyncio.get_running_loop().call_later(0.05, turn.lost.set)
        async with asyncio.timeout(10):
            with pytest.raises(PairLostError, match="got a lost partner; the pair is formed anew"):
                await pair.next_block("s")
        async with asyncio.timeout(1), turn.turn():
            pass  # it is nobody's

    asyncio.run(scenario())


def test_a_half_that_does_not_answer_is_given_up():
    pair = pair_of(Half(video_block()), Half(10.0), timeout_s=0.1)
    with pytest.raises(PairLostError, match=r"got nothing within 0\.1 s"):
        asyncio.run(pair.next_block("s"))


@pytest.mark.parametrize(
    "failure", [DivergenceError("not finite"), MediaError("no pictures"), StreamStateError("over")]
)
def test_what_fails_for_one_stream_does_not_cost_the_pair(failure):
    pair = pair_of(Half(failure), Half(audio_block()))
    with pytest.raises(type(failure)) as error:
        asyncio.run(pair.next_block("s"))
    assert error.value is failure


@pytest.mark.parametrize("failure", [ShapeError("odd features"), ValueError("odd seed")])
def test_an_order_that_cannot_be_opened_does_not_cost_the_pair(failure):
    video = Half(video_block(), opened=failure)
    with pytest.raises(type(failure)) as error:
        asyncio.run(pair_of(video, Half(audio_block())).open("s", OPENING, NEW))
    assert error.value is failure


def test_what_ends_the_pair_is_said_rather_than_what_ends_a_stream():
    pair = pair_of(Half(DivergenceError("not finite")), Half(ExchangeError("gone")))
    with pytest.raises(PairLostError, match="a broken exchange"):
        asyncio.run(pair.next_block("s"))


def test_closing_a_lost_pair_is_no_error_and_reaches_the_other_half():
    lost, other = Half(video_block()), Half(audio_block())
    lost.close = Method(ExchangeError("gone"), lost.calls)
    asyncio.run(pair_of(lost, other).close("s"))
    assert [call["stream_id"] for call in (*lost.calls, *other.calls)] == ["s", "s"]
