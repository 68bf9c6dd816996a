"""The regions in PyTorch's own operations: their definition, and how they run where no kernel of
ours does. Gradients pass through these alone. Arguments and results are told in regions.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from omniforcing_model.kernels.elementwise import rms_norm
from omniforcing_model.kernels.operands import (
    Branch,
    HeadNorm,
    ScaleShift,
    Slot,
    join_heads,
    split_heads,
)
from omniforcing_model.kernels.rotation import Rotation


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
    """`x` with `branch` added, and the RMSNorm of that under each of `modulations`."""
    total = add(x, branch)
    normed = rms_norm(total)
    return total, tuple(normed if rows is None else rows(normed) for rows in modulations)


def head_norm(projected: Tensor, norm: HeadNorm, rotation: Rotation | None = None) -> Tensor:
    """`projected` normed, by head and rotated."""
    heads = split_heads(rms_norm(projected, norm.weight), norm.heads)
    return heads if rotation is None else rotation(heads)


def attention_inputs(
    projected: tuple[Tensor, Tensor, Tensor],
    norms: tuple[HeadNorm, HeadNorm],
    rotation: Rotation,
    slot: Slot | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys normed and rotated, and values, by head."""
    queries = head_norm(projected[0], norms[0], rotation)
    keys = head_norm(projected[1], norms[1], rotation)
    values = split_heads(projected[2], norms[1].heads)
    if slot is None:
        return queries, keys, values
    write(slot, keys, values)
    return queries, slot.keys, slot.values


def write(slot: Slot, keys: Tensor, values: Tensor) -> None:
    """Put keys and values in their places."""
    if slot.first is not None:
        slot.keys[:, :, slot.first : slot.first + keys.shape[2]] = keys
        slot.values[:, :, slot.first : slot.first + values.shape[2]] = values
        return
    rows = torch.arange(len(slot.places), device=keys.device)[:, None]
    slot.keys.transpose(1, 2)[rows, slot.places] = keys.transpose(1, 2)
    slot.values.transpose(1, 2)[rows, slot.places] = values.transpose(1, 2)


def gate_heads(attended: Tensor, logits: Tensor) -> Tensor:
    """`attended` times 2 * sigmoid of `logits`, heads joined."""
    gates = 2 * torch.sigmoid(logits)
    return join_heads(attended * gates.transpose(1, 2)[..., None])
