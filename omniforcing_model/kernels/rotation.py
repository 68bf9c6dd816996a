"""A rotation by tables of cosines and sines: the arithmetic of rotary embedding (rope.py)."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Pairs = Literal["split", "interleaved"]


@dataclass(frozen=True)
class Rotation:
    """x * cos + partner(x) * sin, where the partner of an element is the other one of its pair.

    Tables are (tokens, heads, head_dim), or (batch, tokens, heads, head_dim) where rows of a batch
    are at different times, float32; both elements of a pair have one angle, and the sign of the
    first one's sine is in `sin`. Token-major, like what a projection makes: rotating needs no copy
    in another order.
    """

    cos: Tensor
    sin: Tensor
    pairs: Pairs

    @classmethod
    def of(cls, angles: Tensor, pairs: Pairs) -> "Rotation":
        """The rotation by `angles` (..., tokens, heads, head_dim / 2)."""
        cos, sin = angles.cos().float(), angles.sin().float()
        if pairs == "split":
            return cls(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1), pairs)
        both = torch.stack([-sin, sin], dim=-1).flatten(-2)
        return cls(cos.repeat_interleave(2, dim=-1), both, pairs)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` ((layers,) batch, heads, tokens, head_dim) in float32.

        Returned in x's type and order of memory.
        """
        values = x.transpose(-2, -3).float()
        if self.pairs == "split":
            partner = values.roll(values.shape[-1] // 2, dims=-1)
        else:
            partner = values.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        rotated = values * self.cos
        if torch.is_grad_enabled():
            rotated = torch.addcmul(rotated, partner, self.sin)
        else:
            rotated.addcmul_(partner, self.sin)
        return rotated.to(x.dtype).transpose(-2, -3)

    def part(self, heads: slice, tokens: slice) -> "Rotation":
        """The rotation of some of the heads and tokens."""
        if heads == slice(None) and tokens == slice(None):
            return self
        cos, sin = self.cos[..., tokens, heads, :], self.sin[..., tokens, heads, :]
        return replace(self, cos=cos, sin=sin)
