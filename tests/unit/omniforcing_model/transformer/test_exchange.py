import pytest

from omniforcing_model.transformer.exchange import failure_reason, peers_by_heads
from omniforcing_model.transformer.stream_parallel import StreamParallel


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
