"""AdaLN-single: one small network per use turns sigma into scales, shifts and gates.

LTX-2's layout: sinusoid(256) -> Linear -> SiLU -> Linear = e; SiLU -> Linear -> rows.
The result is added to a learned table per layer; gates multiply a branch directly.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.transformer.projections import Linear

SINUSOID_WIDTH = 256


def sinusoid(timesteps: Tensor) -> Tensor:
    """Embed `timesteps` (any shape) as (..., 256): cosines first, then sines, in float32."""
    half = SINUSOID_WIDTH // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[..., None] * torch.exp(-math.log(10000) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class AdaLayerNormSingle(nn.Module):
    """Modulation of `rows` vectors of `width` from a timestep."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.linear_1 = Linear(SINUSOID_WIDTH, width)
        self.linear_2 = Linear(width, width)
        self.linear = Linear(width, rows * width)
        # A fresh model starts from its tables alone: no timestep dependence until it is learned.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return (batch, n, rows, width) modulation and (batch, n, width) embedding.

        Args:
            timesteps: sigma times the timestep scale, (batch, n).
        """
        dtype = self.linear_1.weight.dtype
        embedded = self.linear_2(functional.silu(self.linear_1(sinusoid(timesteps).to(dtype))))
        rows = self.linear(functional.silu(embedded))
        return rows.unflatten(-1, (self.rows, -1)), embedded
