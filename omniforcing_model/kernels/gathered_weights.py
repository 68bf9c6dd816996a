"""A linear layer whose weight is in memory while its layer runs, and not in between.

PyTorch's own keeps the weight's memory for its gradients, in a view: weights that are cut over
ranks (ZeRO-3) and gathered for a layer would all stay. This one keeps the parameter, which is
gathered again by then. Results are those of PyTorch's layer, bit for bit; DeepSpeed's function for
the same end is not used: it rounds before the bias is added, and takes the place of PyTorch's layer
for everything else in the process.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            gradient @ weight if of_x else None,
            rows.mT @ x.reshape(-1, x.shape[-1]) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def gathered_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (..., inner) to (..., columns); `weight` must be whole again for its gradients."""
    product: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return product
