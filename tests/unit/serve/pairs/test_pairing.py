"""Two replica processes find each other, talk over loopback only, and find a new partner."""

import ipaddress
import multiprocessing
import threading
import time
from multiprocessing.managers import BaseManager

import psutil
import pytest
import torch
import torch.distributed as dist

from infra.presets import load_preset
from omniforcing_model.errors import ExchangeError
from omniforcing_model.transformer.exchange import failure_reason
from serve.pairs.pair_registry import Assignment, PairRegistry
from serve.pairs.pairing import PairingLoop, Rendezvous, is_loopback
from tests.worlds.waiting import wait_until

TIMEOUT_S = 60.0
START_S = 60
AUTHKEY = b"test"


class RegistryServer(BaseManager):
    """Carries the registry's calls between processes, as Serve's handles do."""


def replica(half, name, address, commands, answers):
    """A stream replica without a model: joins, and exchanges a number on command."""
    RegistryServer.register("registry")
    server = RegistryServer(address, AUTHKEY)
    server.connect()
    registry = server.registry()
    rendezvous = Rendezvous("127.0.0.1", listens=half == "video", timeout_s=TIMEOUT_S)

    def beat(epoch):
        return registry.beat(half, name, rendezvous.address, epoch)

    def join(place):
        return rendezvous.join(place, lambda: True) is not None

    pairing = PairingLoop(beat, join, name, load_preset("tiny").serve)
    while commands.get() == "exchange":
        epoch = pairing.epoch
        number = torch.tensor([float(epoch % 1000) if half == "video" else 0.0])
        try:
            if half == "video":
                dist.send(number, 1)
                dist.recv(number, 1)
            else:
                dist.recv(number, 0)
                dist.send(number, 0)
            answers.put((name, epoch, number.item()))
        except RuntimeError as error:
            pairing.forget(epoch)
            rendezvous.leave()
            registry.dissolve(epoch)
            answers.put((name, epoch, failure_reason(error)))
    assert pairing.problem is None
    pairing.stop()
    rendezvous.leave()


class Replica:
    def __init__(self, half, name, address):
        context = multiprocessing.get_context("spawn")
        self.commands, self.answers = context.Queue(), context.Queue()
        arguments = (half, name, address, self.commands, self.answers)
        self.process = context.Process(target=replica, args=arguments)
        self.process.start()

    def exchange(self):
        self.commands.put("exchange")

    def answer(self):
        return self.answers.get(timeout=60)


def listens_on(process):
    sockets = psutil.Process(process.pid).net_connections(kind="inet")
    return {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_replicas_pair_over_loopback_and_a_survivor_pairs_with_the_replacement():
    registry = PairRegistry(TIMEOUT_S)
    RegistryServer.register("registry", callable=lambda: registry)
    server = RegistryServer(("127.0.0.1", 0), AUTHKEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    video, audio = Replica("video", "v1", server.address), Replica("audio", "a1", server.address)
    replacement = None
    try:
        wait_until(lambda: [pair.ready for pair in registry.states()] == [True], START_S)
        video.exchange()
        audio.exchange()
        first = registry.states()[0].epoch
        assert video.answer() == ("v1", first, float(first % 1000))
        assert audio.answer() == ("a1", first, float(first % 1000))
        addresses = listens_on(video.process) | listens_on(audio.process)
        assert all(ipaddress.ip_address(address).is_loopback for address in addresses)

        audio.process.kill()
        audio.process.join()
        video.exchange()
        name, epoch, reason = video.answer()
        assert (name, epoch) == ("v1", first)
        assert "closed" in reason.lower()
        replacement = Replica("audio", "a2", server.address)
        wait_until(lambda: [pair.ready for pair in registry.states()] == [True], START_S)
        (second,) = registry.states()
        assert second.epoch > first
        assert second.members == {"video": "v1", "audio": "a2"}
        video.exchange()
        replacement.exchange()
        assert video.answer()[2] == replacement.answer()[2] == float(second.epoch % 1000)
    finally:
        for each in filter(None, (video, audio, replacement)):
            each.process.kill()
            each.process.join()


def test_a_partner_that_does_not_come_is_named():
    rendezvous = Rendezvous("127.0.0.1", listens=True, timeout_s=0.5)
    with pytest.raises(ExchangeError, match="expected a partner for epoch 5"):
        rendezvous.join(Assignment("v-a", 5, 0, rendezvous.address), lambda: True)


def test_a_partner_that_died_on_its_way_is_waited_for_no_longer_than_its_place_holds():
    rendezvous = Rendezvous("127.0.0.1", listens=True, timeout_s=TIMEOUT_S)
    began = time.monotonic()
    assert rendezvous.join(Assignment("v-a", 5, 0, rendezvous.address), lambda: False) is None
    assert time.monotonic() - began < TIMEOUT_S / 4


def test_an_epoch_that_was_given_up_is_not_joined_again():
    """The registry names it until it hears so, and its other half may be dead."""
    places = [Assignment("v-a", 5, 0, None)]
    joined, beats = [], []

    def join(place):
        joined.append(place.epoch)
        return True

    def beat(epoch):
        beats.append(epoch)
        return places[-1]

    pairing = PairingLoop(
        beat, join, "v", load_preset("tiny", ["serve.pairing_interval_s=0.02"]).serve
    )
    wait_until(lambda: pairing.epoch == 5, 30)
    pairing.forget(5)
    seen = len(beats)
    wait_until(lambda: len(beats) > seen + 3, 30)
    places.append(Assignment("v-b", 6, 0, None))
    wait_until(lambda: pairing.epoch == 6, 30)
    pairing.stop()
    assert joined == [5, 6]


def test_a_place_that_was_another_s_by_then_is_no_failure():
    numbers = iter(range(5, 30))

    def beat(epoch):
        return Assignment("v-a", next(numbers, 99), 0, None)

    serve = load_preset("tiny", ["serve.pairing_interval_s=0.02", "serve.failed_joins=3"]).serve
    pairing = PairingLoop(beat, lambda place: place.epoch == 99, "v", serve)
    wait_until(lambda: pairing.epoch == 99, 30)
    pairing.stop()
    assert pairing._failures == 0


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("gpu-7", False)],
)
def test_loopback_is_recognised(host, expected):
    assert is_loopback(host) is expected


def test_a_loop_that_never_manages_to_join_says_so():
    problems, go_on = [], threading.Event()

    def join(_):
        problems.append(pairing.problem)
        if len(problems) == 8:
            return go_on.wait(30)
        raise ExchangeError("nobody")

    place = Assignment("v-a", 5, 0, None)
    serve = load_preset("tiny", ["serve.pairing_interval_s=0.05", "serve.failed_joins=6"]).serve
    pairing = PairingLoop(lambda _: place, join, "v", serve)
    wait_until(lambda: len(problems) == 8, 30)
    pairing.stop()
    go_on.set()
    assert problems == [None] * 7 + ["joining a pair failed 7 times in a row"]
