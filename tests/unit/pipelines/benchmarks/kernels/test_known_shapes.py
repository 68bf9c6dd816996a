"""Shapes that were worked out once are the shapes that are worked out each time."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.benchmarks.kernels.known_shapes import EachCaseOnce, KnownShapes


def some_operators(device: str) -> list[Tensor]:
    """New tensors, written ones, views, several results, and numbers that decide a shape."""
    x = torch.empty(2, 6, 8, device=device).transpose(0, 1)
    y = torch.empty(8, device=device)
    kept = torch.empty(6, 2, 8, dtype=torch.bfloat16, device=device)
    return [
        x + y,
        x.mul_(y),
        kept.copy_(x),
        x.to(torch.bfloat16),
        functional.linear(x, y.expand(5, 8)),
        torch.cat([x, x], dim=1),
        *x.chunk(2, dim=-1),
        *torch.max(x, dim=2),
        torch.arange(3, device=device),
        torch.arange(4, device=device),
        torch.zeros(3, device=device),
        x.sum(dim=1),
        x.sum(dim=1, keepdim=True),
    ]


def described(tensors: list[Tensor]) -> list[tuple[object, ...]]:
    return [(t.shape, t.stride(), t.dtype, t.storage_offset()) for t in tensors]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_second_time_is_like_the_first(device: str) -> None:
    plain = described(some_operators(device))
    known = KnownShapes()
    for _ in range(2):
        with EachCaseOnce(known):
            assert described(some_operators(device)) == plain


def test_what_is_written_into_comes_back_itself() -> None:
    known = KnownShapes()
    for _ in range(2):
        x, y = torch.empty(4, device="meta"), torch.empty(4, device="meta")
        with EachCaseOnce(known):
            assert x.add_(y) is x


def test_values_of_the_host_are_computed_every_time() -> None:
    with EachCaseOnce(KnownShapes()):
        one, two = (torch.ones(3) * factor for factor in (1, 2))
        noise = [torch.randn(4) for _ in range(2)]
    assert (one.tolist(), two.tolist()) == ([1, 1, 1], [2, 2, 2])
    assert not torch.equal(noise[0], noise[1])
