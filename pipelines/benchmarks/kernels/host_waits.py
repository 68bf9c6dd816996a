"""When the host waits for a GPU, and what it gets where there is none: on the meta device no tensor
has values, so zeros go back, and of a choice of elements all of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from pipelines.benchmarks.kernels.launches import plain_name
from pipelines.benchmarks.kernels.traffic import tensors_in

# The host asks for values, or for a shape that depends on them.
ASK = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
}


def is_copy(operator: OpOverload) -> bool:
    """Whether the operator may lead from the host to the GPU or back."""
    return plain_name(operator) in ("_to_copy", "copy")


def waits(
    operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], gpu: torch.device
) -> bool:
    """Whether the host waits in this call for `gpu`."""
    on_gpu = [tensor.device.type == gpu.type for tensor in tensors_in((args, kwargs))]
    if plain_name(operator) in ASK or _chooses_by_mask(operator, args):
        return any(on_gpu)
    if not is_copy(operator):
        return False
    target = kwargs.get("device")
    if target is not None:
        on_gpu.append(torch.device(target).type == gpu.type)
    is_non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
    return any(on_gpu) and not all(on_gpu) and not is_non_blocking


def stand_in(operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call gives that asks for values of the meta device; None for every other call."""
    answer = ANSWERS.get(plain_name(operator))
    return None if answer is None else answer(operator, args, kwargs)


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "meta"


def _scalar(_: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    del kwargs
    return torch.zeros((), dtype=args[0].dtype).item() if _is_meta(args[0]) else None


def _equal(_: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    del kwargs
    return True if _is_meta(args[0]) else None


def _nonzero(_: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    del kwargs
    first = args[0]
    shape = (first.numel(), first.ndim)
    return first.new_empty(shape, dtype=torch.int64) if _is_meta(first) else None


def _index(operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    del kwargs
    first = args[0]
    if not _is_meta(first) or not _chooses_by_mask(operator, args):
        return None
    masked = sum(index.ndim for index in tensors_in(args[1]))
    return first.new_empty((math.prod(first.shape[:masked]), *first.shape[masked:]))


def _new_copy(_: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    target = torch.device(kwargs.get("device") or args[0].device)
    if not _is_meta(args[0]) or target.type == "meta":
        return None
    return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=target)


def _copy(_: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    del kwargs
    return args[0].zero_() if _is_meta(args[1]) and not _is_meta(args[0]) else None


Answer = Callable[[OpOverload, Sequence[Any], Mapping[str, Any]], Any]
ANSWERS: dict[str, Answer] = {
    "_local_scalar_dense": _scalar,
    "equal": _equal,
    "nonzero": _nonzero,
    "index": _index,
    "_to_copy": _new_copy,
    "copy": _copy,
}


def _chooses_by_mask(operator: OpOverload, args: Sequence[Any]) -> bool:
    """Whether the shape of what is indexed depends on how many values of a mask are True."""
    name = plain_name(operator)
    if name not in ("index", "index_put"):
        return False
    is_filled = name == "index_put" and args[2].numel() == 1
    masks = [i for i in tensors_in(args[1]) if i.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not is_filled
