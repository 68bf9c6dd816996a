"""The forms that are fast on a CPU are the functions PyTorch has."""

import pytest
import torch
from torch.nn import functional

from omniforcing_model.kernels.elementwise import EPS, gelu, rms_norm


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_pytorchs(scale: float, weighted: bool, dtype: torch.dtype) -> None:
    x = (torch.randn(2, 7, 96) * scale).to(dtype)[..., 32:]
    weight = torch.randn(64).to(dtype) if weighted else None
    exact = functional.rms_norm(
        x.double(), (64,), weight if weight is None else weight.double(), EPS
    )
    rounding = 1e-6 if dtype == torch.float32 else 2e-2
    assert torch.allclose(rms_norm(x, weight).double(), exact, rtol=rounding, atol=rounding)


def test_rms_norm_has_pytorchs_gradient() -> None:
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 16, dtype=torch.float64)
    ours = torch.autograd.grad((rms_norm(x) * weights).sum(), x)[0]
    theirs = torch.autograd.grad((functional.rms_norm(x, (16,), eps=EPS) * weights).sum(), x)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)


@torch.no_grad()
def test_gelu_is_pytorchs_tanh_form() -> None:
    x = torch.linspace(-40, 40, 2001)
    assert torch.allclose(gelu(x), functional.gelu(x, approximate="tanh"), atol=1e-5)


def test_gelu_is_differentiable() -> None:
    x = torch.randn(5, requires_grad=True)
    gelu(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0
