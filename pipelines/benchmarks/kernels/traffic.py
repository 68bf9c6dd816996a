"""Bytes that one call of an operator reads and writes, from the shapes of its tensors.

Each tensor counts once: what a kernel reads twice may still be in a cache. Axes that are expanded
are read once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch._ops import OpOverload

from pipelines.benchmarks.kernels.launches import INDEXED, REGIONS, plain_name

WRITE_ONLY = {"copy", "fill", "normal", "uniform", "zero"}


class Traffic(NamedTuple):
    """Bytes."""

    read: int
    written: int


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of the elements that differ: expanded axes have one each."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride != 0 or size == 0) * tensor.itemsize


def traffic_of(
    operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Traffic:
    """What a call reads and writes.

    A long buffer that is written into is charged with what comes in, not with its whole length.
    """
    name = plain_name(operator)
    written, read = _inputs(operator, args, kwargs)
    fresh = sum(map(tensor_bytes, _fresh(operator, result)))
    incoming = sum(map(tensor_bytes, read))
    if name in INDEXED and not written:
        chosen = sum(map(tensor_bytes, read[1:]))  # of the table only the chosen rows
        return Traffic(fresh + chosen, fresh)
    if name in INDEXED or operator.namespace == REGIONS:
        return Traffic(incoming, fresh + sum(_into(buffer, read) for buffer in written))
    buffers = sum(map(tensor_bytes, written))
    return Traffic(incoming + (0 if name in WRITE_ONLY else buffers), fresh + buffers)


def _into(buffer: Tensor, read: Sequence[Tensor]) -> int:
    """Bytes that go into a buffer: the largest of what is read in its own type."""
    sizes = [tensor_bytes(tensor) for tensor in read if tensor.dtype == buffer.dtype]
    return min(tensor_bytes(buffer), max(sizes, default=0))


def _inputs(
    operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that are written into, and those that are only read."""
    if not operator._schema.is_mutable:
        return [], tensors_in((args, kwargs))
    written: list[Tensor] = []
    read: list[Tensor] = []
    for place, argument in enumerate(operator._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        (written if is_written else read).extend(tensors_in(value))
    return written, read


def _fresh(operator: OpOverload, result: Any) -> Iterator[Tensor]:
    """Results that are no other name of an argument."""
    returns = operator._schema.returns
    values = result if len(returns) > 1 else (result,)
    for value, declared in zip(values, returns, strict=False):
        if declared.alias_info is None:
            yield from tensors_in(value)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for part in value for tensor in tensors_in(part)]
