"""Attention and regions on a CPU, each one call of the compiled library.

They take float32 or bfloat16 on a CPU, without gradients: `takes` says so for the tokens that
everything else goes with.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.kernels.native.library import DTYPES, Library

MOST_HEAD_DIM = 256  # MOST_DIM of fused.cpp

Rows = Tensor | None  # (batch or 1, tokens or 1, width) of a modulation


class Turn(NamedTuple):
    """Cosines and sines of each element, ((batch,) tokens, heads, head_dim) float32, and whether
    its pairs are neighbours or halves of a head."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


class NativeKernels:
    """A library, called with tensors."""

    def __init__(self, path: Path) -> None:
        self._library = Library(path)

    @staticmethod
    def takes(x: Tensor) -> bool:
        """Whether the functions can compute with such tokens here and now."""
        return (
            x.device.type == "cpu"
            and x.dtype in DTYPES
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )

    def add_norm(
        self,
        x: Tensor,
        values: Tensor | None,
        gate: Rows,
        modulations: Sequence[tuple[Tensor, Tensor] | None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x + values * gate, and its RMSNorm times scale plus shift of each of `modulations`."""
        x = x.contiguous()
        batch, tokens, width = x.shape
        values = None if values is None else _dense(values, x.dtype).contiguous()
        gate = None if gate is None else _dense(gate, x.dtype)
        total = x if values is None else torch.empty_like(x)
        scales_shifts = [
            (None, None) if rows is None else tuple(_dense(row, x.dtype) for row in rows)
            for rows in modulations
        ]
        normed = tuple(torch.empty_like(x) for _ in modulations)
        fields: list[int] = []
        for rows, out in zip(scales_shifts, normed, strict=True):
            fields += (*_rows(rows[0]), *_rows(rows[1]), out.data_ptr())
        self._library.add_norm[x.dtype](
            x.data_ptr(),
            0 if values is None else values.data_ptr(),
            *_rows(gate),
            total.data_ptr(),
            (ctypes.c_int64 * len(fields))(*fields),
            len(normed),
            *(batch, tokens, width),
            torch.get_num_threads(),
        )
        return total, normed

    def head_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        heads: int,
        rotation: Turn | None = None,
        into: Tensor | None = None,
    ) -> Tensor:
        """`x` (batch, tokens, heads * head_dim) normed, by head and rotated.

        Args:
            x: its rows may be parts of wider ones.
            weight: of the norm; None copies what is there.
            heads: of x.
            rotation: of x's tokens, or None.
            into: takes the result, instead of a new tensor; its rows may be parts of wider ones.

        Returns:
            (batch, heads, tokens, head_dim).
        """
        x = _dense(x, x.dtype)
        weight = None if weight is None else _dense(weight, x.dtype)
        batch, tokens, width = x.shape
        out = x.new_empty(batch, heads, tokens, width // heads) if into is None else into
        cos = sin = table_batch = interleaved = 0
        if rotation is not None:
            tables = rotation.cos.contiguous(), rotation.sin.contiguous()
            cos, sin = (table.data_ptr() for table in tables)
            table_batch = tables[0].stride(0) if tables[0].ndim == 4 and batch > 1 else 0
            interleaved = rotation.interleaved
        self._library.head_norm[x.dtype](
            x.data_ptr(),
            *x.stride()[:2],
            0 if weight is None else weight.data_ptr(),
            *(cos, sin, table_batch, interleaved),
            out.data_ptr(),
            *out.stride()[:3],
            *(batch, tokens, heads, width // heads),
            torch.get_num_threads(),
        )
        return out

    def attention_inputs(
        self,
        projected: tuple[Tensor, Tensor, Tensor],
        weights: Sequence[Tensor],
        heads: int,
        rotation: Turn | None,
        into: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys normed and rotated, and values, by head; the last two in `into` if it is
        there."""
        queries, keys, values = projected
        for_keys, for_values = (None, None) if into is None else into
        return (
            self.head_norm(queries, weights[0], heads, rotation),
            self.head_norm(keys, weights[1], heads, rotation, for_keys),
            self.head_norm(values, None, heads, None, for_values),
        )

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(head_dim)) v of (batch, heads, ..., head_dim).

        Their rows may be parts of wider ones. Returns (batch, heads, queries, head_dim) that lies
        token by token, as a projection reads it.
        """
        queries, keys, values = (_dense(x, queries.dtype) for x in (queries, keys, values))
        if keys.stride(2) % 2:  # bfloat16 is read in pairs
            keys = keys.contiguous()
        batch, heads, tokens, head_dim = queries.shape
        out = queries.new_empty(batch, tokens, heads, head_dim)
        fields = [
            field for x in (queries, keys, values) for field in (x.data_ptr(), *x.stride()[:3])
        ]
        self._library.attend[queries.dtype](
            (ctypes.c_int64 * len(fields))(*fields),
            out.data_ptr(),
            *(batch, heads, tokens, keys.shape[2], head_dim),
            torch.get_num_threads(),
        )
        return out.transpose(1, 2)


def _dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` as the functions read it: of the tokens' type, its last axis dense."""
    return x if x.dtype == dtype and x.stride(-1) == 1 else x.to(dtype).contiguous()


def _rows(x: Tensor | None) -> tuple[int, int, int]:
    """Address and steps of a modulation's rows; a step of 0 repeats what is there once."""
    if x is None:
        return 0, 0, 0
    row, token = (x.stride(axis) if x.shape[axis] > 1 else 0 for axis in (0, 1))
    return x.data_ptr(), row, token
