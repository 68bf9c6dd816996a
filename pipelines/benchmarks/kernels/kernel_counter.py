"""Counts what a piece of code launches on a GPU, by standing between PyTorch and its operators.

Nothing is computed: tensors on the meta device have shapes alone, so the 19B model is counted in
seconds and without memory. Where the code would wait for a value of the GPU, the wait is counted,
and a zero goes back.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.benchmarks.kernels.host_waits import is_copy, stand_in, waits
from pipelines.benchmarks.kernels.known_shapes import KnownShapes
from pipelines.benchmarks.kernels.launches import (
    ATTENTIONS,
    Launches,
    launches_of,
    plain_name,
)
from pipelines.benchmarks.kernels.places import Places
from pipelines.benchmarks.kernels.traffic import Traffic, tensors_in, traffic_of

Kwargs = Mapping[str, Any] | None
META = torch.device("meta")
# They copy values of the host to the GPU and wait; of the meta device no operator would tell.
FROM_VALUES = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
# One kernel on a GPU; the meta device would take them apart before the operators are seen.
WHOLE_ON_A_GPU: dict[Callable[..., Any], OpOverload] = {
    functional.scaled_dot_product_attention: torch.ops.aten.scaled_dot_product_attention.default,
    functional.rms_norm: torch.ops.aten.rms_norm.default,
    torch.rms_norm: torch.ops.aten.rms_norm.default,
}


@dataclass
class KernelCounts:
    """What was counted; keys are kinds and places.

    calls: operators that PyTorch dispatched, those of the host and those without a kernel included.
    host_waits: operator and place of each time that the host waits for the GPU.
    uploads: copies from the host; downloads: to it, waited for or not.
    unknown: operators that were taken for one kernel.
    """

    calls: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_place: Counter[str] = field(default_factory=Counter)
    read_by_kind: Counter[str] = field(default_factory=Counter)
    written_by_kind: Counter[str] = field(default_factory=Counter)
    host_waits: list[tuple[str, str]] = field(default_factory=list)
    uploads: int = 0
    downloads: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def kernels(self) -> int:
        """All of them."""
        return self.by_kind.total()

    def add(self, launches: Launches, place: str, traffic: Traffic) -> None:
        """Count one call's kernels."""
        self.by_kind[launches.kind] += launches.kernels
        self.by_place[place] += launches.kernels
        self.read_by_kind[launches.kind] += traffic.read
        self.written_by_kind[launches.kind] += traffic.written


class KernelCounter:
    """`with KernelCounter(model) as counts:` counts what is inside as on a GPU, under `no_grad`."""

    def __init__(
        self,
        model: nn.Module | None = None,
        device: torch.device = META,
        known: KnownShapes | None = None,
    ) -> None:
        """Count what follows.

        Args:
            model: whose modules are the places.
            device: stands for the GPU.
            known: shapes that another counter has seen.
        """
        self.counts = KernelCounts()
        self._places = Places(model or nn.Module())
        self._device = device
        self._known = known or KnownShapes()
        self._is_inside = False
        self._modes = ExitStack()

    def __enter__(self) -> KernelCounts:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operators(self))
        return self.counts

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._modes.close()

    def whole(
        self,
        operator: OpOverload,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Kwargs,
    ) -> Any:
        """Call `function`, which is one `operator` on a GPU, without looking inside."""
        self._is_inside = True
        try:
            if self._device == META:
                result = _as_a_gpu_lays_it_out(operator, args[0])
            else:
                result = function(*args, **(kwargs or {}))
        finally:
            self._is_inside = False
        self._count(operator, args, kwargs or {}, result)
        return result

    def from_values(self, made: Tensor) -> None:
        """Count the copy of values of the host, of which a tensor was `made`."""
        if self._device == META and self._is_here(made):
            self.counts.calls += 1
            self.counts.uploads += 1
            self.counts.host_waits.append(("tensor", self._places.here()))

    def call(self, operator: OpOverload, args: Sequence[Any], kwargs: Kwargs) -> Any:
        """Call an operator, and count it unless it is part of a whole one."""
        kwargs = kwargs or {}
        if self._is_inside:
            return operator(*args, **kwargs)
        if waits(operator, args, kwargs, self._device):
            self.counts.host_waits.append((plain_name(operator), self._places.here()))
        result = stand_in(operator, args, kwargs)
        if result is None:
            result = self._known.call(operator, args, kwargs)
        self._count(operator, args, kwargs, result)
        return result

    def _count(
        self, operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self.counts.calls += 1
        made = tensors_in(result)
        if operator.is_view or (not made and operator._schema.returns):
            return
        inputs = tensors_in((args, kwargs))
        on_gpu = [tensor.device.type == self._device.type for tensor in (*inputs, *made)]
        if not any(on_gpu):
            return
        if is_copy(operator) and not all(on_gpu):
            self.counts.uploads += on_gpu[-1]
            self.counts.downloads += not on_gpu[-1]
            return
        launches = launches_of(operator, next(iter(inputs), None))
        is_empty = bool(made) and not any(map(Tensor.numel, made))
        if not launches.kernels or is_empty:
            return
        if not launches.is_known:
            self.counts.unknown[str(operator)] += 1
        traffic = traffic_of(operator, args, kwargs, result)
        self.counts.add(launches, self._places.here(), traffic)

    def _is_here(self, tensor: Tensor) -> bool:
        return tensor.device.type == self._device.type


class _Operators(TorchDispatchMode):
    def __init__(self, counter: KernelCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self._counter = counter

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Kwargs = None
    ) -> Any:
        del types
        return self._counter.call(func, args, kwargs)


class _Functions(TorchFunctionMode):
    def __init__(self, counter: KernelCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Kwargs = None
    ) -> Any:
        del types
        operator = WHOLE_ON_A_GPU.get(func)
        if operator is not None:
            return self._counter.whole(operator, func, args, kwargs)
        result = func(*args, **(kwargs or {}))
        if func in FROM_VALUES and not tensors_in(args[-1]):
            self._counter.from_values(result)
        return result


def _as_a_gpu_lays_it_out(operator: OpOverload, first: Tensor) -> Tensor:
    """The result of an operator of `WHOLE_ON_A_GPU`: an attention keeps the layout of its queries,
    so that joining its heads again copies nothing; a norm's is contiguous."""
    if plain_name(operator) in ATTENTIONS:
        return torch.empty_like(first)
    return torch.empty_like(first, memory_format=torch.contiguous_format)
