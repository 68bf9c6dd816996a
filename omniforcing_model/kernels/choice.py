"""Which of several forms of an operation is taken on a CPU: one choice per machine, made elsewhere.

What is fastest depends on the processor: see measure.py, which finds out, and
actors/streaming/machine_kernels.py, which keeps it. Choices differ in the last bits of a result. A
process that has made none takes what needs no compiler.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from omniforcing_model.kernels.native.kernels import MOST_HEAD_DIM, NativeKernels

AttentionForm = Literal["products", "sdpa", "native"]
LinearForm = Literal["packed", "plain"]
RegionsForm = Literal["plain", "native"]


@dataclass(frozen=True)
class KernelChoice:
    """The forms for one dtype.

    attention: two matrix products, PyTorch's own, or compiled here. linear: weights in oneDNN's
    layout, or as they are. regions: what stands between, of PyTorch's operators or compiled here.
    """

    attention: AttentionForm
    linear: LinearForm
    regions: RegionsForm

    @property
    def name(self) -> str:
        """As streams and records name it."""
        return ", ".join(f"{part} {form}" for part, form in asdict(self).items())

    @property
    def is_native(self) -> bool:
        """Whether it takes the compiled library."""
        return "native" in (self.attention, self.regions)


@dataclass(frozen=True)
class MachineKernels:
    """A machine's choice for each dtype; others have the plain forms.

    library: where the compiled library is, if a choice takes it.
    """

    float32: KernelChoice
    bfloat16: KernelChoice
    library: Path | None = None

    def of(self, dtype: torch.dtype) -> KernelChoice:
        """The choice for tensors of `dtype`."""
        return self.bfloat16 if dtype == torch.bfloat16 else self.float32


@cache
def unmeasured() -> MachineKernels:
    """What is taken without having measured: forms that need no compiler.

    Where a CPU has tiles for products (AMX), PyTorch's own attention uses them and is faster.
    """
    attention: AttentionForm = "sdpa" if torch.cpu._is_amx_tile_supported() else "products"
    choice = KernelChoice(attention, "packed", "plain")
    return MachineKernels(choice, choice)


@cache
def _loaded(library: Path) -> NativeKernels:
    return NativeKernels(library)


class _InUse:
    """What this process takes."""

    def __init__(self) -> None:
        self.kernels = unmeasured()
        self.native: NativeKernels | None = None

    def take(self, kernels: MachineKernels) -> None:
        self.native = None if kernels.library is None else _loaded(kernels.library)
        self.kernels = kernels


_IN_USE = _InUse()


def use_kernels(kernels: MachineKernels) -> None:
    """Take these from now on, in the whole process; KernelError if the library does not load."""
    _IN_USE.take(kernels)


def kernels_in_use() -> MachineKernels:
    """What this process takes."""
    return _IN_USE.kernels


@contextmanager
def using_kernels(kernels: MachineKernels) -> Iterator[None]:
    """Take these meanwhile."""
    before = _IN_USE.kernels
    use_kernels(kernels)
    try:
        yield
    finally:
        use_kernels(before)


def choice_for(x: Tensor) -> KernelChoice:
    """The choice for `x`'s dtype."""
    return _IN_USE.kernels.of(x.dtype)


def native_regions(x: Tensor) -> NativeKernels | None:
    """The compiled library, where the regions of tokens like `x` are to be computed by it."""
    native = _IN_USE.native
    if native is None or choice_for(x).regions != "native" or not native.takes(x):
        return None
    return native


def native_attention(queries: Tensor) -> NativeKernels | None:
    """The compiled library, where attention of such queries is to be computed by it."""
    native = _IN_USE.native
    if native is None or choice_for(queries).attention != "native" or not native.takes(queries):
        return None
    if queries.shape[-1] > MOST_HEAD_DIM or queries.shape[-1] % 2:
        return None
    return native
