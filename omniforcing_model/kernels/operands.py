"""What the regions between matrix products work on, beside the tokens themselves."""

from typing import NamedTuple

import torch
from torch import Tensor


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


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
    by_head: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return by_head


def join_heads(by_head: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, heads * head_dim)."""
    joined: Tensor = by_head.transpose(1, 2).flatten(2)
    return joined
