"""Operations of passes, from shapes, and how often they need a model's weights.

Those of layers that run again in a backward pass are among them.
"""

from collections.abc import Iterable
from typing import NamedTuple

from omniforcing_model.flop_count import VisibleKeys, block_flops, pass_flops, text_flops
from omniforcing_model.per_stream import PerStream
from pipelines.planning.activations import PassShape

BACKWARD = 2  # times the operations of a forward pass


class Passes(NamedTuple):
    """Passes of one role's turn over one micro-batch.

    `operations`: of all of them. `gathers`: of a model's weights. `backward`: passes with
    gradients, which are summed over the ranks.
    """

    operations: float
    gathers: float
    backward: float

    def times(self, count: float) -> "Passes":
        """So many of them."""
        return Passes(*(count * value for value in self))


def all_of(passes: Iterable[Passes]) -> Passes:
    """Their sum."""
    return Passes(*(sum(values) for values in zip(*passes, strict=True)))


def mean_of(passes: Iterable[Passes]) -> Passes:
    """Where each of them is as likely as another."""
    each = list(passes)
    return all_of(each).times(1 / len(each))


def whole_clip(shape: PassShape, sinks: int = 0) -> Passes:
    """A pass without gradients over all tokens of a clip, each of which is multiplied with all."""
    pixels = shape.grid[0] * shape.grid[1]
    tokens = PerStream(shape.latents.video * pixels, shape.latents.audio + sinks)
    keys = VisibleKeys(tokens.video, tokens.audio, tokens.audio, tokens.video)
    counted = pass_flops(shape.model, tokens, keys, shape.text_tokens, sinks)
    return Passes(shape.batch * (counted.total + _text(shape)), 1, 0)


def with_gradients(shape: PassShape, without: Passes) -> Passes:
    """Such a pass and its backward pass, in which layers may run again."""
    times = 1 + BACKWARD + (1 if shape.recomputes else 0)
    return Passes(times * without.operations, 2 * without.gathers, without.gathers)


def streamed(shape: PassShape, blocks: int, passes: float) -> Passes:
    """A stream of `passes` passes a block, and one that commits each block but the last."""
    *committed, last = _blocks(shape, blocks)
    each = [block.times(passes + 1) for block in committed]
    read = Passes(shape.batch * _text(shape), 0, 0)
    return all_of([read, *each, last.times(passes)])


def streamed_again(shape: PassShape, blocks: int, first: int) -> Passes:
    """The last pass of the blocks from number `first` on, with gradients, and the passes that
    commit all blocks but the last."""
    text = shape.batch * _text(shape)
    each = _blocks(shape, blocks)
    again = [block._replace(operations=block.operations + text) for block in each[first:]]
    return all_of([*(with_gradients(shape, block) for block in again), *each[:-1]])


def _blocks(shape: PassShape, count: int) -> list[Passes]:
    """A pass without gradients over each block of a stream."""
    operations = (
        block_flops(shape.model, index, shape.grid, shape.text_tokens).total
        for index in range(count)
    )
    return [Passes(float(shape.batch * of_block), 1, 0) for of_block in operations]


def _text(shape: PassShape) -> float:
    return text_flops(shape.model, shape.text_tokens)
