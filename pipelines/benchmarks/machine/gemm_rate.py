"""The rate of plain matrix products on this machine: what a model's speed is a share of.

Measured beside the model, in the same dtype and with as many threads, so that whatever else runs on
the machine meets both.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.kernels.packed_weights import can_pack, linear, pack_weight
from pipelines.benchmarks.machine.device import seconds_of, stopwatch_of

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
    """Times products of some shapes, one of each per call, in every way that we know.

    The rate is the faster way's: a yardstick that is slow would flatter the model.
    """

    def __init__(
        self, shapes: tuple[ProductShape, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate operands and run each product once, untimed."""
        self._watch = stopwatch_of(device)
        self._ways: dict[ProductShape, list[Callable[[], Tensor]]] = {}
        for shape in shapes:
            left = torch.randn(shape.rows, shape.inner, device=device).to(dtype)
            right = torch.randn(shape.columns, shape.inner, device=device).to(dtype)
            layouts = [right, pack_weight(right)] if can_pack(right) else [right]
            self._ways[shape] = [partial(linear, left, weight, None) for weight in layouts]
        self._seconds: dict[ProductShape, list[list[float]]] = {
            shape: [[] for _ in ways] for shape, ways in self._ways.items()
        }
        for ways in self._ways.values():
            for way in ways:
                way()

    def measure(self) -> None:
        """Time one product of each shape, in each way."""
        for shape, ways in self._ways.items():
            for way, seconds in zip(ways, self._seconds[shape], strict=True):
                seconds.append(seconds_of(self._watch, way))

    def per_second(self, shape: ProductShape) -> float:
        """Median operations per second of one shape, the faster way."""
        return shape.flops / min(statistics.median(seconds) for seconds in self._seconds[shape])

    def plain_per_second(self, shape: ProductShape) -> float:
        """The same with PyTorch's own linear layer."""
        return shape.flops / statistics.median(self._seconds[shape][0])
