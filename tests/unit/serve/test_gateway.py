"""The gateway over its handles: leases, turns, the sign of life, and a stream through all of it."""

import asyncio
import contextlib
import gc
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from actors.streaming.stream_history import StreamHistory
from actors.streaming.stream_worker import StreamWorker
from serve.gateway import Gateway, ServeReplicas
from serve.pairs.pair_registry import PairRegistry
from serve.replicas.stream_replica import TextEncoderService
from serve.sessions import leased_pair
from serve.sessions.leased_pair import Opening
from tests.worlds.in_process_replicas import RegistryHandle, WorkerHandle
from tests.worlds.streaming import write_streaming_world
from tests.worlds.waiting import wait_until

TIMEOUT_S = 60.0
SLACK_S = 5.0  # for a machine that does other things too
PROMPT = "rain on a roof"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder, config = write_streaming_world(tmp_path_factory.mktemp("world"))
    return StreamWorker(folder, config, encodes=True), config


class Deployments:
    """A registry, a replica that holds both streams, and a text encoder, behind handles."""

    def __init__(self, worker, config):
        self.now = 0.0
        self.registry = PairRegistry(TIMEOUT_S, lambda: self.now)
        self.worker = WorkerHandle(worker)
        encoder = TextEncoderService(config)
        self.text_encoder = SimpleNamespace(encode=SimpleNamespace(remote=encoder.encode))
        self.handles = (self.text_encoder, RegistryHandle(self.registry), {"both": self.worker})
        self.replicas = ServeReplicas(*self.handles, TIMEOUT_S)

    def pair_up(self):
        place = self.registry.beat("both", "here", None, None)
        self.registry.beat("both", "here", None, place.epoch)
        return place.epoch

    async def open(self, name):
        pair = await self.replicas.lease()
        text, new = await self.replicas.encode(PROMPT), StreamHistory((await pair.facts()).history)
        await pair.open(name, Opening(text, 7, 2), new)
        return pair


@pytest.fixture
def deployments(world):
    worker, config = world
    yield Deployments(worker, config)
    for name in worker.open_streams:
        worker.close(name)


@contextlib.contextmanager
def client_of(gateway):
    try:
        url = f"http://127.0.0.1:{gateway.port}"
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            yield client
    finally:
        gateway.__del__()


def test_a_prompt_becomes_features_of_both_streams(deployments, world):
    text = asyncio.run(deployments.replicas.encode(PROMPT))
    _, config = world
    shape = (config.codec.text_tokens, config.model.text_width)
    assert text.video.shape == text.audio.shape == shape
    assert text.video.dtype == np.float32


def test_a_lease_is_of_a_pair_that_is_ready(deployments):
    assert asyncio.run(deployments.replicas.lease()) is None
    epoch = deployments.pair_up()
    pair = asyncio.run(deployments.replicas.lease())
    assert (pair.lease.epoch, pair.lease.members) == (epoch, {"both": "here"})
    (state,) = asyncio.run(deployments.replicas.pairs())
    assert (state.ready, state.leases) == (True, 1)


def test_a_lease_given_back_leaves_the_pair_and_a_failed_one_ends_it(deployments):
    async def scenario():
        good, failed = await deployments.replicas.lease(), await deployments.replicas.lease()
        await deployments.replicas.give_back(good, False)
        (state,) = await deployments.replicas.pairs()
        assert (state.epoch, state.leases) == (epoch, 1)
        await deployments.replicas.give_back(failed, True)
        return await deployments.replicas.pairs()

    epoch = deployments.pair_up()
    assert asyncio.run(scenario()) == []
    assert deployments.pair_up() > epoch


def test_sessions_on_one_pair_take_turns(deployments):
    async def scenario():
        pairs = {name: await deployments.open(name) for name in ("one", "two")}
        deployments.worker.gate.clear()
        blocks = [asyncio.create_task(pair.next_block(name)) for name, pair in pairs.items()]
        await asyncio.sleep(0.1)
        assert deployments.worker.calls.count("next_block") == 1
        deployments.worker.gate.set()
        return [(await block).index for block in blocks]

    deployments.pair_up()
    assert asyncio.run(scenario()) == [0, 0]


def test_the_turn_of_a_pair_is_forgotten_with_its_last_session(deployments):
    async def scenario():
        for _ in range(3):
            deployments.pair_up()
            pair = await deployments.replicas.lease()
            deployments.registry.dissolve(pair.lease.epoch)  # as a replica does
        assert len(deployments.replicas._schedules) == 1
        del pair
        gc.collect()
        return len(deployments.replicas._schedules)

    assert asyncio.run(scenario()) == 0


def test_a_gateway_that_says_it_is_alive_keeps_its_leases(deployments):
    async def scenario():
        await deployments.replicas.lease()
        deployments.now = TIMEOUT_S * 0.75
        alive = asyncio.create_task(deployments.replicas.keep_alive())
        await asyncio.sleep(0.05)
        alive.cancel()
        deployments.registry.beat("both", "here", None, None)
        deployments.now = TIMEOUT_S * 1.5
        with contextlib.suppress(asyncio.CancelledError):
            await alive
        return await deployments.replicas.pairs()

    epoch = deployments.pair_up()
    (state,) = asyncio.run(scenario())
    assert (state.epoch, state.leases) == (epoch, 1)


def test_every_stream_of_a_lost_pair_knows_within_two_seconds(deployments, world):
    """Also one that waits for its turn, or for a replica that is dead and answers nothing."""
    _, config = world
    limits = {"max_sessions": 3, "port": 0, "session_timeout_s": 0.5}  # for another pair
    serve = config.serve.model_copy(update=limits)
    epoch = deployments.pair_up()
    deployments.worker.gate.clear()
    config = config.model_copy(update={"serve": serve})
    with client_of(Gateway(config, "m", *deployments.handles)) as client:
        order = {"prompt": PROMPT, "seconds": 9}
        urls = [client.post("/v1/streams", json=order).json()["urls"]["status"] for _ in range(2)]
        wait_until(lambda: deployments.worker.calls.count("next_block") == 1)
        deployments.registry.dissolve(epoch)  # as the half that is left does

        def states():
            return [client.get(url).json()["state"] for url in urls]

        wait_until(lambda: states() == ["failed", "failed"], 2 + SLACK_S)
        deployments.worker.gate.set()


def test_a_request_does_not_wait_for_a_dead_replica(deployments, world, monkeypatch):
    _, config = world
    monkeypatch.setattr(leased_pair, "SHORT_CALL_S", 0.5)
    config = config.model_copy(update={"serve": config.serve.model_copy(update={"port": 0})})
    deployments.pair_up()
    deployments.worker.facts = SimpleNamespace(remote=lambda **_: asyncio.sleep(TIMEOUT_S))
    with client_of(Gateway(config, "m", *deployments.handles)) as client:
        reply = client.post("/v1/streams", json={"prompt": PROMPT}, timeout=0.5 + SLACK_S)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")
    assert deployments.registry.states() == []


@pytest.mark.thorough
def test_a_replica_may_take_as_long_as_two_exchanges(deployments, world):
    _, config = world
    limits = {"exchange_timeout_s": 1.5, "session_timeout_s": 0.5, "port": 0}
    serve = config.serve.model_copy(update=limits)
    config = config.model_copy(update={"serve": serve})
    deployments.pair_up()
    deployments.worker.gate.clear()
    with client_of(Gateway(config, "m", *deployments.handles)) as client:
        urls = client.post("/v1/streams", json={"prompt": PROMPT, "seconds": 1}).json()["urls"]
        began = time.monotonic()
        with pytest.raises(httpx.ReadError):
            client.get(urls["media"])
        lost_after_s = time.monotonic() - began - 0.5  # in which another pair was waited for
        reason = client.get(urls["status"]).json()["reason"]
        deployments.worker.gate.set()
    assert 2.5 < lost_after_s < 3 + SLACK_S
    assert reason.startswith("expected another pair of replicas to go on, got none within 0.5 s")


def test_a_stream_goes_through_the_gateway_for_who_has_a_key(deployments, world, tmp_path):
    _, config = world
    keys = tmp_path / "keys"
    keys.write_text("a key\n")
    serve = config.serve.model_copy(update={"api_key_file": str(keys), "port": 0})
    config = config.model_copy(update={"serve": serve})
    deployments.pair_up()
    with client_of(Gateway(config, "the model", *deployments.handles)) as client:
        assert client.post("/v1/streams", json={"prompt": PROMPT}).status_code == 401
        client.headers["Authorization"] = "Bearer a key"
        created = client.post("/v1/streams", json={"prompt": PROMPT, "seconds": 1})
        assert created.status_code == 201, created.text
        urls = created.json()["urls"]
        assert client.get(urls["media"]).content[4:8] == b"ftyp"
        status = client.get(urls["status"]).json()
    assert (status["state"], status["model"], len(status["blocks"])) == ("done", "the model", 2)
    assert deployments.registry.states()[0].leases == 0
