"""Sums, norms and modulations of whole tokens: what reads no head apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from omniforcing_model.kernels.fused.tiles import Rows, on_device_of, options, power_of_2, rows


class Residual(NamedTuple):
    """What a norm is of: `x`, or `total`, where x + branch * gate is put. All Rows or None."""

    x: Any
    branch: Any
    gate: Any
    total: Any


class Modulated(NamedTuple):
    """An output, and what the norm is multiplied with and added to before. All Rows or None."""

    scale: Any
    shift: Any
    output: Any


@triton.jit
def read(
    source: tl.tuple, row: tl.tensor, token: tl.tensor, columns: tl.tensor, within: tl.tensor
) -> tl.tensor:
    """The columns of a token of `source` (Rows), in float32."""
    place = source.pointer + row * source.row + token * source.token + columns
    return tl.load(place, mask=within, other=0.0).to(tl.float32)


@triton.jit
def write(
    target: tl.tuple,
    row: tl.tensor,
    token: tl.tensor,
    columns: tl.tensor,
    within: tl.tensor,
    values: tl.tensor,
) -> None:
    """Put the columns of a token of `target` (Rows)."""
    place = target.pointer + row * target.row + token * target.token + columns
    tl.store(place, values.to(target.pointer.dtype.element_ty), mask=within)


@triton.jit
def add_norm_kernel(
    residual: tl.tuple,
    results: tl.tuple,
    count: tl.constexpr,
    eps: tl.tensor,
    width: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One token. The sum is rounded to what is kept of it; the norm is of that, rounded once."""
    token, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, block)
    within = columns < width
    total = read(residual.x, row, token, columns, within)
    if residual.branch is not None:
        branch = read(residual.branch, row, token, columns, within)
        if residual.gate is not None:
            branch *= read(residual.gate, row, token, columns, within)
        kept = (total + branch).to(residual.total.pointer.dtype.element_ty)
        write(residual.total, row, token, columns, within, kept)
        total = kept.to(tl.float32)
    normed = total * tl.rsqrt(tl.sum(total * total, axis=0) / width + eps)
    for index in tl.static_range(count):  # Triton 3.6 takes no length of tuples that hold None
        result = normed
        if results[index].scale is not None:
            result *= read(results[index].scale, row, token, columns, within)
        if results[index].shift is not None:
            result += read(results[index].shift, row, token, columns, within)
        write(results[index].output, row, token, columns, within, result)


def add_norm(
    x: Tensor,
    values: Tensor | None,
    gate: Tensor | None,
    modulations: Sequence[Tensor | None],
    eps: float,
) -> list[Tensor]:
    """The sum, if `values` is there, and a norm for every scale and shift of `modulations`."""
    total = None if values is None else _like(x)
    normed = [_like(x) for _ in range(len(modulations) // 2)]
    results = tuple(
        Modulated(rows(scale), rows(shift), rows(output))
        for scale, shift, output in zip(modulations[::2], modulations[1::2], normed, strict=True)
    )
    _launch(x, Residual(rows(x), rows(values), rows(gate), rows(total)), results, eps)
    return normed if total is None else [total, *normed]


def row_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The RMSNorm of `x` (batch, tokens, width) times `weight` (width,)."""
    normed = _like(x)
    weighted = Modulated(Rows(weight, 0, 0), None, rows(normed))
    _launch(x, Residual(rows(x), None, None, None), (weighted,), eps)
    return normed


def _launch(x: Tensor, residual: Residual, results: tuple[Modulated, ...], eps: float) -> None:
    batch, tokens, width = x.shape
    block = power_of_2(width)
    with on_device_of(x):
        add_norm_kernel[tokens, batch](
            residual, results, len(results), eps, width=width, block=block, **options(block)
        )


def _like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
