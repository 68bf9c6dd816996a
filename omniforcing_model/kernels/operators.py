"""The regions as operators of PyTorch, namespace `omniforcing`: one call each.

On a GPU an operator is one Triton kernel (fused/). On the meta device it has shapes and strides, so
that a pass can be counted there, and torch.compile goes through it without a break. On a CPU it is
the plain form: regions.py does not take it there, tests do.

No operator has a gradient, waits for the device, or reads a tensor's values on the host.
"""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omniforcing_model.kernels import plain_regions
from omniforcing_model.kernels.operands import Branch, HeadNorm, ScaleShift, Slot, split_heads
from omniforcing_model.kernels.rotation import Rotation

if torch.backends.cuda.is_built() and find_spec("triton") is not None:
    from omniforcing_model.kernels.triton_operators import KERNELS
else:
    KERNELS: dict[str, Callable[..., Any]] = {}  # type: ignore[no-redef]

LOG = logging.getLogger(__name__)
NAMESPACE = "omniforcing"

Tensors = Sequence[Tensor]


class Operator(NamedTuple):
    """One region's operator.

    schema: as torch.library reads it. plain: its definition. like: its results, without values.
    """

    schema: str
    plain: Callable[..., Any]
    like: Callable[..., Any]


def _add_norm(
    x: Tensor, values: Tensor | None, gate: Tensor | None, rows: Sequence[Tensor | None]
) -> list[Tensor]:
    branch = None if values is None else Branch(values, gate)
    modulations = [
        None if scale is None or shift is None else ScaleShift(scale, shift)
        for scale, shift in zip(rows[::2], rows[1::2], strict=True)
    ]
    total, normed = plain_regions.add_norm(x, branch, modulations)
    return [*normed] if branch is None else [total, *normed]


def _add_norm_like(
    x: Tensor, values: Tensor | None, gate: Tensor | None, rows: Sequence[Tensor | None]
) -> list[Tensor]:
    del gate
    results = len(rows) // 2 + (values is not None)
    return [x.new_empty(x.shape) for _ in range(results)]


def _head_norm(
    projected: Tensor, weight: Tensor, heads: int, tables: Tensors, interleaved: bool
) -> Tensor:
    rotation = _rotation(tables, interleaved) if tables else None
    return plain_regions.head_norm(projected, HeadNorm(weight, heads), rotation)


def _head_norm_like(projected: Tensor, weight: Tensor, heads: int, *angles: Any) -> Tensor:
    del weight, angles
    batch, tokens, width = projected.shape
    return projected.new_empty((batch, tokens, heads, width // heads)).transpose(1, 2)


def _attention_inputs(
    projected: Tensors, weights: Tensors, heads: int, tables: Tensors, interleaved: bool
) -> tuple[Tensor, Tensor]:
    rotation = _rotation(tables, interleaved)
    queries, keys = (
        plain_regions.head_norm(part, HeadNorm(weight, heads), rotation)
        for part, weight in zip(projected[:2], weights, strict=True)
    )
    return queries, keys


def _attention_inputs_kept(
    projected: Tensors, weights: Tensors, heads: int, tables: Tensors, interleaved: bool, *slot: Any
) -> Tensor:
    queries, keys = _attention_inputs(projected, weights, heads, tables, interleaved)
    plain_regions.write(Slot(*slot), keys, split_heads(projected[2], heads))
    return queries


def _attention_inputs_like(
    projected: Tensors, weights: Tensors, heads: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    del rest
    queries, keys = (
        _head_norm_like(part, weight, heads)
        for part, weight in zip(projected[:2], weights, strict=True)
    )
    return queries, keys


def _attention_inputs_kept_like(
    projected: Tensors, weights: Tensors, heads: int, *rest: Any
) -> Tensor:
    del rest
    return _head_norm_like(projected[0], weights[0], heads)


def _write(keys: Tensor, values: Tensor, *slot: Any) -> None:
    plain_regions.write(Slot(*slot), keys, values)


def _gate_heads_like(attended: Tensor, logits: Tensor) -> Tensor:
    del logits
    batch, heads, tokens, head_dim = attended.shape
    return attended.new_empty((batch, tokens, heads * head_dim))


def _rotate(x: Tensor, tables: Tensors, interleaved: bool) -> Tensor:
    return _rotation(tables, interleaved)(x)


def _rotate_like(x: Tensor, tables: Tensors, interleaved: bool) -> Tensor:
    del tables, interleaved
    return torch.empty_like(x)


def _rotate_into(x: Tensor, tables: Tensors, interleaved: bool, output: Tensor) -> None:
    output.copy_(_rotate(x, tables, interleaved))


def _nothing(*arguments: Any) -> None:
    del arguments


def _rotation(tables: Tensors, interleaved: bool) -> Rotation:
    cos, sin = tables
    return Rotation(cos, sin, "interleaved" if interleaved else "split")


_TURN = "Tensor[] tables, bool interleaved"
_SLOT = "Tensor(a!) kept_keys, Tensor(b!) kept_values, Tensor places"
OPERATORS = {
    # rows: scale and shift of each norm. Returns the sum, if there is one, and the norms.
    "add_norm": Operator(
        "(Tensor x, Tensor? values, Tensor? gate, Tensor?[] rows) -> Tensor[]",
        _add_norm,
        _add_norm_like,
    ),
    # tables: cosines and sines, here also none.
    "head_norm": Operator(
        f"(Tensor projected, Tensor weight, int heads, {_TURN}) -> Tensor",
        _head_norm,
        _head_norm_like,
    ),
    "attention_inputs": Operator(
        f"(Tensor[] projected, Tensor[] weights, int heads, {_TURN}) -> (Tensor, Tensor)",
        _attention_inputs,
        _attention_inputs_like,
    ),
    "attention_inputs_kept": Operator(
        f"(Tensor[] projected, Tensor[] weights, int heads, {_TURN}, {_SLOT}) -> Tensor",
        _attention_inputs_kept,
        _attention_inputs_kept_like,
    ),
    "write": Operator(f"(Tensor keys, Tensor values, {_SLOT}) -> ()", _write, _nothing),
    "gate_heads": Operator(
        "(Tensor attended, Tensor logits) -> Tensor", plain_regions.gate_heads, _gate_heads_like
    ),
    "rotate": Operator(f"(Tensor x, {_TURN}) -> Tensor", _rotate, _rotate_like),
    "rotate_into": Operator(
        f"(Tensor x, {_TURN}, Tensor(a!) output) -> ()", _rotate_into, _nothing
    ),
}


def _register() -> torch.library.Library:
    library = torch.library.Library(NAMESPACE, "DEF")
    for name, operator in OPERATORS.items():
        library.define(name + operator.schema)
        library.impl(name, operator.plain, "CPU")
        torch.library.register_fake(f"{NAMESPACE}::{name}", operator.like, lib=library)
        if name in KERNELS:
            library.impl(name, KERNELS[name], "CUDA")
    if torch.backends.cuda.is_built() and not KERNELS:
        LOG.warning(
            "expected Triton beside a PyTorch for GPUs, found none: what stands between products"
            " takes several kernels each; pip install triton"
        )
    elif not KERNELS:
        LOG.debug("this PyTorch is built without GPUs: no Triton kernel is loaded")
    return library


LIBRARY = _register()  # operators end with it
# Where regions.py takes operators. The meta device stands for a GPU.
DEVICES = {"meta", "cuda"} if KERNELS else {"meta"}
