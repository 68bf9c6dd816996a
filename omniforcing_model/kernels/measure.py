"""Which forms are fastest on this processor, found out in about a second.

Every form does the same work in turn, on one thread, and the CPU time it takes is counted: other
processes on the machine change that little. The shapes are those of a stream of some hundred tokens
a block, whose products are large enough to fill a core and small enough for its caches.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from omniforcing_model.kernels.attention import attend
from omniforcing_model.kernels.choice import (
    AttentionForm,
    KernelChoice,
    LinearForm,
    MachineKernels,
    RegionsForm,
    using_kernels,
)
from omniforcing_model.kernels.operands import Branch, HeadNorm, ScaleShift
from omniforcing_model.kernels.packed_weights import can_pack, linear, pack_weight
from omniforcing_model.kernels.regions import add_norm, head_norm
from omniforcing_model.kernels.rotation import Rotation

TOKENS, HEADS, HEAD_DIM, KEYS = 288, 8, 64, 1152
WIDTH = HEADS * HEAD_DIM
ROUNDS = 7
SEED = 0

Form = TypeVar("Form", bound=str)


@torch.no_grad()
def measured_kernels(library: Path | None) -> MachineKernels:
    """The choice for this processor; without a compiled library, of the forms that need none."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        float32, bfloat16 = (_choice(dtype, library) for dtype in (torch.float32, torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    needed = library if float32.is_native or bfloat16.is_native else None
    return MachineKernels(float32, bfloat16, needed)


def _choice(dtype: torch.dtype, library: Path | None) -> KernelChoice:
    """The fastest forms for tensors of `dtype`."""
    torch.manual_seed(SEED)
    plain = KernelChoice(attention="sdpa", linear="plain", regions="plain")

    def taking(choice: KernelChoice, work: Callable[[], object]) -> Callable[[], None]:
        def taken() -> None:
            with using_kernels(MachineKernels(choice, choice, library)):
                work()

        return taken

    attention: list[AttentionForm] = ["sdpa", "products"]
    regions: list[RegionsForm] = ["plain"]
    if library is not None:
        attention.append("native")
        regions.append("native")
    return KernelChoice(
        fastest({a: taking(replace(plain, attention=a), _attention(dtype)) for a in attention}),
        fastest(_products(dtype)),
        fastest({r: taking(replace(plain, regions=r), _regions(dtype)) for r in regions}),
    )


def _attention(dtype: torch.dtype) -> Callable[[], object]:
    queries = torch.randn(1, HEADS, TOKENS, HEAD_DIM).to(dtype)
    keys, values = torch.randn(2, 1, HEADS, KEYS, HEAD_DIM).to(dtype)
    return lambda: attend(queries, keys, values)


def _products(dtype: torch.dtype) -> dict[LinearForm, Callable[[], object]]:
    x, weight = torch.randn(1, TOKENS, WIDTH).to(dtype), torch.randn(3 * WIDTH, WIDTH).to(dtype)
    forms: dict[LinearForm, Callable[[], object]] = {"plain": lambda: linear(x, weight, None)}
    if can_pack(weight):
        packed = pack_weight(weight)
        forms["packed"] = lambda: linear(x, packed, None)
    return forms


def _regions(dtype: torch.dtype) -> Callable[[], object]:
    x, values, scale, shift, gate = torch.randn(5, 1, TOKENS, WIDTH).to(dtype)
    norm = HeadNorm(torch.randn(WIDTH).to(dtype), HEADS)
    rotation = Rotation.of(torch.randn(TOKENS, HEADS, HEAD_DIM // 2), "split")
    rows = ScaleShift(scale[:, :1], shift[:, :1])

    def work() -> None:
        add_norm(x, Branch(values, gate[:, :1]), (rows,))
        head_norm(x, norm, rotation)

    return work


def fastest(forms: dict[Form, Callable[[], object]]) -> Form:
    """The name of the one that takes the least CPU time in most rounds."""
    seconds: dict[Form, list[float]] = {name: [] for name in forms}
    for _ in range(1 + ROUNDS):  # the first one warms up
        for name, work in forms.items():
            began = time.thread_time()
            work()
            seconds[name].append(time.thread_time() - began)
    return min(forms, key=lambda name: statistics.median(seconds[name][1:]))
