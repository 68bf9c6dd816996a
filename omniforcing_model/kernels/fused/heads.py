"""What reads heads apart: rotations, gates, and the keys and values that are kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from omniforcing_model.kernels.fused.head_tiles import (
    Copied,
    HeadShape,
    Projected,
    Tables,
    copy_token,
    norm_and_turn,
    read_angles,
    read_pairs,
    token_in,
    write_pairs,
)
from omniforcing_model.kernels.fused.tiles import (
    Rows,
    heads,
    on_device_of,
    options,
    power_of_2,
    rows,
    table,
)


class Angles(NamedTuple):
    """Tables of a rotation, ((batch,) tokens, heads, head_dim), and which elements are pairs."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


class Inputs(NamedTuple):
    """What attention reads of a pass.

    queries: Projected. keys: Projected, or ABSENT. kept_values: Copied, or None. places: Rows, or
    None.
    """

    queries: Any
    keys: Any
    kept_values: Any
    places: Any


# Instead of None: Triton 3.6 compares no tuple with None that holds one, as Projected may.
ABSENT = Projected(None, None, None, None)


@triton.jit
def attention_inputs_kernel(
    inputs: tl.tuple, tables: tl.tuple, eps: tl.tensor, shape: tl.tuple
) -> None:
    """One token: queries and keys by one program, which reads their angles once; values by another.

    inputs: Inputs.
    """
    token, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = token
    if inputs.places is not None:
        start = inputs.places.pointer + row * inputs.places.row
        place = tl.load(start + token * inputs.places.token)
    if tl.program_id(2) == 0:
        cosine, sine = read_angles(tables, row, token, shape)
        norm_and_turn(inputs.queries, cosine, sine, row, token, place, eps, shape)
        if inputs.keys.source is not None:
            norm_and_turn(inputs.keys, cosine, sine, row, token, place, eps, shape)
    elif inputs.kept_values is not None:
        copy_token(inputs.kept_values, row, token, place, shape)


@triton.jit
def write_kernel(keys: tl.tuple, values: tl.tuple, places: tl.tuple, shape: tl.tuple) -> None:
    """One token of keys or of values: Copied. places: Rows."""
    token, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.load(places.pointer + row * places.row + token * places.token)
    if tl.program_id(2) == 0:
        copy_token(keys, row, token, place, shape)
    else:
        copy_token(values, row, token, place, shape)


@triton.jit
def rotate_kernel(source: tl.tuple, output: tl.tuple, tables: tl.tuple, shape: tl.tuple) -> None:
    """One token of a row of a layer. source, output: Heads."""
    token, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    layer = tl.program_id(2).to(tl.int64)
    cosine, sine = read_angles(tables, row, token, shape)
    first, second = read_pairs(token_in(source, layer, row, token), source.head, shape)
    start = token_in(output, layer, row, token)
    turned, partner = first * cosine - second * sine, second * cosine + first * sine
    write_pairs(start, output.head, turned, partner, shape)


@triton.jit
def gate_heads_kernel(
    attended: tl.tuple, logits: tl.tuple, output: tl.tuple, shape: tl.tuple
) -> None:
    """One token. attended: Heads. logits, output: Rows."""
    token, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head = tl.arange(0, shape.heads_block)
    start = logits.pointer + row * logits.row + token * logits.token
    logit = tl.load(start + head, mask=head < shape.heads, other=0.0).to(tl.float32)
    gate = (2 / (1 + tl.exp(-logit)))[:, None]
    first, second = read_pairs(token_in(attended, 0, row, token), attended.head, shape)
    start = output.pointer + row * output.row + token * output.token
    write_pairs(start, 2 * shape.pairs, first * gate, second * gate, shape)


def head_norm(
    projected: Tensor, weight: Tensor, count: int, rotation: Angles, eps: float
) -> Tensor:
    """`projected` (batch, tokens, count * head_dim), normed, by head and rotated."""
    output = _room(projected, count)
    turned = Projected(rows(projected), weight, heads(output), None)
    _launch_inputs(output, Inputs(turned, ABSENT, None, None), rotation, eps)
    return output


def attention_inputs(
    projected: Sequence[Tensor], weights: Sequence[Tensor], count: int, rotation: Angles, eps: float
) -> tuple[Tensor, Tensor]:
    """Queries and keys of `projected` (batch, tokens, count * head_dim), as `head_norm` does."""
    outputs = [_room(part, count) for part in projected]
    queries, keys = (
        Projected(rows(part), weight, heads(output), None)
        for part, weight, output in zip(projected, weights, outputs, strict=True)
    )
    _launch_inputs(outputs[0], Inputs(queries, keys, None, None), rotation, eps)
    return outputs[0], outputs[1]


def attention_inputs_kept(
    projected: Sequence[Tensor],
    weights: Sequence[Tensor],
    count: int,
    rotation: Angles,
    slot: tuple[Tensor, Tensor, Tensor],
    eps: float,
) -> Tensor:
    """Queries of `projected` as `head_norm` does; keys, and values, in their places of `slot`.

    slot: buffers of keys and values (rows, count, length, head_dim), and places (rows, tokens).
    """
    output = _room(projected[0], count)
    kept_keys, kept_values, places = slot
    queries = Projected(rows(projected[0]), weights[0], heads(output), None)
    keys = Projected(rows(projected[1]), weights[1], None, heads(kept_keys))
    values = Copied(heads(by_head(projected[2], count)), heads(kept_values))
    _launch_inputs(output, Inputs(queries, keys, values, _places(places)), rotation, eps)
    return output


def write(keys: Tensor, values: Tensor, slot: tuple[Tensor, Tensor, Tensor]) -> None:
    """Put keys and values (rows, heads, tokens, head_dim) in their places of `slot`."""
    kept_keys, kept_values, places = slot
    batch, _, tokens, _ = keys.shape
    shape = _shape(keys, interleaved=False)
    copies = Copied(heads(keys), heads(kept_keys)), Copied(heads(values), heads(kept_values))
    with on_device_of(keys):
        write_kernel[tokens, batch, 2](*copies, _places(places), shape, **_options(shape))


def rotate(x: Tensor, rotation: Angles, output: Tensor | None = None) -> Tensor:
    """`x` ((layers,) rows, heads, tokens, head_dim), rotated, in `output` or anew."""
    output = torch.empty_like(x) if output is None else output
    *layers, batch, _, tokens, _ = x.shape
    shape = _shape(x, rotation.interleaved)
    tables = Tables(table(rotation.cos), table(rotation.sin))
    with on_device_of(x):
        rotate_kernel[tokens, batch, layers[0] if layers else 1](
            heads(x), heads(output), tables, shape, **_options(shape)
        )
    return output


def gate_heads(attended: Tensor, logits: Tensor) -> Tensor:
    """`attended` (batch, heads, tokens, head_dim) times 2 * sigmoid of `logits` (batch, tokens,
    heads), as (batch, tokens, heads * head_dim)."""
    batch, count, tokens, head_dim = attended.shape
    output = torch.empty(
        (batch, tokens, count * head_dim), dtype=attended.dtype, device=attended.device
    )
    shape = _shape(attended, interleaved=False)
    with on_device_of(attended):
        gate_heads_kernel[tokens, batch](
            heads(attended), rows(logits), rows(output), shape, **_options(shape)
        )
    return output


def _launch_inputs(output: Tensor, inputs: Inputs, rotation: Angles, eps: float) -> None:
    batch, _, tokens, _ = output.shape
    shape = _shape(output, rotation.interleaved)
    tables = Tables(table(rotation.cos), table(rotation.sin))
    programs = 1 if inputs.kept_values is None else 2
    with on_device_of(output):
        attention_inputs_kernel[tokens, batch, programs](
            inputs, tables, eps, shape, **_options(shape)
        )


def _places(places: Tensor) -> Rows | None:
    return rows(places[..., None])


def by_head(projected: Tensor, count: int) -> Tensor:
    """(batch, tokens, count * head_dim) -> (batch, count, tokens, head_dim)."""
    heads_apart: Tensor = projected.unflatten(-1, (count, -1)).transpose(1, 2)
    return heads_apart


def _room(projected: Tensor, count: int) -> Tensor:
    """Room for the heads of `projected`, token-major: what attention reads and a product makes."""
    batch, tokens, width = projected.shape
    shape = batch, tokens, count, width // count
    return torch.empty(shape, dtype=projected.dtype, device=projected.device).transpose(1, 2)


def _shape(by_head: Tensor, interleaved: bool) -> HeadShape:
    count, pairs = by_head.shape[-3], by_head.shape[-1] // 2
    sizes = count, power_of_2(count), pairs, power_of_2(pairs), interleaved
    return HeadShape(*(tl.constexpr(size) for size in sizes))


def _options(shape: HeadShape) -> dict[str, Any]:
    return options(2 * shape.heads_block.value * shape.pairs_block.value)
