"""What this machine reaches in plain work, and a block's time beside it.

Two rates bound a pass: that of one large matrix product, and that of moving memory. Both are
measured in the same run as the stream, again and again, so that whatever else runs on the machine
meets both.
"""

import statistics
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from infra.records import Record
from omniforcing_model.transformer.float8 import layer_in_float8, multiplies_in_float8
from pipelines.benchmarks.machine.device import (
    DTYPES,
    MIB,
    DtypeName,
    seconds_of,
    stopwatch_of,
)
from pipelines.benchmarks.machine.gemm_rate import SQUARE_SIDE, GemmRate, square

# Several times what any cache holds.
COPIED_MIB = {"cpu": 256, "cuda": 2048}
# Below half of both limits it is neither of them that a block waits for.
BOUND_FROM = 0.5

Bound = Literal["products", "memory", "neither"]


class BlockWork(Record):
    """Operations and bytes of a block: all its passes.

    `products`: operations of the linear layers; `attention`: of both products of all attentions.
    `bytes`: weights, text and caches, read once a pass.
    """

    products: int
    attention: int
    bytes: int


class Rates(Record):
    """Per second: operations of one large product as the linear layers multiply, the same in the
    type that attention computes in, and bytes read and written by a copy."""

    products: float
    attention: float
    bytes: float


class Roofline(Record):
    """A block beside what its work would take at the machine's own rates.

    `products_s`: its operations, products and attention, at the rates of large products.
    `memory_s`: its bytes at the rate of a copy. `limit_s`: the longer of the two; a block cannot
    take less. `product_share`, `bandwidth_share`, `share_of_limit`: each of those over the time
    that a block took. `bound`: which of the two it is near; neither, where it is near none:
    launches then, or what lies between the products. `flops_per_byte` is the block's, `ridge` the
    machine's: below it memory is the limit.
    """

    work: BlockWork
    rates: Rates
    block_s: float
    products_s: float
    memory_s: float
    limit_s: float
    product_share: float
    bandwidth_share: float
    share_of_limit: float
    bound: Bound
    flops_per_byte: float
    ridge: float


def roofline(work: BlockWork, rates: Rates, block_s: float) -> Roofline:
    """The shares of a block that took `block_s` seconds."""
    products_s = work.products / rates.products + work.attention / rates.attention
    memory_s = work.bytes / rates.bytes
    limit_s = max(products_s, memory_s)
    nearer: Bound = "products" if products_s >= memory_s else "memory"
    flops = work.products + work.attention
    return Roofline(
        work=work,
        rates=rates,
        block_s=block_s,
        products_s=products_s,
        memory_s=memory_s,
        limit_s=limit_s,
        product_share=products_s / block_s,
        bandwidth_share=memory_s / block_s,
        share_of_limit=limit_s / block_s,
        bound=nearer if limit_s >= BOUND_FROM * block_s else "neither",
        flops_per_byte=flops / work.bytes,
        ridge=flops / products_s / rates.bytes,
    )


class MachineRates:
    """Times large products and copies, one of each per call."""

    def __init__(
        self,
        dtype: DtypeName,
        device: torch.device,
        side: int | None = None,
        copied_mib: int | None = None,
    ) -> None:
        """Allocate operands and run everything once, untimed.

        Args:
            dtype: of the linear layers.
            device: where.
            side: of the square product; None: as fits the device.
            copied_mib: of a copy; likewise.
        """
        self._watch = stopwatch_of(device)
        self._square = square(side or SQUARE_SIDE[device.type])
        self._products = GemmRate((self._square,), DTYPES[dtype], device)
        self._float8_product = None
        if dtype == "float8" and multiplies_in_float8(device):
            self._float8_product = float8_product(self._square.inner, device)
        count = (copied_mib or COPIED_MIB[device.type]) * MIB // torch.float32.itemsize
        self._source = torch.zeros(count, device=device)
        self._target = torch.empty_like(self._source)
        self._copy_s: list[float] = []
        self._float8_s: list[float] = []
        self._target.copy_(self._source)

    def measure(self) -> None:
        """Time each once."""
        self._products.measure()
        self._copy_s.append(seconds_of(self._watch, lambda: self._target.copy_(self._source)))
        if self._float8_product is not None:
            self._float8_s.append(seconds_of(self._watch, self._float8_product))

    def rates(self) -> Rates:
        """Medians so far."""
        plain = self._products.per_second(self._square)
        moved = 2 * self._source.numel() * self._source.element_size()
        return Rates(
            products=(
                self._square.flops / statistics.median(self._float8_s) if self._float8_s else plain
            ),
            attention=plain,
            bytes=moved / statistics.median(self._copy_s),
        )


def float8_product(side: int, device: torch.device) -> Callable[[], Tensor]:
    """Multiplies a square of bfloat16 by a converted layer of that side."""
    layer = nn.Linear(side, side, bias=False, device=device, dtype=torch.bfloat16)
    converted = layer_in_float8(layer.requires_grad_(False))
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)

    def run() -> Tensor:
        product: Tensor = converted(left)
        return product

    run()
    return run
