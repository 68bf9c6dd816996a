"""Which streams are accepted, with what they are refused, and what is remembered of them."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.streaming.stream_worker import StreamWorker
from infra.errors import MediaError, RefusedError, ServerError
from serve.sessions.admission import PAIR_RETRY_S, Admission
from serve.sessions.protocol import BlockRecord, StreamRequest
from tests.worlds.in_process_replicas import InProcessReplicas
from tests.worlds.streaming import write_streaming_world

PROMPT = "rain on a roof"
LONG_S = 60.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder, config = write_streaming_world(tmp_path_factory.mktemp("world"))
    return StreamWorker(folder, config, encodes=True), config


@pytest.fixture
def admitting(world):
    """Runs `scenario(admission)` with other limits, and ends the streams that it left open."""
    worker, config = world

    def run(scenario, **limits):
        changed = config.serve.model_copy(update={"session_timeout_s": LONG_S} | limits)

        async def whole():
            run_config = config.model_copy(update={"serve": changed})
            replicas = InProcessReplicas(worker, run_config)
            admission = Admission(run_config, "the model", replicas)
            result = await scenario(admission)
            replicas.handle.gate.set()
            async with asyncio.timeout(LONG_S):
                while admission.open_streams:
                    for session in list(admission._sessions.values()):
                        await session.stop_and_wait("the test is over")
                    await asyncio.sleep(0.005)
            assert replicas.leases == 0
            return result

        return asyncio.run(whole())

    return run


def request(prompt=PROMPT, seconds=None, seed=None):
    return StreamRequest(prompt=prompt, seconds=seconds, seed=seed)


def refusal(admission, **fields):
    """What a request is refused with."""

    async def refused():
        with pytest.raises(RefusedError) as error:
            await admission.accept(request(**fields))
        return error.value

    return refused()


def record(block_s):
    return BlockRecord(0, block_s, block_s, 0.0, 0.0, 0.0, 0.0, 1)


async def samples(admission):
    families = text_string_to_metric_families((await admission.metrics_text()).decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


async def until_over(admission):
    async with asyncio.timeout(LONG_S):
        while admission.open_streams:
            await asyncio.sleep(0.005)


async def read(session):
    reader = session.claim_reader()
    return b"".join([chunk async for chunk in session.media(reader)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "x" * 21},
            "prompt: expected at most 20 characters, got 21; shorten it",
        ),
        (
            {"seconds": 0},
            "seconds: expected 1 to 3, got 0; ask for a length in between",
        ),
        (
            {"seconds": 4},
            "seconds: expected 1 to 3, got 4; ask for a length in between",
        ),
    ],
)
def test_what_is_beyond_a_limit_is_refused_with_422_and_the_limit(admitting, fields, message):
    async def scenario(admission):
        error = await refusal(admission, **fields)
        return error, admission.replicas.leases, await samples(admission)

    error, leases, counts = admitting(scenario, max_prompt_chars=20, max_seconds=3)
    assert (str(error), error.status, error.retry_after_s) == (message, 422, None)
    assert leases == 0
    assert counts["omniforcing_streams_refused_total", "422"] == 1


@pytest.mark.parametrize("fields", [{"prompt": "x" * 20}, {"seconds": 1}, {"seconds": 3}])
def test_what_is_just_within_the_limits_is_accepted(admitting, fields):
    async def scenario(admission):
        return (await admission.accept(request(**fields))).order

    order = admitting(scenario, max_prompt_chars=20, max_seconds=3)
    assert (order.prompt, order.seconds) == (fields.get("prompt", PROMPT), fields.get("seconds", 3))
    assert order.model == "the model"
    assert order.kernels == "attention products, linear packed, regions plain"


def test_a_seed_is_kept_even_if_it_is_zero_and_drawn_where_there_is_none(admitting):
    async def scenario(admission):
        requested = [(await admission.accept(request(seed=seed))).order.seed for seed in (0, 5)]
        drawn = [(await admission.accept(request())).order.seed for _ in range(3)]
        return requested, drawn

    requested, drawn = admitting(scenario, max_sessions=5)
    assert requested == [0, 5]
    assert len(set(drawn)) == 3
    assert all(0 <= seed < 2**53 for seed in drawn), "a browser rounds larger ones"


def test_one_stream_too_many_is_refused_with_429_until_one_has_ended(admitting):
    async def scenario(admission):
        admission.replicas.handle.gate.clear()
        first = await admission.accept(request(seconds=9))
        await admission.accept(request(seconds=9))
        error = await refusal(admission, seconds=1)
        counts = await samples(admission)
        admission.replicas.handle.gate.set()
        await first.stop_and_wait("enough")
        async with asyncio.timeout(LONG_S):
            while admission.open_streams == 2:
                await asyncio.sleep(0.005)
        await admission.accept(request(seconds=1))
        return error, counts

    error, counts = admitting(scenario, max_sessions=2)
    assert str(error) == ("expected fewer than 2 open streams, got 2; try again when one has ended")
    assert error.status == 429
    assert 1 <= error.retry_after_s <= 5
    assert counts["omniforcing_open_streams",] == 2
    assert counts["omniforcing_streams_refused_total", "429"] == 1


def test_two_requests_at_the_same_moment_do_not_share_the_last_place(admitting):
    async def scenario(admission):
        both = [admission.accept(request(seconds=9)) for _ in range(2)]
        return await asyncio.gather(*both, return_exceptions=True)

    first, second = admitting(scenario, max_sessions=1)
    assert first.order.seconds == 9
    assert isinstance(second, RefusedError)
    assert second.status == 429


def test_the_time_to_retry_is_when_the_first_stream_is_over_at_its_pace_or_in_real_time(admitting):
    async def refused_beside(admission, *orders):
        admission.replicas.handle.gate.clear()
        for seconds, paces in orders:
            session = await admission.accept(request(seconds=seconds))
            session.claim_reader()
            session.blocks.extend(record(pace) for pace in paces)
        error = await refusal(admission)
        for session in admission._sessions.values():
            session.blocks.clear()
            session._delivery.give_up()
        return error.retry_after_s

    def beside(*orders):
        return admitting(lambda a: refused_beside(a, *orders), max_sessions=len(orders))

    # 9 seconds are 10 blocks: 8 are missing, 3.1 s each.
    assert beside((9, (2.0, 4.2))) == 25
    # 6 blocks are missing, at 2 s each; the other one is fast, and played in real time.
    assert beside((60, (0.1, 0.1)), (6, (2.0,))) == 12
    assert 59 <= beside((60, (0.1, 0.1))) <= 60


def test_a_stream_that_nobody_fetches_gives_its_place_up_when_others_wait(admitting, monkeypatch):
    monkeypatch.setattr("serve.sessions.admission.UNFETCHED_S", 0.3)

    async def scenario(admission):
        first = await admission.accept(request(seconds=9))
        waits = []
        async with asyncio.timeout(LONG_S / 6):
            while True:
                try:
                    second = await admission.accept(request(seconds=1))
                    break
                except RefusedError as error:
                    waits.append(error.retry_after_s)
                    await asyncio.sleep(0.05)
        return first, waits, await read(second)

    first, waits, media = admitting(scenario, max_sessions=1)
    assert (first.state, first.reason) == (
        "stopped",
        "nobody fetched it in time, and others waited (0.3 s)",
    )
    assert all(1 <= wait <= 3 for wait in waits)
    assert media


def test_a_stream_that_is_read_keeps_its_place_however_many_wait(admitting, monkeypatch):
    monkeypatch.setattr("serve.sessions.admission.UNFETCHED_S", 0.0)

    async def scenario(admission):
        session = await admission.accept(request(seconds=2))
        reading = asyncio.create_task(read(session))
        await asyncio.sleep(0)
        await refusal(admission)
        await reading
        return session.state

    assert admitting(scenario, max_sessions=1) == "done"


def test_without_a_ready_pair_the_refusal_is_503(admitting):
    async def scenario(admission):
        admission.replicas.ready = False
        error = await refusal(admission)
        return error, await samples(admission)

    error, counts = admitting(scenario)
    assert (error.status, error.retry_after_s) == (503, PAIR_RETRY_S)
    assert str(error).startswith("expected a ready pair of replicas, got none; they are starting")
    assert counts["omniforcing_streams_refused_total", "503"] == 1
    assert counts["omniforcing_pairs_ready",] == 0
    assert counts["omniforcing_open_streams",] == 0


def test_a_pair_that_fails_before_its_stream_begins_is_given_back_as_failed(admitting):
    async def scenario(admission):
        admission.replicas.handle.failures["facts"] = ServerError("gone")
        error = await refusal(admission)
        return error.status, admission.replicas.failed, await samples(admission)

    status, failed, counts = admitting(scenario)
    assert (status, failed) == (503, 1)
    assert counts["omniforcing_streams_refused_total", "503"] == 1


def test_an_encoder_that_does_not_open_costs_no_pair(admitting):
    async def scenario(admission):
        size = admission.config.data.model_copy(update={"height": 63})
        admission.config = admission.config.model_copy(update={"data": size})
        with pytest.raises(MediaError, match="even height"):
            await admission.accept(request())
        return admission.replicas.leases, admission.replicas.failed, admission.open_streams

    assert admitting(scenario) == (0, 0, 0)


def test_a_stream_is_found_while_it_is_open_and_remembered_afterwards(admitting):
    async def scenario(admission):
        admission.replicas.handle.gate.clear()
        session = await admission.accept(request(seconds=2))
        name = session.order.stream_id
        assert admission.find(name) is session
        assert admission.status(name).state in ("starting", "streaming")
        before = await samples(admission)
        admission.replicas.handle.gate.set()
        await read(session)
        await until_over(admission)
        assert admission.find(name) is None
        status, rest = admission.status(name), admission.status(name, first_block=2)
        assert admission.status("another") is None
        return before, status, rest, await samples(admission)

    before, status, rest, after = admitting(scenario)
    assert before["omniforcing_open_streams",] == 1
    assert before["omniforcing_streams_ended_total", "done"] == 0
    assert (status.state, len(status.blocks)) == ("done", 3)
    assert [block.index for block in rest.blocks] == [2]
    assert after["omniforcing_open_streams",] == 0
    assert after["omniforcing_streams_ended_total", "done"] == 1
    assert after["omniforcing_blocks_total",] == 3
    assert after["omniforcing_pairs_ready",] == 1


def test_only_the_last_streams_are_remembered(admitting):
    async def scenario(admission):
        names = []
        for _ in range(3):
            session = await admission.accept(request(seconds=1))
            names.append(session.order.stream_id)
            await read(session)
            await until_over(admission)
        return [admission.status(name) is not None for name in names]

    assert admitting(scenario, remembered_streams=2) == [False, True, True]
