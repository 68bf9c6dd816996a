"""A stream goes on elsewhere from its clean latents as if it had not stopped."""

import pytest
import torch

from omniforcing_model.errors import ShapeError, StreamStateError
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.replay import needed_blocks, replay
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.streaming.stream_batch import StreamBatch
from tests.equivalence.test_rows_equal_single import GRID, SIGMAS, model_of, prompt

SEED = 1
MORE = 4  # than a window, so that what the replay wrote is all seen
LAYOUTS = {
    "paper": {},
    "three pinned": {"pinned_blocks": 3},
    "anchor stays": {"anchor": "stays"},
    "own block across": {"cross_view": "own"},
    "window of one": {"window_blocks": 1},
}


def rollout_of(model):
    return Rollout(model, prompt(model, SEED), GRID, SIGMAS, seeded_noise(SEED))


def row_of(model):
    """The middle one of three rows, where another stream has been."""
    batch = StreamBatch(model, GRID, SIGMAS, rows=3)
    other = batch.open(1, prompt(model, 7), seeded_noise(7))
    for _ in range(4):
        other.next_block()
    other.close()
    return batch.open(1, prompt(model, SEED), seeded_noise(SEED))


STREAMS = {"alone": rollout_of, "a row": row_of}


def goes_on(open_stream, model, straight, block, recent):
    """The blocks from `block` on, after a replay of the pinned ones and `recent` or more."""
    layout, stream = BlockLayout(model.config.layout), open_stream(model)
    replay(stream, {k: straight[k] for k in needed_blocks(layout, block, recent)}, layout)
    assert stream.block_index == block
    return [stream.next_block() for _ in straight[block:]]


def largest_difference(ours, theirs):
    return max(
        float((a - b).abs().max())
        for own, other in zip(ours, theirs, strict=True)
        for a, b in zip(own, other, strict=True)
    )


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def world(request):
    model = model_of(**LAYOUTS[request.param])
    seen = BlockLayout(model.config.layout).blocks_seen(model.config.layers)
    return model, seen


@pytest.mark.parametrize("open_stream", STREAMS.values(), ids=STREAMS.keys())
@torch.no_grad()
def test_all_that_the_next_block_sees_gives_what_the_whole_stream_gives(world, open_stream):
    model, seen = world
    slots = BlockLayout(model.config.layout).slots
    first = model.config.layout.pinned_blocks + slots + seen
    stream = open_stream(model)
    straight = [stream.next_block() for _ in range(first + slots + MORE)]
    for block in range(first, first + slots):  # at every place of the ring
        needed = needed_blocks(BlockLayout(model.config.layout), block, seen)
        assert len(needed) < block  # not simply all
        resumed = goes_on(open_stream, model, straight, block, seen)
        assert largest_difference(resumed, straight[block:]) == 0.0


@torch.no_grad()
def test_one_block_less_is_not_enough(world):
    """So `blocks_seen` is no more than the next block sees."""
    model, seen = world
    layout = BlockLayout(model.config.layout)
    stream = rollout_of(model)
    straight = [stream.next_block() for _ in range(layout.config.pinned_blocks + 3 * seen)]
    block = layout.config.pinned_blocks + layout.slots + seen - 1
    assert len(needed_blocks(layout, block, seen - 1)) == layout.config.pinned_blocks + seen - 1
    assert largest_difference(
        goes_on(rollout_of, model, straight, block, seen - 1), straight[block:]
    )


@pytest.mark.parametrize("block", [0, 1, 2, 4])
@torch.no_grad()
def test_a_young_stream_is_replayed_whole(world, block):
    model, seen = world
    stream = rollout_of(model)
    straight = [stream.next_block() for _ in range(8)]
    assert (
        largest_difference(goes_on(rollout_of, model, straight, block, seen), straight[block:]) == 0
    )


@torch.no_grad()
def test_the_fewer_blocks_are_replayed_the_larger_is_the_error():
    model = model_of()
    stream = rollout_of(model)
    straight = [stream.next_block() for _ in range(20)]
    errors = [
        largest_difference(goes_on(rollout_of, model, straight, 16, recent), straight[16:])
        for recent in (8, 5, 2)
    ]
    assert errors[0] == 0 < errors[1] < errors[2]
    assert errors[2] < 0.1 * max(float(x.abs().max()) for x in straight[16])


@torch.no_grad()
def test_blocks_that_do_not_follow_each_other_are_refused():
    model = model_of()
    layout, stream = BlockLayout(model.config.layout), rollout_of(model)
    straight = [stream.next_block() for _ in range(12)]

    def past(*blocks):
        return {block: straight[block] for block in blocks}

    for blocks in ((1, 2), (0, 2, 3), (0, 4, 6), (0, 5, 6, 7), (0, 1, 4)):
        with pytest.raises(StreamStateError, match=r"expected block \d of a stream"):
            replay(rollout_of(model), past(*blocks), layout)
    with pytest.raises(ShapeError, match="for block 4"):
        replay(rollout_of(model), past(0) | {4: straight[0]}, layout)


@torch.no_grad()
def test_a_row_that_is_taken_again_begins_anew():
    model = model_of()
    layout = BlockLayout(model.config.layout)
    stream = rollout_of(model)
    straight = [stream.next_block() for _ in range(12)]
    batch = StreamBatch(model, GRID, SIGMAS)
    resumed = batch.open(0, prompt(model, SEED), seeded_noise(SEED))
    replay(resumed, {k: straight[k] for k in needed_blocks(layout, 11, 2)}, layout)
    resumed.next_block()
    resumed.close()
    again = batch.open(0, prompt(model, SEED), seeded_noise(SEED))
    fresh = [again.next_block() for _ in range(6)]
    alone = StreamBatch(model, GRID, SIGMAS).open(0, prompt(model, SEED), seeded_noise(SEED))
    assert largest_difference(fresh, [alone.next_block() for _ in range(6)]) == 0
    assert isinstance(fresh[0], PerStream)
