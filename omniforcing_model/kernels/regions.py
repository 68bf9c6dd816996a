"""What a layer does between its matrix products and attentions, region by region.

Each function here is one region: what a GPU computes in one kernel. Their plain forms below are the
definition; gradients pass through these alone.

Per layer, pass and stream there are seven: the sum, norm and modulation before self attention,
before the text's queries, before the cross-modal projections (two modulations of one norm) and
before feed-forward; and the norm, rotation and writing of self attention's queries, keys and
values, of the text's queries, and of the cross-modal queries, keys and values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.kernels.elementwise import rms_norm
from omniforcing_model.kernels.rotation import Rotation


class ScaleShift(NamedTuple):
    """x * scale + shift, (batch, tokens or 1, width) each."""

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Modulate `x` (batch, tokens, width)."""
        return torch.addcmul(self.shift, x, self.scale)


class Branch(NamedTuple):
    """What is still to be added to a residual stream.

    values: (batch, tokens, width). gate: (batch, tokens or 1, width), or None for 1.
    """

    values: Tensor
    gate: Tensor | None


class Slot(NamedTuple):
    """Where the keys and values of a pass are kept.

    keys, values: buffers (rows, heads, length, head_dim). places: of each token of the pass along
    their length, (rows, tokens), int64. first: of them, where the host knows it and they follow one
    another, the same in all rows.
    """

    keys: Tensor
    values: Tensor
    places: Tensor
    first: int | None = None


class HeadNorm(NamedTuple):
    """RMSNorm over all heads jointly, then heads apart.

    weight: (heads * head_dim,).
    """

    weight: Tensor
    heads: int


def add(x: Tensor, branch: Branch | None) -> Tensor:
    """`x` (batch, tokens, width) with `branch` added."""
    if branch is None:
        return x
    if branch.gate is None:
        return x + branch.values
    return torch.addcmul(x, branch.values, branch.gate)


def add_norm(
    x: Tensor, branch: Branch | None, modulations: Sequence[ScaleShift | None]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`x` with `branch` added, and the RMSNorm of that under each of `modulations`.

    Args:
        x: (batch, tokens, width).
        branch: what a layer's last part made, or None.
        modulations: one or two; None leaves the norm as it is.
    """
    total = add(x, branch)
    normed = rms_norm(total)
    return total, tuple(normed if rows is None else rows(normed) for rows in modulations)


def head_norm(projected: Tensor, norm: HeadNorm, rotation: Rotation | None = None) -> Tensor:
    """`projected` (batch, tokens, heads * head_dim), normed, by head and rotated.

    Returns (batch, heads, tokens, head_dim).
    """
    heads = split_heads(rms_norm(projected, norm.weight), norm.heads)
    return heads if rotation is None else rotation(heads)


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
        slot: where keys and values are written. They are returned as well.

    Returns:
        (batch, heads, tokens, head_dim) each.
    """
    queries, keys, values = projected
    by_head = (
        head_norm(queries, norms[0], rotation),
        head_norm(keys, norms[1], rotation),
        split_heads(values, norms[1].heads),
    )
    if slot is not None:
        write(slot, by_head[1], by_head[2])
    return by_head


def write(slot: Slot, keys: Tensor, values: Tensor) -> None:
    """Put keys and values (rows, heads, tokens, head_dim) in their places."""
    if slot.first is not None:
        slot.keys[:, :, slot.first : slot.first + keys.shape[2]] = keys
        slot.values[:, :, slot.first : slot.first + values.shape[2]] = values
        return
    rows = torch.arange(len(slot.places), device=keys.device)[:, None]
    slot.keys.transpose(1, 2)[rows, slot.places] = keys.transpose(1, 2)
    slot.values.transpose(1, 2)[rows, slot.places] = values.transpose(1, 2)


def gate_heads(attended: Tensor, logits: Tensor) -> Tensor:
    """`attended` (batch, heads, tokens, head_dim) times 2 * sigmoid of `logits` (batch, tokens,
    heads), as (batch, tokens, heads * head_dim)."""
    gates = 2 * torch.sigmoid(logits)
    return join_heads(attended * gates.transpose(1, 2)[..., None])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
    by_head: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return by_head


def join_heads(by_head: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, heads * head_dim)."""
    joined: Tensor = by_head.transpose(1, 2).flatten(2)
    return joined
