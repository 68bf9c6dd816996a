"""Replicas that compute: calls reach the named one, and only in the epoch of their lease."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from ray.serve.request_router import PendingRequest

from actors.latents.codec_loading import load_text_encoder
from actors.streaming.stream_history import HistoryRule
from actors.streaming.stream_worker import StreamWorker
from infra.errors import ClusterError
from omniforcing_model.errors import DivergenceError, ExchangeError, StreamStateError
from serve.pairs.pair_registry import PairRegistry
from serve.replicas.stream_replica import ReplicaRouter, StreamReplica, TextEncoderService
from tests.worlds.in_process_replicas import RegistryHandle
from tests.worlds.streaming import write_streaming_world
from tests.worlds.waiting import wait_until

MODULE = "serve.replicas.stream_replica"
TIMEOUT_S = 60.0
PROMPT = "rain on a roof"
HERE = "r1"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_streaming_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def registry():
    return PairRegistry(TIMEOUT_S)


@pytest.fixture(scope="module")
def replica(world, registry):
    """One that holds both streams; it reports to `registry`."""
    folder, config = world
    with pytest.MonkeyPatch.context() as patch:
        context = SimpleNamespace(replica_tag=HERE)
        patch.setattr(
            "serve.replicas.stream_replica.ray_serve.get_replica_context", lambda: context
        )
        replica = StreamReplica("both", folder, config, RegistryHandle(registry))
    yield replica
    replica.__del__()


@pytest.fixture
def place(registry, replica):
    """Where to find the replica, once it has joined a pair."""
    return wait_for_place(registry, replica)


def wait_for_place(registry, replica, after=0):
    """A pair that both know: a replica that has just left one may still be in the registry's."""

    def ready():
        joined = replica._pairing.epoch
        states = [state for state in registry.states() if state.ready and state.epoch > after]
        return [state for state in states if state.epoch == joined]

    wait_until(ready)
    return {"replica": HERE, "epoch": ready()[0].epoch}


def opened(replica, place, config, name, seconds=1):
    opening = {"text": features(config), "seed": 7, "seconds": seconds, "next_block": 0}
    return asyncio.run(replica.open(**place, stream_id=name, **opening))


def features(config):
    return load_text_encoder(config).encode([PROMPT]).map(lambda features: features[0].numpy())


def next_block(replica, place, name, ahead=True):
    return asyncio.run(replica.next_block(**place, stream_id=name, ahead=ahead))


def test_a_prompt_becomes_features_per_stream(world):
    _, config = world
    expected = load_text_encoder(config).encode([PROMPT])
    text = asyncio.run(TextEncoderService(config).encode(PROMPT))
    assert np.array_equal(text.video, expected.video[0].numpy())
    assert np.array_equal(text.audio, expected.audio[0].numpy())


def test_a_call_goes_to_the_replica_that_it_names_and_to_no_other():
    router = ReplicaRouter.__new__(ReplicaRouter)

    async def ranked(replica):
        call = PendingRequest(args=[], kwargs={"replica": replica}, metadata=None)
        ranks = await router.choose_replicas(candidates, call)
        assert call.routing_context.should_backoff
        return ranks

    candidates = [
        SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in ("a", "b")
    ]
    assert asyncio.run(ranked("b")) == [[candidates[1]]]
    assert asyncio.run(ranked("c")) == [[]]
    assert asyncio.run(router.choose_replicas(candidates)) == [candidates]


def test_a_replica_streams_in_the_epoch_of_its_pair(replica, place, world):
    _, config = world
    assert asyncio.run(replica.facts(**place)) == (
        16_000,
        "attention products, linear packed, regions plain",
        HistoryRule(config.model.layout, 2 * config.model.layers * 2),  # a window of two blocks
    )
    assert opened(replica, place, config, "s") == 2
    assert [next_block(replica, place, "s").index for _ in range(2)] == [0, 1]
    asyncio.run(replica.close(**place, stream_id="s"))
    with pytest.raises(StreamStateError, match="expected an open stream"):
        next_block(replica, place, "s")
    asyncio.run(replica.check_health())


def test_a_replica_computes_the_next_block_while_the_last_is_on_its_way(replica, place, world):
    _, config = world
    opened(replica, place, config, "s", seconds=2)
    rollout = replica._worker._streams["s"].latents
    for index in range(3):
        assert next_block(replica, place, "s").index == index
        wait_until(lambda index=index: rollout.block_index == min(index + 2, 3))
    asyncio.run(replica.close(**place, stream_id="s"))


def test_it_does_not_while_others_wait_for_the_pair(replica, place, world):
    _, config = world
    opened(replica, place, config, "s", seconds=2)
    rollout = replica._worker._streams["s"].latents
    for index in range(3):
        assert next_block(replica, place, "s", ahead=False).index == index
        replica._model_thread.submit(lambda: None).result()
        assert rollout.block_index == index + 1
    asyncio.run(replica.close(**place, stream_id="s"))


def test_a_replica_takes_a_stream_that_was_computed_elsewhere(replica, place, world):
    _, config = world
    opened(replica, place, config, "straight", seconds=3)
    straight = [next_block(replica, place, "straight") for _ in range(4)]
    asyncio.run(replica.close(**place, stream_id="straight"))
    text = features(config)
    opening = {"stream_id": "s", "text": text, "seed": 7, "seconds": 3, "next_block": 2}
    asyncio.run(replica.open(**place, **opening))
    past = {block.index: block.latents for block in straight[:2]}
    asyncio.run(replica.replay(**place, stream_id="s", past=past))
    resumed = [next_block(replica, place, "s") for _ in range(2)]
    for own, other in zip(resumed, straight[2:], strict=True):
        assert own.index == other.index
        assert own.encoded == other.encoded
        assert len(own.encoded.video) == 24
    asyncio.run(replica.close(**place, stream_id="s"))
    with pytest.raises(ClusterError, match="the pair was formed anew"):
        asyncio.run(replica.replay(replica="r", epoch=1, stream_id="s", past={}))


def test_a_partner_that_is_lost_ahead_ends_the_pair_before_the_next_block_is_asked_for(
    replica, place, world, registry, monkeypatch
):
    def fail(worker, stream_id):
        raise ExchangeError("gone")

    _, config = world
    opened(replica, place, config, "s")
    monkeypatch.setattr(StreamWorker, "run_ahead", fail)
    assert next_block(replica, place, "s").index == 0
    anew = wait_for_place(registry, replica, place["epoch"])
    with pytest.raises(StreamStateError, match="expected an open stream"):
        next_block(replica, anew, "s")


@pytest.mark.parametrize("change", [{"epoch": 5}, {"replica": "r2"}])
def test_a_call_for_another_epoch_or_replica_finds_nothing_and_changes_nothing(
    replica, place, world, change
):
    _, config = world
    elsewhere = place | change
    message = (
        f"expected replica r1 in epoch {place['epoch']}, got a call for {elsewhere['replica']} in"
        f" epoch {elsewhere['epoch']}; the pair was formed anew, open another stream"
    )
    opened(replica, place, config, "s")
    for call in (
        lambda: asyncio.run(replica.facts(**elsewhere)),
        lambda: opened(replica, elsewhere, config, "t"),
        lambda: next_block(replica, elsewhere, "s"),
    ):
        with pytest.raises(ClusterError) as error:
            call()
        assert str(error.value) == message
    asyncio.run(replica.close(**elsewhere, stream_id="s"))
    assert next_block(replica, place, "s").index == 0
    asyncio.run(replica.close(**place, stream_id="s"))


def test_a_pair_formed_anew_has_none_of_the_old_streams(replica, place, world, registry):
    _, config = world
    opened(replica, place, config, "s")
    registry.dissolve(place["epoch"])
    anew = wait_for_place(registry, replica, place["epoch"])
    with pytest.raises(StreamStateError, match="expected an open stream"):
        next_block(replica, anew, "s")


@pytest.mark.parametrize(
    "failure",
    [DivergenceError("not finite"), StreamStateError("not open"), ClusterError("another epoch")],
)
def test_a_failure_outside_of_the_exchange_keeps_the_pair(
    replica, place, registry, monkeypatch, failure
):
    fail_with(monkeypatch, failure)
    with pytest.raises(type(failure)):
        next_block(replica, place, "s")
    assert [state.epoch for state in registry.states()] == [place["epoch"]]


def test_a_failed_exchange_ends_the_pair_and_another_one_forms(
    replica, place, registry, monkeypatch
):
    fail_with(monkeypatch, ExchangeError("the partner does not answer"))
    with pytest.raises(ExchangeError, match="the partner does not answer"):
        next_block(replica, place, "s")
    with pytest.raises(ClusterError, match="expected replica r1 in epoch"):
        next_block(replica, place, "s")
    assert wait_for_place(registry, replica, place["epoch"])["epoch"] > place["epoch"]


def fail_with(monkeypatch, failure):
    def fail(worker, stream_id):
        raise failure

    monkeypatch.setattr(StreamWorker, "begin_block", fail)


def test_a_replica_that_is_stopped_cannot_be_paired(world):
    folder, config = world
    with pytest.MonkeyPatch.context() as patch:
        context = SimpleNamespace(replica_tag="r2")
        patch.setattr(
            "serve.replicas.stream_replica.ray_serve.get_replica_context", lambda: context
        )
        alone = StreamReplica("video", folder, config, RegistryHandle(PairRegistry(TIMEOUT_S)))
    asyncio.run(alone.check_health())
    alone.__del__()

    def is_ill():
        try:
            asyncio.run(alone.check_health())
        except ClusterError as error:
            return "got: the pairing thread has ended; restarting" in str(error)
        return False

    wait_until(is_ill)
