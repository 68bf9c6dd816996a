"""Operators on the meta device, each case once: all layers of a model ask the same.

The meta device works many shapes out in Python, at a millisecond an operator. They depend on
shapes, strides, types and numbers alone; from the second time on a result is made like the first.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

NEW = -1  # no argument comes back


class _Made(NamedTuple):
    """A new tensor of the meta device."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype

    def again(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class KnownShapes:
    """Calls operators, and remembers the shapes of what they made of tensors of the meta device."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], _Made | tuple[_Made, ...]] = {}

    def call(self, operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What `operator` answers."""
        returned = _returned(operator)
        if returned is None:
            return operator(*args, **kwargs)
        case: list[Any] = [operator]
        if not _describe((args, tuple(kwargs.items())), case):
            return operator(*args, **kwargs)
        made = self._made.get(tuple(case))
        if made is not None:
            if returned != NEW:
                return args[returned]
            return made.again() if isinstance(made, _Made) else tuple(m.again() for m in made)
        result = operator(*args, **kwargs)
        self._remember(tuple(case), result)
        return result

    def _remember(self, case: tuple[Any, ...], result: Any) -> None:
        results = result if isinstance(result, tuple | list) else (result,)
        if not all(isinstance(r, Tensor) and r.device.type == "meta" for r in results):
            return
        made = tuple(_Made(r.shape, r.stride(), r.dtype) for r in results)
        self._made[case] = made[0] if isinstance(result, Tensor) else made


class EachCaseOnce(TorchDispatchMode):
    """`with EachCaseOnce(known):` works out the shapes of what is inside, and no more."""

    def __init__(self, known: KnownShapes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self._known = known

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        return self._known.call(func, args, kwargs or {})


@functools.cache
def _returned(operator: OpOverload) -> int | None:
    """The place of the argument that is written into and comes back, or `NEW` where all results are
    new tensors; None for operators that do something else."""
    schema = operator._schema
    if operator.is_view or not schema.returns:
        return None
    if not schema.is_mutable:
        is_new = all(declared.alias_info is None for declared in schema.returns)
        return NEW if is_new else None
    written = [
        place
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    is_one = (
        len(written) == len(schema.returns) == 1 and not schema.arguments[written[0]].kwarg_only
    )
    return written[0] if is_one and schema.returns[0].alias_info is not None else None


def _describe(value: Any, case: list[Any]) -> bool:
    """Add to `case` all of an argument that a result's shape can depend on; False for a tensor of
    another device than meta."""
    if isinstance(value, Tensor):
        case += (value.shape, value.stride(), value.dtype)
        return value.device.type == "meta"
    if isinstance(value, tuple | list):
        case.append(len(value))
        return all(_describe(part, case) for part in value)
    case += (type(value), value)
    return True
