"""One stream, from its order to its last byte, in every way that it can go."""

import asyncio
import io
import time

import av
import pytest

from actors.streaming.media_muxer import MediaMuxer
from actors.streaming.stream_worker import StreamWorker
from infra.errors import ClusterError, MediaError, RefusedError, ServerError
from omniforcing_model.errors import DivergenceError, ExchangeError
from serve.sessions.metrics import Metrics
from serve.sessions.session import NO_READER, READER_GONE, Session, StreamOrder
from tests.worlds.in_process_replicas import InProcessReplicas
from tests.worlds.streaming import write_streaming_world

LONG_S = 60.0
SHORT_S = 0.2
LOST = "expected {} to succeed, got {}; the pair is formed anew, ask again with the same seed"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder, config = write_streaming_world(tmp_path_factory.mktemp("world"))
    return StreamWorker(folder, config, encodes=True), config


class Stream:
    """A session in progress, its reader, and the pair that it holds."""

    def __init__(self, session, replicas, metrics):
        self.session = session
        self.replicas = replicas
        self.metrics = metrics
        self.running = asyncio.create_task(session.run())

    async def read(self):
        reader = self.session.claim_reader()
        return b"".join([chunk async for chunk in self.session.media(reader)])

    async def read_a_part(self):
        with pytest.raises(ServerError, match="expected a whole stream, got a part"):
            await self.read()

    async def until(self, condition):
        async with asyncio.timeout(LONG_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def end(self):
        async with asyncio.timeout(LONG_S):
            await self.running


@pytest.fixture
def streaming(world):
    """Runs `scenario(stream)` on a session with other limits; returns what it returns."""
    worker, config = world

    def run(scenario, seconds=2, prepare=lambda replicas: None, **limits):
        limits = {"session_timeout_s": LONG_S, "max_lead_s": LONG_S} | limits

        async def whole():
            replicas, metrics = InProcessReplicas(worker, config), Metrics(lambda: 0)
            prepare(replicas)
            pair = await replicas.lease()
            size = (config.data.height, config.data.width)
            muxer = MediaMuxer(*size, worker.sample_rate, "model")

            serve = config.serve.model_copy(update=limits)
            order = StreamOrder(
                "s", "rain on a roof", seconds, 7, "model", "kernels", time.perf_counter()
            )
            history = worker.facts.history
            session = Session(order, serve, replicas, pair, history, muxer, metrics)
            stream = Stream(session, replicas, metrics)
            result = await scenario(stream)
            await stream.end()
            return result

        try:
            return asyncio.run(whole())
        finally:
            worker.close("s")

    return run


def frames_in(data):
    with av.open(io.BytesIO(data)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_stream_that_is_read_is_done_and_its_record_is_complete(streaming):
    async def scenario(stream):
        assert stream.session.state == "starting"
        data = await stream.read()
        await stream.end()
        return stream, data

    stream, data = streaming(scenario)
    assert frames_in(data) == 49
    status = stream.session.status()
    assert (status.state, status.reason, status.queued_blocks) == ("done", None, 0)
    assert (status.seconds, status.seed, status.pair, status.epoch) == (2, 7, "here", 1)
    assert [block.index for block in status.blocks] == [0, 1, 2]
    assert [round(block.video_s * 24) for block in status.blocks] == [1, 25, 49]
    assert 0 < status.first_byte_s < status.first_chunk_s
    # The second block completes the first second.
    ready = status.blocks[1].encoded_at - status.created_at
    assert status.first_chunk_s == pytest.approx(ready, abs=0.001)
    for block in status.blocks:
        assert status.created_at < block.computed_at < block.encoded_at < block.sent_at
        assert 0 < block.generate_s < block.block_s
        assert block.fragment_bytes > 0
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 0)
    assert stream.replicas.handle.worker.open_streams == []
    assert stream.replicas.handle.calls == ["open", *["next_block"] * 3, "close"]


def test_a_status_can_leave_out_the_blocks_that_are_known(streaming):
    async def scenario(stream):
        await stream.read()
        return stream.session

    session = streaming(scenario)
    assert [block.index for block in session.status(2).blocks] == [2]
    assert session.status(3).blocks == []


def test_prometheus_sees_the_blocks_of_a_stream_that_is_still_open(streaming):
    async def scenario(stream):
        await stream.until(lambda: len(stream.session.blocks) == 2)
        assert stream.session.state == "streaming"
        text = stream.metrics.text(1).decode()
        assert "omniforcing_blocks_total 2.0\n" in text
        assert "omniforcing_first_chunk_seconds_count 1.0\n" in text
        await stream.session.stop_and_wait("enough")

    streaming(scenario, seconds=9, max_queued_blocks=2)


def test_blocks_wait_for_the_reader_and_go_on_when_it_takes_one(streaming):
    async def scenario(stream):
        session, calls = stream.session, stream.replicas.handle.calls
        await stream.until(lambda: len(session.blocks) == 2)
        await asyncio.sleep(SHORT_S)
        assert calls.count("next_block") == 2
        assert session.status().queued_blocks == 2
        media = session.media(session.claim_reader())
        for _ in range(3):  # the header, block 0, and by asking for block 1 block 0 is taken
            await anext(media)
        await stream.until(lambda: len(session.blocks) == 3)
        await asyncio.sleep(SHORT_S)
        assert calls.count("next_block") == 3
        await media.aclose()

    streaming(scenario, seconds=9, max_queued_blocks=2)


def test_a_stream_does_not_run_further_ahead_of_its_clock_than_its_lead(streaming):
    async def scenario(stream):
        await stream.read()
        return stream.session.status()

    status = streaming(scenario, seconds=3, max_lead_s=0.25)
    # Before block 3 at least blocks 0 and 1 are encoded: 25 frames.
    played = status.blocks[3].computed_at - status.created_at - status.first_byte_s
    assert played > 25 / 24 - 0.25


def test_a_stream_that_is_late_by_its_clock_is_not_held_back(streaming):
    async def scenario(stream):
        stream.session.first_byte_s = -1000.0  # a player has had that long to show what there is
        async with asyncio.timeout(LONG_S / 3):
            return frames_in(await stream.read())

    assert streaming(scenario, max_lead_s=0.25) == 49


def test_a_stream_that_nobody_reads_is_ended(streaming):
    async def scenario(stream):
        await stream.end()
        return stream

    stream = streaming(scenario, seconds=9, max_queued_blocks=1, session_timeout_s=SHORT_S)
    status = stream.session.status()
    assert (status.state, status.reason) == ("stopped", f"{NO_READER} (0.2 s)")
    assert len(status.blocks) == 1
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 0)


def test_a_stream_that_nobody_reads_is_over_for_a_late_reader(streaming):
    async def scenario(stream):
        session = stream.session
        await stream.until(lambda: session.reason is not None)
        with pytest.raises(RefusedError, match="got one that is over"):
            session.claim_reader()
        async with asyncio.timeout(LONG_S / 2):
            await stream.running

    streaming(scenario, seconds=9, max_queued_blocks=1, session_timeout_s=SHORT_S)


def test_a_reader_that_stalls_ends_its_stream_and_does_not_get_the_rest(streaming):
    async def scenario(stream):
        session = stream.session
        media = session.media(session.claim_reader())
        await anext(media)  # and it never asks again
        await session.abandoned()
        await stream.end()
        with pytest.raises(ServerError, match="got a part"):
            await anext(media)
        return session

    session = streaming(scenario, seconds=9, max_queued_blocks=1, session_timeout_s=SHORT_S)
    assert (session.state, session.reason) == ("stopped", f"{NO_READER} (0.2 s)")


def test_the_end_of_a_stream_waits_for_a_slow_reader(streaming):
    async def scenario(stream):
        session, chunks = stream.session, []
        await stream.until(lambda: session.state == "done")
        async for chunk in session.media(session.claim_reader()):
            chunks.append(chunk)
            await asyncio.sleep(0.3)
        return b"".join(chunks)

    # Five chunks of 0.3 s take longer than the timeout, each of them does not.
    assert frames_in(streaming(scenario, session_timeout_s=1.0)) == 49


def test_what_is_computed_is_kept_for_a_late_reader_and_then_dropped(streaming):
    async def late(stream):
        await stream.until(lambda: stream.session.state == "done")
        assert stream.replicas.leases == 0
        return frames_in(await stream.read())

    async def too_late(stream):
        await stream.end()
        with pytest.raises(RefusedError, match="got one that is over") as refusal:
            stream.session.claim_reader()
        return refusal.value.status

    assert streaming(late, seconds=1, max_queued_blocks=4) == 25
    assert streaming(too_late, seconds=1, max_queued_blocks=4, session_timeout_s=SHORT_S) == 410


def test_a_stopped_stream_ends_after_its_block_with_a_whole_file_and_the_first_reason(streaming):
    async def scenario(stream):
        session, gate = stream.session, stream.replicas.handle.gate
        reading = asyncio.create_task(stream.read())
        await stream.until(lambda: len(session.blocks) >= 2)
        gate.clear()
        session.stop("stopped by request")
        session.stop("another reason")
        assert session.holds_pair
        gate.set()
        data = await reading
        session.stop("too late to matter")
        return session.status(), data

    status, data = streaming(scenario, seconds=60)
    assert (status.state, status.reason) == ("stopped", "stopped by request")
    assert 2 <= len(status.blocks) < 61
    assert frames_in(data) == 24 * (len(status.blocks) - 1) + 1


def test_stopping_ends_the_wait_for_a_reader_and_for_the_clock(streaming):
    async def scenario(stream):
        await stream.until(lambda: len(stream.session.blocks) >= 1)
        await stream.session.stop_and_wait("enough")
        assert not stream.session.holds_pair
        assert stream.replicas.leases == 0
        await asyncio.wait_for(stream.running, LONG_S / 2)

    streaming(scenario, seconds=60, max_queued_blocks=1, session_timeout_s=600)
    streaming(scenario, seconds=600, max_queued_blocks=600, max_lead_s=0.01, session_timeout_s=600)


def test_a_reader_that_leaves_and_does_not_come_back_ends_the_stream(streaming):
    async def scenario(stream):
        session = stream.session
        media = session.media(session.claim_reader())
        await anext(media)
        await media.aclose()
        await stream.until(lambda: stream.replicas.leases == 0)  # while it may come back
        assert session.state == "streaming"
        await stream.end()
        return stream

    stream = streaming(scenario, seconds=60, resume_s=SHORT_S)
    assert (stream.session.state, stream.session.reason) == ("stopped", READER_GONE)
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 0)
    assert stream.replicas.handle.worker.open_streams == []


@pytest.mark.parametrize("breaks_at", [1, 3])
def test_a_client_goes_on_at_a_block_where_its_connection_broke(streaming, breaks_at):
    async def scenario(stream):
        session = stream.session
        media, parts = session.media(session.claim_reader()), []
        for _ in range(breaks_at + 2):  # the header and some blocks, of which the last is lost
            parts.append(await anext(media))
        await media.aclose()
        await stream.until(lambda: stream.replicas.leases == 0)
        reader = session.claim_reader(breaks_at)
        rest = [chunk async for chunk in session.media(reader)]
        await stream.end()
        return stream, b"".join([*parts[:-1], *rest])

    async def straight(stream):
        return await stream.read()

    limits = {"seconds": 5, "max_queued_blocks": 2}
    stream, data = streaming(scenario, **limits)
    assert data == streaming(straight, **limits)
    status = stream.session.status()
    assert (status.state, status.moves, len(status.blocks)) == ("done", 0, 6)
    assert stream.replicas.handle.calls.count("open") == 2
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 0)


def test_a_client_takes_the_place_of_its_connection_that_is_not_known_to_be_broken(streaming):
    async def scenario(stream):
        session = stream.session
        broken = session.media(session.claim_reader())
        header = await anext(broken)
        await anext(broken)  # block 0, and nothing more comes through
        rest = [chunk async for chunk in session.media(session.claim_reader(0))]
        assert rest[0] == header  # from block 0 on it is the whole file
        with pytest.raises(ServerError, match="another reader"):
            await anext(broken)
        return b"".join(rest)

    assert frames_in(streaming(scenario)) == 49


def test_what_is_not_kept_any_more_and_what_is_not_there_is_refused(streaming, monkeypatch):
    monkeypatch.setattr("serve.sessions.delivery.KEPT_BLOCKS", 2)

    async def scenario(stream):
        session = stream.session
        media = session.media(session.claim_reader())
        for _ in range(7):  # the header, and that six blocks were taken is not known yet
            await anext(media)
        await stream.until(lambda: len(session.blocks) == 7)
        with pytest.raises(RefusedError, match="not kept any more") as refusal:
            session.claim_reader(1)
        assert refusal.value.status == 410
        with pytest.raises(RefusedError, match=r"of the 7 blocks that there are.*got block 8"):
            session.claim_reader(8)
        rest = [chunk async for chunk in session.media(session.claim_reader(3))]
        await media.aclose()
        return rest

    assert len(streaming(scenario, seconds=6, max_queued_blocks=9)) == 4


def test_a_stream_that_is_done_waits_for_its_reader_to_come_back(streaming):
    async def scenario(stream):
        session = stream.session
        await stream.until(lambda: session.state == "done")
        media = session.media(session.claim_reader())
        await anext(media)
        await media.aclose()
        rest = [chunk async for chunk in session.media(session.claim_reader(0))]
        await stream.end()
        return b"".join(rest)

    assert frames_in(streaming(scenario, max_queued_blocks=9)) == 49


def test_a_stream_has_one_reader(streaming):
    async def scenario(stream):
        data = await stream.read()
        with pytest.raises(RefusedError, match="expected one reader per stream") as refusal:
            stream.session.claim_reader()
        assert refusal.value.status == 409
        return data

    assert frames_in(streaming(scenario)) == 49


@pytest.mark.parametrize(
    ("method", "failure", "reason"),
    [
        ("next_block", DivergenceError("not finite"), "not finite"),
        ("next_block", MediaError("no pictures"), "no pictures"),
        ("open", ValueError("odd"), "unexpected ValueError; the server's log has more"),
    ],
)
def test_a_failure_of_its_own_ends_the_stream_with_its_reason_and_gives_the_pair_back(
    streaming, method, failure, reason
):
    async def scenario(stream):
        await stream.read_a_part()
        await stream.end()
        return stream

    stream = streaming(
        scenario, prepare=lambda replicas: replicas.handle.failures.update({method: failure})
    )
    assert (stream.session.state, stream.session.reason) == ("failed", reason)
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 0)
    assert "close" in stream.replicas.handle.calls


LOSSES = [ClusterError("r1"), ExchangeError("r1"), ValueError("odd")]


@pytest.mark.parametrize("block", [0, 1, 3])
@pytest.mark.parametrize("failure", LOSSES, ids=lambda failure: type(failure).__name__)
def test_a_stream_that_loses_its_pair_goes_on_with_the_same_bytes(streaming, failure, block):
    async def scenario(stream):
        data = await stream.read()
        await stream.end()
        return stream, data

    stream, data = streaming(
        scenario,
        seconds=4,
        prepare=lambda replicas: replicas.handle.failures.update(
            next_block=[*[None] * block, failure]
        ),
    )
    status = stream.session.status()
    assert (status.state, status.reason, status.moves, status.epoch) == ("done", None, 1, 2)
    assert [record.index for record in status.blocks] == [0, 1, 2, 3, 4]
    assert data == streaming(scenario, seconds=4)[1]
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 1)
    assert stream.replicas.handle.worker.open_streams == []
    assert b"omniforcing_stream_moves_total 1.0" in stream.metrics.text(1)


@pytest.mark.parametrize(
    ("method", "losses", "moves"),
    [("open", [LOSSES[0]], 1), ("replay", [LOSSES[1]], 2), ("next_block", LOSSES, 3)],
)
def test_a_pair_may_be_lost_while_a_stream_moves_there(streaming, method, losses, moves):
    async def scenario(stream):
        data = await stream.read()
        await stream.end()
        return stream, data

    def prepare(replicas):
        replicas.handle.failures[method] = list(losses)
        if method == "replay":
            replicas.handle.failures["next_block"] = [None, None, LOSSES[0]]

    stream, data = streaming(scenario, prepare=prepare)
    assert (stream.session.state, stream.session.status().moves) == ("done", moves)
    assert data == streaming(scenario)[1]


@pytest.mark.parametrize("method", ["open", "next_block"])
def test_a_stream_that_loses_pair_after_pair_ends(streaming, method):
    async def scenario(stream):
        await stream.read_a_part()
        await stream.end()
        return stream

    stream = streaming(
        scenario,
        prepare=lambda replicas: replicas.handle.failures.update({method: LOSSES[1]}),
    )
    reason = LOST.format(method, "a broken exchange")
    assert (stream.session.state, stream.session.reason) == ("failed", reason)
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 4)


def test_a_stream_without_another_pair_waits_for_one_as_long_as_for_a_reader(streaming):
    async def scenario(stream):
        stream.replicas.ready = False
        await stream.read_a_part()
        await stream.end()
        return stream

    stream = streaming(
        scenario,
        session_timeout_s=SHORT_S,
        prepare=lambda replicas: replicas.handle.failures.update(next_block=LOSSES[1]),
    )
    assert stream.session.state == "failed"
    assert "expected another pair of replicas to go on, got none within 0.2 s" in (
        stream.session.reason
    )
    assert stream.replicas.leases == 0


def test_a_stream_is_stopped_while_it_waits_for_another_pair(streaming):
    async def scenario(stream):
        stream.replicas.ready = False
        reading = asyncio.create_task(stream.read())
        await stream.until(lambda: stream.replicas.failed)
        await stream.session.stop_and_wait("enough")
        await stream.end()
        await reading
        return stream

    stream = streaming(
        scenario,
        prepare=lambda replicas: replicas.handle.failures.update(next_block=[None, LOSSES[1]]),
    )
    assert (stream.session.state, stream.session.reason) == ("stopped", "enough")
    assert len(stream.session.blocks) == 1


def test_a_prompt_that_cannot_be_encoded_fails_its_stream_and_not_the_pair(streaming):
    async def fail(_):
        raise TypeError("TextEncodeInput must be Union[...]")  # as fast tokenizers do

    async def scenario(stream):
        await stream.read_a_part()
        await stream.end()
        return stream

    stream = streaming(scenario, prepare=lambda replicas: setattr(replicas, "encode", fail))
    assert (stream.session.state, stream.session.reason) == (
        "failed",
        "unexpected TypeError; the server's log has more",
    )
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 0)


@pytest.mark.parametrize("failure", [KeyError("s"), OSError("gone"), RuntimeError("odd")])
def test_a_stream_that_cannot_be_closed_gives_its_pair_back_as_failed(streaming, failure):
    async def scenario(stream):
        await stream.read()
        await stream.end()
        return stream

    stream = streaming(
        scenario, prepare=lambda replicas: replicas.handle.failures.update(close=failure)
    )
    assert (stream.session.state, stream.session.reason) == ("done", None)
    assert (stream.replicas.leases, stream.replicas.failed) == (0, 1)


def test_a_lease_that_cannot_be_given_back_does_not_keep_the_reader(streaming):
    async def fail(pair, failed):
        raise RuntimeError("no registry")

    async def scenario(stream):
        return frames_in(await stream.read())

    prepare = lambda replicas: setattr(replicas, "give_back", fail)  # noqa: E731
    assert streaming(scenario, prepare=prepare) == 49


def test_listeners_get_every_block_as_it_comes_and_then_the_end(streaming):
    async def scenario(stream):
        events = stream.session.events()
        first = await anext(events)
        assert stream.session.holds_pair
        reading = asyncio.create_task(stream.read())
        rest = [event async for event in events]
        late = [event async for event in stream.session.events()]
        await reading
        return [first, *rest], late

    events, late = streaming(scenario, max_queued_blocks=1)
    assert [event.type for event in events] == ["block", "block", "block", "end"]
    assert [event.block.index for event in events[:-1]] == [0, 1, 2]
    assert (events[-1].state, events[-1].reason) == ("done", None)
    assert [event.type for event in late] == [event.type for event in events]
