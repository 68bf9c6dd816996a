"""Exponential moving average of weights, kept in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """average <- decay * average + (1 - decay) * weights; early on the decay is smaller.

    With the warm-up decay (1 + n) / (10 + n) the first average is not the random start, so it
    follows from the first update on; the released code lets 200 pass before it averages at all.
    Elements are averaged alone, so a rank may keep the average of its part of each weight.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start from the present `weights`, whole ones or parts of them."""
        self._decay = decay
        self.updates = 0
        self.averages = {name: value.detach().float().clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move the averages towards `weights`, of the same names and shapes."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in weights.items():
            self.averages[name].lerp_(weight.float(), 1 - decay)
