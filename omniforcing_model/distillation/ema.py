"""Exponential moving average of a model's weights, kept in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """shadow <- decay * shadow + (1 - decay) * weights; early on the decay is smaller.

    With the warm-up decay (1 + n) / (10 + n) the first average is not the random start, so it
    follows from the first update on; the released code lets 200 pass before it averages at all.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's present weights."""
        self._decay = decay
        self._updates = 0
        self._shadow = {k: v.detach().float().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, weight in model.state_dict().items():
            self._shadow[name].lerp_(weight.float(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the average into `model`."""
        model.load_state_dict(self._shadow)

    def state(self) -> dict[str, Tensor]:
        """Everything `restore` needs, as tensors."""
        return {**self._shadow, "ema.updates": torch.tensor(self._updates)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        self._updates = int(state["ema.updates"])
        self._shadow = {k: v.clone() for k, v in state.items() if k != "ema.updates"}
