"""What a layer does between its matrix products and attentions, region by region.

Each function here is one region: what a GPU computes in one kernel. It takes the operator
(operators.py) on a GPU, and on the meta device, which stands for one; on a CPU the compiled
library, where that is the machine's choice (choice.py); else the plain form (plain_regions.py),
which is the definition. Gradients pass through plain forms alone.

Per layer, pass and stream there are seven: the sum, norm and modulation before self attention,
before the text's queries, before the cross-modal projections (two modulations of one norm) and
before feed-forward; and the norm, rotation and writing of self attention's queries, keys and
values, of the text's queries, and of the cross-modal queries, keys and values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from omniforcing_model.kernels import operators, plain_regions
from omniforcing_model.kernels.choice import native_regions
from omniforcing_model.kernels.native.kernels import Turn
from omniforcing_model.kernels.operands import (
    Branch,
    HeadNorm,
    ScaleShift,
    Slot,
    split_heads,
)
from omniforcing_model.kernels.rotation import Rotation

TYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_ELEMENTS = 16384  # of one token: a program holds them in registers


def add_norm(
    x: Tensor, branch: Branch | None, modulations: Sequence[ScaleShift | None]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`x` with `branch` added, and the RMSNorm of that under each of `modulations`.

    Args:
        x: (batch, tokens, width).
        branch: what a layer's last part made, or None.
        modulations: one or two; None leaves the norm as it is.
    """
    values, gate = (None, None) if branch is None else branch
    native = native_regions(x)
    if native is not None:
        return native.add_norm(x, values, gate, modulations)
    rows = [row for pair in modulations for row in ((None, None) if pair is None else pair)]
    if not _fits(x, values, gate, *rows):
        return plain_regions.add_norm(x, branch, modulations)
    results = torch.ops.omniforcing.add_norm(x, values, gate, rows)
    return (x, tuple(results)) if branch is None else (results[0], tuple(results[1:]))


def head_norm(projected: Tensor, norm: HeadNorm, rotation: Rotation | None = None) -> Tensor:
    """`projected` (batch, tokens, heads * head_dim), normed, by head and rotated.

    Returns (batch, heads, tokens, head_dim).
    """
    native = native_regions(projected)
    if native is not None:
        return native.head_norm(projected, *norm, _turn(rotation))
    if not _fits(projected, norm.weight) or not _turns(rotation):
        return plain_regions.head_norm(projected, norm, rotation)
    by_head: Tensor = torch.ops.omniforcing.head_norm(
        projected, norm.weight, norm.heads, *_tables(rotation)
    )
    return by_head


def attention_inputs(
    projected: tuple[Tensor, Tensor, Tensor],
    norms: tuple[HeadNorm, HeadNorm],
    rotation: Rotation,
    slot: Slot | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys normed and rotated, and values, by head.

    Args:
        projected: queries, keys and values, (batch, tokens, heads * head_dim) each; they may be
            strided parts of one product.
        norms: of queries and keys.
        rotation: of both; they are of the same tokens.
        slot: where keys and values are written, and not made beside.

    Returns:
        (batch, heads, tokens, head_dim) each; with a slot, its buffers of keys and values.
    """
    weights, heads = [norm.weight for norm in norms], norms[1].heads
    native = native_regions(projected[0])
    if native is not None and (slot is None or slot.first is not None):
        into = None if slot is None else _place(slot, projected[1].shape[1])
        return native.attention_inputs(projected, weights, heads, _turn(rotation), into)
    if not _fits(*projected, *weights, *(slot or ())[:2]) or not _turns(rotation):
        return plain_regions.attention_inputs(projected, norms, rotation, slot)
    tables, interleaved = _tables(rotation)
    if slot is None:
        queries, keys = torch.ops.omniforcing.attention_inputs(
            projected[:2], weights, heads, tables, interleaved
        )
        return queries, keys, split_heads(projected[2], heads)
    queries = torch.ops.omniforcing.attention_inputs_kept(
        projected, weights, heads, tables, interleaved, *slot[:3]
    )
    return queries, slot.keys, slot.values


def write(slot: Slot, keys: Tensor, values: Tensor) -> None:
    """Put keys and values (rows, heads, tokens, head_dim) in their places."""
    if not _fits(keys, values, slot.keys, slot.values):
        plain_regions.write(slot, keys, values)
    else:
        torch.ops.omniforcing.write(keys, values, slot.keys, slot.values, slot.places)


def gate_heads(attended: Tensor, logits: Tensor) -> Tensor:
    """`attended` (batch, heads, tokens, head_dim) times 2 * sigmoid of `logits` (batch, tokens,
    heads), as (batch, tokens, heads * head_dim)."""
    if not _fits(attended, logits):
        return plain_regions.gate_heads(attended, logits)
    gated: Tensor = torch.ops.omniforcing.gate_heads(attended, logits)
    return gated


def rotate(x: Tensor, rotation: Rotation, output: Tensor | None = None) -> Tensor:
    """`x` ((layers,) batch, heads, tokens, head_dim) rotated, in `output` or anew.

    Tables of one token turn all tokens.
    """
    if not _fits(x, output) or not _turns(rotation):
        rotated = rotation(x)
        return rotated if output is None else output.copy_(rotated)
    if output is None:
        turned: Tensor = torch.ops.omniforcing.rotate(x, *_tables(rotation))
        return turned
    torch.ops.omniforcing.rotate_into(x, *_tables(rotation), output)
    return output


def _fits(x: Tensor, *others: Tensor | None) -> bool:
    """Whether operators take these tensors, whose last axis they read in one piece."""
    if x.device.type not in operators.DEVICES or torch.is_grad_enabled():
        return False
    by_head = x.dim() > 3
    of_token = x.shape[-1] * x.shape[-3] if by_head else x.shape[-1]
    if x.dtype not in TYPES or of_token > MOST_ELEMENTS or (by_head and x.shape[-1] % 2):
        return False
    return all(
        tensor is None or (tensor.dtype == x.dtype and tensor.stride(-1) == 1)
        for tensor in (x, *others)
    )


def _turns(rotation: Rotation | None) -> bool:
    """Whether operators turn by these tables."""
    if rotation is None:
        return True
    tables = rotation.cos, rotation.sin
    return all(table.dtype == torch.float32 and table.stride(-1) == 1 for table in tables)


def _place(slot: Slot, tokens: int) -> tuple[Tensor, Tensor]:
    """The parts of the slot's buffers that take so many tokens, which follow one another."""
    assert slot.first is not None
    place = slice(slot.first, slot.first + tokens)
    return slot.keys[:, :, place], slot.values[:, :, place]


def _turn(rotation: Rotation | None) -> Turn | None:
    """Tables and pairs as the compiled library takes them."""
    if rotation is None:
        return None
    return Turn(rotation.cos, rotation.sin, rotation.pairs == "interleaved")


def _tables(rotation: Rotation | None) -> tuple[list[Tensor], bool]:
    """Tables and pairs as operators take them."""
    if rotation is None:
        return [], False
    return [rotation.cos, rotation.sin], rotation.pairs == "interleaved"
