"""Products of weights that are in memory only while their layer runs."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from omniforcing_model.kernels.gathered_weights import gathered_linear


def operands(dtype, has_bias=True, rows=(2, 5)):
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(*rows, 24, generator=dice).to(dtype).requires_grad_()
    weight = nn.Parameter(torch.randn(40, 24, generator=dice).to(dtype))
    bias = nn.Parameter(torch.randn(40, generator=dice).to(dtype)) if has_bias else None
    return x, weight, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
def test_it_is_pytorchs_layer_bit_for_bit(dtype, has_bias):
    x, weight, bias = operands(dtype, has_bias)
    assert torch.equal(gathered_linear(x, weight, bias), functional.linear(x, weight, bias))


@pytest.mark.parametrize("rows", [(5,), (2, 5), (2, 3, 4)])
def test_its_gradients_are_those_of_pytorchs_layer(rows):
    x, weight, bias = operands(torch.float64, rows=rows)
    assert torch.autograd.gradcheck(gathered_linear, (x, weight, bias))
    seed = torch.randn(*rows, 40, dtype=torch.float64)
    ours = torch.autograd.grad(gathered_linear(x, weight, bias), (x, weight, bias), seed)
    theirs = torch.autograd.grad(functional.linear(x, weight, bias), (x, weight, bias), seed)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other)


def test_a_weight_whose_memory_is_given_back_is_read_anew_for_gradients():
    x, weight, bias = operands(torch.float32)
    values = weight.data.clone()
    product = gathered_linear(x, weight, bias)
    memory = weakref.ref(weight.data.untyped_storage())
    weight.data = torch.empty(0)
    gc.collect()
    assert memory() is None
    weight.data = 2 * values
    (of_x,) = torch.autograd.grad(product.sum(), x)
    assert torch.equal(of_x, torch.ones_like(product) @ (2 * values))


def test_a_weight_that_is_not_trained_has_no_gradient():
    x, weight, bias = operands(torch.float32)
    weight.requires_grad_(False)
    gathered_linear(x, weight, bias).sum().backward()
    assert weight.grad is None and x.grad is not None and bias.grad is not None
