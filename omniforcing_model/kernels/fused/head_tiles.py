"""Parts of the kernels that read heads apart, each for one token."""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Projected(NamedTuple):
    """What is normed and rotated: Rows, the weight of its norm, and Heads it is written to.

    `output` holds the tokens of the pass; `kept` is a buffer in which they have places.
    """

    source: Any
    weight: Any
    output: Any
    kept: Any


class Copied(NamedTuple):
    """Heads that are put into a buffer as they are, and the buffer's."""

    source: Any
    kept: Any


class Tables(NamedTuple):
    """Cosines and sines of a rotation: Heads."""

    cos: Any
    sin: Any


class HeadShape(NamedTuple):
    """Heads of a token and pairs of a head, known to the compiler, each with the power of 2 that
    holds it."""

    heads: Any
    heads_block: Any
    pairs: Any
    pairs_block: Any
    interleaved: Any


@triton.jit
def token_in(tensor: tl.tuple, layer: tl.tensor, row: tl.tensor, token: tl.tensor) -> tl.tensor:
    """Where the first head of a token of `tensor` (Heads) is."""
    return tensor.pointer + layer * tensor.layer + row * tensor.row + token * tensor.token


@triton.jit
def read_pairs(start: tl.tensor, head_step: tl.tensor, shape: tl.tuple) -> tl.tensor:
    """Both elements of every pair of a token, (heads, pairs) each, in float32.

    A pair is (r, r + pairs), or (2r, 2r + 1) where it is interleaved.
    """
    head = tl.arange(0, shape.heads_block)[:, None]
    start += head * head_step
    if shape.interleaved:
        column = tl.arange(0, 2 * shape.pairs_block)[None, :]
        within = (head < shape.heads) & (column < 2 * shape.pairs)
        both = tl.load(start + column, mask=within, other=0.0)
        by_pair = tl.reshape(both, (shape.heads_block, shape.pairs_block, 2))
        first, second = tl.split(by_pair)
    else:
        column = tl.arange(0, shape.pairs_block)[None, :]
        within = (head < shape.heads) & (column < shape.pairs)
        first = tl.load(start + column, mask=within, other=0.0)
        second = tl.load(start + shape.pairs + column, mask=within, other=0.0)
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def write_pairs(
    start: tl.tensor, head_step: tl.tensor, first: tl.tensor, second: tl.tensor, shape: tl.tuple
) -> None:
    """Put both elements of every pair of a token where `read_pairs` would find them."""
    head = tl.arange(0, shape.heads_block)[:, None]
    start += head * head_step
    kind = start.dtype.element_ty
    if shape.interleaved:
        column = tl.arange(0, 2 * shape.pairs_block)[None, :]
        within = (head < shape.heads) & (column < 2 * shape.pairs)
        tl.store(start + column, tl.interleave(first, second).to(kind), mask=within)
    else:
        column = tl.arange(0, shape.pairs_block)[None, :]
        within = (head < shape.heads) & (column < shape.pairs)
        tl.store(start + column, first.to(kind), mask=within)
        tl.store(start + shape.pairs + column, second.to(kind), mask=within)


@triton.jit
def read_angles(tables: tl.tuple, row: tl.tensor, token: tl.tensor, shape: tl.tuple) -> tl.tensor:
    """Cosine and sine of every pair of a token, (heads, pairs) each.

    Both elements of a pair have one angle: of tables that are split half is read.
    """
    cos = token_in(tables.cos, 0, row, token)
    sin = token_in(tables.sin, 0, row, token)
    if shape.interleaved:
        cosine, _ = read_pairs(cos, tables.cos.head, shape)
        _, sine = read_pairs(sin, tables.sin.head, shape)
    else:
        head = tl.arange(0, shape.heads_block)[:, None]
        column = tl.arange(0, shape.pairs_block)[None, :]
        within = (head < shape.heads) & (column < shape.pairs)
        cosine = tl.load(cos + head * tables.cos.head + column, mask=within, other=0.0)
        place = sin + head * tables.sin.head + shape.pairs + column
        sine = tl.load(place, mask=within, other=0.0)
    return cosine, sine


@triton.jit
def norm_and_turn(
    projected: tl.tuple,
    cosine: tl.tensor,
    sine: tl.tensor,
    row: tl.tensor,
    token: tl.tensor,
    place: tl.tensor,
    eps: tl.tensor,
    shape: tl.tuple,
) -> None:
    """Norm and rotate a token of `projected` (Projected) and write it; `place`: in the buffer."""
    source = projected.source.pointer + row * projected.source.row
    source += token * projected.source.token
    first, second = read_pairs(source, 2 * shape.pairs, shape)
    squares = tl.sum(tl.sum(first * first + second * second, axis=1), axis=0)
    inverse = tl.rsqrt(squares / (2 * shape.heads * shape.pairs) + eps)
    weights = read_pairs(projected.weight, 2 * shape.pairs, shape)
    first *= inverse * weights[0]
    second *= inverse * weights[1]
    turned = first * cosine - second * sine
    partner = second * cosine + first * sine
    if projected.output is not None:
        output = token_in(projected.output, 0, row, token)
        write_pairs(output, projected.output.head, turned, partner, shape)
    if projected.kept is not None:
        kept = token_in(projected.kept, 0, row, place)
        write_pairs(kept, projected.kept.head, turned, partner, shape)


@triton.jit
def copy_token(
    copied: tl.tuple, row: tl.tensor, token: tl.tensor, place: tl.tensor, shape: tl.tuple
) -> None:
    """Put a token of `copied` (Copied) in its place."""
    head = tl.arange(0, shape.heads_block)[:, None]
    column = tl.arange(0, 2 * shape.pairs_block)[None, :]
    within = (head < shape.heads) & (column < 2 * shape.pairs)
    source = token_in(copied.source, 0, row, token) + head * copied.source.head
    kept = token_in(copied.kept, 0, row, place) + head * copied.kept.head
    tl.store(kept + column, tl.load(source + column, mask=within), mask=within)
