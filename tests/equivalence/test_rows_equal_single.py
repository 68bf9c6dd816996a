"""Streams that share passes, out of step, are what each would be alone; a pass is one graph."""

import pytest
import torch

from omniforcing_model.errors import ShapeError, StreamStateError
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.passes import CompiledPasses, denoise
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.streaming.stream_batch import StreamBatch
from tests.worlds.layouts import layout_of
from tests.worlds.small_models import random_small_model, small_model_config

GRID = (1, 2)
SIGMAS = (1.0, 0.7, 0.3)
BLOCKS = 6  # the window of 2 is full from block 3, block 0 moves from block 4


def unsealed(architecture="ltx-2.0", layers=2, **layout):
    config = small_model_config(architecture, layers=layers)
    values = {"layout": layout_of(**({"sinks": 2, "window_blocks": 2} | layout))}
    return random_small_model(config.model_copy(update=values)).requires_grad_(False)


def model_of(architecture="ltx-2.0", **layout):
    return unsealed(architecture, **layout).seal()


def prompt(model, seed):
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    widths = (config.video.width, config.audio.width)
    if not config.modulated_text:
        widths = (config.text_width, config.text_width)
    features = (torch.randn(1, 5, width, generator=generator) for width in widths)
    return model.read_text(PerStream(*features))


@torch.no_grad()
def alone(model, seed, blocks=BLOCKS):
    rollout = Rollout(model, prompt(model, seed), GRID, SIGMAS, seeded_noise(seed))
    return [rollout.next_block() for _ in range(blocks)]


def same(ours, theirs, tolerance):
    for own, other in zip(ours, theirs, strict=True):
        for a, b in zip(own, other, strict=True):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def streamed(batch, rows, blocks=BLOCKS, moves=None):
    """Blocks of every row; `moves` lists which rows take a step in each pass, else all do."""
    blocks_of = {row: [] for row in rows}
    while any(len(own) < blocks for own in blocks_of.values()):
        left = [row for row in rows if len(blocks_of[row]) < blocks]
        moving = next(moves) if moves is not None else left
        for row, clean in batch.step([row for row in moving if row in left]).items():
            blocks_of[row].append(clean)
    return blocks_of


def in_turns():
    """Rows that are more and more out of step."""
    while True:
        yield from ([0], [0, 1], [0, 2], [0, 1, 2, 3], [3], [1, 2], [0, 1, 2, 3])


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_a_row_alone_is_a_rollout(architecture):
    model = model_of(architecture)
    stream = StreamBatch(model, GRID, SIGMAS).open(0, prompt(model, 1), seeded_noise(1))
    same([stream.next_block() for _ in range(BLOCKS)], alone(model, 1), 1e-5)
    assert stream.block_index == BLOCKS


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        ("ltx-2.0", {}),
        ("ltx-2.3", {}),
        ("ltx-2.0", {"name": "released"}),
        ("ltx-2.0", {"anchor": "stays"}),
        ("ltx-2.0", {"cross_view": "own"}),
        ("ltx-2.3", {"pinned_blocks": 3, "window_blocks": 1}),
        ("ltx-2.3", {"cross_sigma": "one", "prompt_sigma": "one"}),
    ],
)
def test_a_row_of_four_out_of_step_is_the_row_alone(architecture, layout):
    model = model_of(architecture, **layout)
    batch = StreamBatch(model, GRID, SIGMAS, rows=4)
    for row in range(4):
        batch.open(row, prompt(model, row), seeded_noise(row))
    blocks = streamed(batch, range(4), moves=in_turns())
    for row in range(4):
        same(blocks[row], alone(model, row), 1e-5)


def test_a_row_is_the_same_to_the_bit_whatever_the_others_hold():
    model = model_of()
    seen = []
    for others in ((1, 2, 3), (7, 8, 9)):
        batch = StreamBatch(model, GRID, SIGMAS, rows=4)
        for row, seed in enumerate((0, *others)):
            batch.open(row, prompt(model, seed), seeded_noise(seed))
        seen.append(streamed(batch, range(4))[0])
    same(*seen, 0)


def test_rows_join_and_leave_while_others_go_on():
    model = model_of()
    batch = StreamBatch(model, GRID, SIGMAS, rows=2)
    batch.open(0, prompt(model, 0), seeded_noise(0))
    first = streamed(batch, [0], blocks=2)[0]
    late = batch.open(1, prompt(model, 1), seeded_noise(1))
    both = streamed(batch, [0, 1], blocks=3)
    late.close()
    again = batch.open(1, prompt(model, 5), seeded_noise(5))
    rest = streamed(batch, [0, 1], blocks=1)
    assert again.block_index == 0
    same(first + both[0] + rest[0], alone(model, 0), 1e-5)
    same(both[1], alone(model, 1, 3), 1e-5)
    same(rest[1], alone(model, 5, 1), 1e-5)


def test_a_row_takes_one_stream_at_a_time_and_prompts_of_one_shape():
    model = model_of()
    batch = StreamBatch(model, GRID, SIGMAS)
    stream = batch.open(0, prompt(model, 0), seeded_noise(0))
    with pytest.raises(StreamStateError, match="expected a free row, got row 0"):
        batch.open(0, prompt(model, 0), seeded_noise(0))
    stream.close()
    with pytest.raises(StreamStateError, match="expected a row with a stream"):
        stream.next_block()
    features = PerStream(*[torch.randn(1, 9, model.config.text_width)] * 2)
    with pytest.raises(ShapeError, match="expected prompts of one shape"):
        batch.open(0, model.read_text(features), seeded_noise(0))


def test_a_given_block_is_history_as_in_a_rollout():
    model = model_of()
    given = alone(model, 3, 2)
    rollout = Rollout(model, prompt(model, 0), GRID, SIGMAS, seeded_noise(0))
    stream = StreamBatch(model, GRID, SIGMAS).open(0, prompt(model, 0), seeded_noise(0))
    with torch.no_grad():
        for block in given:
            rollout.force_block(block)
            stream.force_block(block)
        same([stream.next_block()], [rollout.next_block()], 1e-5)


@pytest.mark.parametrize("half", ["video", "audio"])
def test_one_stream_of_a_block_may_be_given_to_a_row(half):
    model = model_of()
    blocks = alone(model, 3, 2)
    rollout = Rollout(model, prompt(model, 0), GRID, SIGMAS, seeded_noise(0))
    stream = StreamBatch(model, GRID, SIGMAS).open(0, prompt(model, 0), seeded_noise(0))
    with torch.no_grad():
        for block in blocks:
            given = PerStream(*(x if name == half else None for name, x in block.present()))
            own, other = stream.next_block(given), rollout.next_block(given=given)
            same([own], [other], 1e-5)
            assert torch.equal(getattr(own, half), getattr(block, half))
        same([stream.next_block()], [rollout.next_block()], 1e-5)


def test_a_row_given_both_streams_of_a_block_goes_on_from_them_as_a_rollout():
    model = model_of()
    given = alone(model, 3, 1)[0]
    rollout = Rollout(model, prompt(model, 0), GRID, SIGMAS, seeded_noise(0))
    stream = StreamBatch(model, GRID, SIGMAS).open(0, prompt(model, 0), seeded_noise(0))
    with torch.no_grad():
        for part in (rollout, stream):
            same([part.next_block(given=given)], [given], 0)
            assert part.block_index == 1
        same([stream.next_block()], [rollout.next_block()], 1e-5)


@pytest.mark.parametrize("name", ["next_block", "force_block"])
def test_a_row_refuses_latents_of_another_block(name):
    model = model_of()
    first, second = alone(model, 3, 2)
    stream = StreamBatch(model, GRID, SIGMAS).open(0, prompt(model, 0), seeded_noise(0))
    wrong = PerStream(second.video, None) if name == "next_block" else second
    with pytest.raises(ShapeError, match=r"expected video latents .* for block 0, got"):
        getattr(stream, name)(wrong)
    same([stream.next_block(first)], [first], 0)


class Counting:
    """A backend of torch.compile that runs graphs as they are and keeps them."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, example_inputs):
        self.graphs.append(graph)
        return graph.forward


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_30_blocks_take_one_whole_graph_per_kind_of_pass_and_no_other_result(architecture):
    model = unsealed(architecture)  # packed weights are oneDNN's, which no compiler takes
    backend, seen = Counting(), []
    for passes in (denoise, CompiledPasses(backend)):
        batch = StreamBatch(model, GRID, SIGMAS, passes=passes)
        stream = batch.open(0, prompt(model, 1), seeded_noise(1))
        seen.append([stream.next_block() for _ in range(30)])
    same(*seen, 0)
    assert len(backend.graphs) == len(["block 0", "a window that fills", "a full one"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor_computes_the_same_to_rounding(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    model = unsealed(layers=1, window_blocks=1)
    batch = StreamBatch(model, GRID, SIGMAS, passes=CompiledPasses("inductor"))
    stream = batch.open(0, prompt(model, 1), seeded_noise(1))
    same([stream.next_block() for _ in range(4)], alone(model, 1, 4), 1e-5)
