"""The rate of plain matrix products on this machine: what a model's speed is a share of.

Measured beside the model, in the same dtype and with as many threads, so that whatever else runs on
the machine meets both.
"""

import statistics
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.benchmarks.device import stopwatch_of, timed

# A GPU is through a small square before it is in full swing.
SQUARE_SIDE = {"cpu": 2048, "cuda": 8192}


class ProductShape(NamedTuple):
    """(rows, inner) by (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Operations of one product."""
        return 2 * self.rows * self.inner * self.columns

    def __str__(self) -> str:
        return f"{self.rows}x{self.inner}x{self.columns}"


def square(side: int) -> ProductShape:
    """Two square matrices."""
    return ProductShape(side, side, side)


class GemmRate:
    """Times products of some shapes, one of each per call."""

    def __init__(
        self, shapes: tuple[ProductShape, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate operands and run each product once, untimed."""
        self._watch = stopwatch_of(device)
        self._operands: dict[ProductShape, tuple[Tensor, Tensor]] = {
            shape: (
                torch.randn(shape.rows, shape.inner, device=device).to(dtype),
                torch.randn(shape.columns, shape.inner, device=device).to(dtype),
            )
            for shape in shapes
        }
        self._seconds: dict[ProductShape, list[float]] = {shape: [] for shape in shapes}
        for operands in self._operands.values():
            functional.linear(*operands)

    def measure(self) -> None:
        """Time one product of each shape."""
        for shape, (left, right) in self._operands.items():
            seconds = timed(self._watch, lambda a=left, b=right: functional.linear(a, b))  # type: ignore[misc]
            self._seconds[shape].append(seconds)

    def per_second(self, shape: ProductShape) -> float:
        """Median operations per second of one shape."""
        return shape.flops / statistics.median(self._seconds[shape])
