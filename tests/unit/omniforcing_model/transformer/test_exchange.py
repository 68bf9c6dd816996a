import pytest
import torch

from omniforcing_model.transformer.exchange import (
    AudioLane,
    CrossMessage,
    drive_together,
    failure_reason,
    peers_by_heads,
)
from omniforcing_model.transformer.stream_parallel import StreamParallel

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("degree", "rank", "others", "peers"),
    [
        (1, 0, 1, {5: slice(0, 8)}),
        (2, 1, 1, {5: slice(0, 4)}),
        (1, 0, 2, {5: slice(0, 4), 6: slice(4, 8)}),
        (2, 1, 4, {7: slice(0, 2), 8: slice(2, 4)}),
        (4, 2, 2, {6: slice(0, 2)}),
        (2, 0, 2, {5: slice(0, 4)}),
    ],
)
def test_processes_that_hold_the_same_heads_are_peers(degree, rank, others, peers):
    own = StreamParallel(degree=degree, rank=rank)
    assert peers_by_heads(own, others, first_rank=5, heads=8) == peers


def test_a_message_per_layer_goes_to_video_and_its_answer_back():
    log = []

    def audio():
        for layer in range(2):
            part = torch.tensor(float(layer))
            answer = yield CrossMessage(part, part, part)
            log.append(("audio", float(answer)))
        return torch.tensor(-1.0)

    def video():
        for _ in range(2):
            message = yield None
            log.append(("video", float(message.keys)))
            yield message.keys + 10
        return torch.tensor(-2.0)

    velocities = drive_together(video(), audio(), AudioLane(CPU))
    assert [float(velocity) for velocity in velocities] == [-2.0, -1.0]
    assert log == [("video", 0.0), ("audio", 10.0), ("video", 1.0), ("audio", 11.0)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[../gloo/pair.cc:534] Connection closed by [peer]:4", "Connection closed by [peer]:4"),
        ("Timed out. More words\nand lines", "Timed out"),
        ("first line\nsecond line", "first line"),
    ],
)
def test_the_reason_is_the_first_sentence_without_its_place(text, reason):
    assert failure_reason(RuntimeError(text)) == reason
