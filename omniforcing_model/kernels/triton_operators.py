"""Every operator as a launch of its Triton kernel; imported where there is Triton."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from omniforcing_model.kernels.elementwise import EPS
from omniforcing_model.kernels.fused import heads, row_norms

Tensors = Sequence[Tensor]


def _add_norm(
    x: Tensor, values: Tensor | None, gate: Tensor | None, rows: Sequence[Tensor | None]
) -> list[Tensor]:
    return row_norms.add_norm(x, values, gate, rows, EPS)


def _head_norm(
    projected: Tensor, weight: Tensor, count: int, tables: Tensors, interleaved: bool
) -> Tensor:
    if not tables:
        return heads.by_head(row_norms.row_norm(projected, weight, EPS), count)
    rotation = _angles(tables, interleaved)
    return heads.head_norm(projected, weight, count, rotation, EPS)


def _attention_inputs(
    projected: Tensors, weights: Tensors, count: int, tables: Tensors, interleaved: bool
) -> tuple[Tensor, Tensor]:
    rotation = _angles(tables, interleaved)
    return heads.attention_inputs(projected, weights, count, rotation, EPS)


def _attention_inputs_kept(
    projected: Tensors, weights: Tensors, count: int, tables: Tensors, interleaved: bool, *slot: Any
) -> Tensor:
    rotation = _angles(tables, interleaved)
    return heads.attention_inputs_kept(projected, weights, count, rotation, slot, EPS)


def _write(keys: Tensor, values: Tensor, *slot: Any) -> None:
    heads.write(keys, values, slot)


def _rotate(x: Tensor, tables: Tensors, interleaved: bool) -> Tensor:
    return heads.rotate(x, _angles(tables, interleaved))


def _rotate_into(x: Tensor, tables: Tensors, interleaved: bool, output: Tensor) -> None:
    heads.rotate(x, _angles(tables, interleaved), output)


def _angles(tables: Tensors, interleaved: bool) -> heads.Angles:
    cos, sin = tables
    return heads.Angles(cos, sin, interleaved)


KERNELS: dict[str, Callable[..., Any]] = {
    "add_norm": _add_norm,
    "head_norm": _head_norm,
    "attention_inputs": _attention_inputs,
    "attention_inputs_kept": _attention_inputs_kept,
    "write": _write,
    "gate_heads": heads.gate_heads,
    "rotate": _rotate,
    "rotate_into": _rotate_into,
}
