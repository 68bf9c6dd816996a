"""How the kernels address tensors: one program per token of a row, over its width or its heads."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """A tensor (batch, tokens, width), its width contiguous, and its steps in elements.

    A step of 0 repeats what is there once.
    """

    pointer: Any
    row: int
    token: int


class Heads(NamedTuple):
    """A tensor (layers, rows, heads, tokens, head_dim), its head_dim contiguous, and its steps."""

    pointer: Any
    layer: int
    row: int
    head: int
    token: int


def rows(x: Tensor | None) -> Rows | None:
    """`x` (batch or 1, tokens or 1, width) as a kernel reads or writes it."""
    return None if x is None else Rows(x, *_steps(x.shape[:2], x.stride()))


def heads(x: Tensor) -> Heads:
    """`x` ((layers,) rows, heads, tokens, head_dim) as a kernel reads or writes it."""
    steps = _steps(x.shape[:-1], x.stride())
    return Heads(x, *([0] * (4 - len(steps))), *steps)


def table(x: Tensor) -> Heads:
    """`x` of a rotation ((batch or 1,) tokens, heads, head_dim) as a kernel reads it."""
    *row, token, head = _steps(x.shape[:-1], x.stride())
    return Heads(x, 0, row[0] if row else 0, head, token)


def _steps(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    return [step if size > 1 else 0 for size, step in zip(shape, strides, strict=False)]


def power_of_2(size: int) -> int:
    """The least power of 2 that is at least `size`: a program holds that many elements."""
    return 1 << (size - 1).bit_length()


def options(elements: int) -> dict[str, Any]:
    """How a program that holds so many elements is launched: 16 of them for each thread."""
    return {"num_warps": max(1, min(16, elements // 512)), "enable_fp_fusion": True}


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Where a launch goes to: Triton launches on the current device, whatever it is given."""
    return torch.cuda.device_of(x)
