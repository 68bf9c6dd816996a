from typing import ClassVar

import pytest
import torch

from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.passes import denoise
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.streaming.seats import Seats
from tests.worlds.small_models import random_small_model, small_model_config

GRID, SIGMAS = (1, 1), (1.0, 0.4)
MODEL = random_small_model(small_model_config(window_blocks=1)).seal()


class Kept:
    """Runs passes as they are, and knows all of its kind."""

    made: ClassVar = []

    def __init__(self):
        self.kinds = []
        self.made.append(self)

    def __call__(self, kind, inputs):
        self.kinds.append(kind.name)
        return denoise(kind, inputs)


@pytest.fixture
def seats(monkeypatch):
    monkeypatch.setattr(Kept, "made", [])
    return Seats(MODEL, GRID, SIGMAS, Kept)


def prompt(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 4, MODEL.config.text_width, generator=generator)
    return MODEL.read_text(PerStream(features, features))


def blocks(stream):
    return [stream.next_block() for _ in range(4)]


def equal(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(
        torch.allclose(a, b, atol=1e-5) for pair in pairs for a, b in zip(*pair, strict=True)
    )


@torch.no_grad()
def test_a_stream_in_a_seat_that_another_left_is_what_it_is_alone(seats):
    for seed in (1, 2):
        stream = seats.open(prompt(seed), seeded_noise(seed))
        alone = Rollout(MODEL, prompt(seed), GRID, SIGMAS, seeded_noise(seed))
        assert equal(blocks(stream), blocks(alone))
        seats.leave(stream)
    (one,) = Kept.made
    assert len(set(one.kinds)) == len(["block 0", "a window that fills", "a full one"])


def test_streams_at_the_same_time_have_seats_of_their_own(seats):
    first, second = (seats.open(prompt(seed), seeded_noise(seed)) for seed in (1, 2))
    alone = Rollout(MODEL, prompt(2), GRID, SIGMAS, seeded_noise(2))
    with torch.no_grad():
        first.next_block()
        assert equal(blocks(second), blocks(alone))
    assert len(Kept.made) == 2


def test_on_a_cpu_every_stream_has_a_rollout_of_its_own():
    seats = Seats(MODEL, GRID, SIGMAS)
    stream = seats.open(prompt(1), seeded_noise(1))
    assert isinstance(stream, Rollout)
    seats.leave(stream)
