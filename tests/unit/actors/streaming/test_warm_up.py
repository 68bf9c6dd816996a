"""On a GPU passes are captured: none is once a worker is warm, and no text is held twice."""

from typing import ClassVar

import numpy as np
import pytest

from actors.latents.codec_loading import load_text_encoder
from actors.streaming.prompt_texts import PromptTexts
from actors.streaming.stream_worker import StreamWorker
from omniforcing_model.errors import ShapeError
from omniforcing_model.streaming.passes import denoise
from omniforcing_model.streaming.seats import Seats
from tests.worlds.streaming import write_streaming_world

SECONDS = 5
SEATS = 2


class RecordedPasses:
    """One seat's passes, run as they come; a graph would be captured for each of its kinds."""

    seats: ClassVar = []

    def __init__(self):
        self.kinds = set()
        self.seats.append(self)

    def __call__(self, kind, inputs):
        self.kinds.add(kind.name)
        return denoise(kind, inputs)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_streaming_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def worker(world, monkeypatch):
    """One as on a GPU."""
    monkeypatch.setattr(RecordedPasses, "seats", [])
    worker = StreamWorker(*world)
    plain = worker._seats
    worker._seats = Seats(worker._model, plain._grid, plain._sigmas, RecordedPasses)
    worker._warm_streams = SEATS
    return worker


@pytest.fixture(scope="module")
def text(world):
    encoded = load_text_encoder(world[1]).encode(["rain on a roof"])
    return encoded.map(lambda value: value[0].numpy())


def test_a_worker_that_is_warm_captures_nothing_more_for_as_many_streams_as_it_was_told(
    worker, text
):
    worker.warm_up()
    warm = [set(seat.kinds) for seat in RecordedPasses.seats]
    assert [len(kinds) for kinds in warm] == [3] * SEATS
    for name in "ab":
        worker.open(name, text, 7, SECONDS)
    for _ in range(SECONDS + 1):
        for name in "ab":
            worker.next_block(name)
    assert [seat.kinds for seat in RecordedPasses.seats] == warm


def test_a_stream_in_a_warm_seat_is_the_stream_of_a_cold_worker_without(world, worker, text):
    worker.warm_up()
    plain = StreamWorker(*world)
    for each in (plain, worker):
        each.open("s", text, 7, SECONDS)
    for _ in range(SECONDS + 1):
        pending = worker.begin_block("s")
        worker.run_ahead("s")
        for got, expected in zip(
            pending.result().latents, plain.next_block("s").latents, strict=True
        ):
            assert np.abs(got - expected).max() < 1e-4


def test_a_seat_has_its_text_itself_and_nobody_keeps_another_copy(worker, text):
    worker._texts = PromptTexts(worker._read_text, unread_bytes=0)
    worker.open("s", text, 7, 1)
    assert len(worker._texts) == 0
    assert worker.next_block("s").index == 0
    worker.close("s")


def test_a_stream_that_does_not_fit_leaves_its_seat_free(worker, text):
    worker.open("s", text, 7, 1)
    worker.close("s")
    with pytest.raises(ShapeError, match="prompts of one shape"):
        worker.open("long", text.map(lambda value: np.concatenate([value, value])), 7, 1)
    worker.open("s", text, 7, 1)
    assert len(RecordedPasses.seats) == 1
