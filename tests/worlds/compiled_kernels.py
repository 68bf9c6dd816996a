"""The Triton kernels compiled for a GPU of compute capability 9.0, on a machine without one.

    python -m tests.worlds.compiled_kernels

prints of every launch: the region's operator, and what PTX Triton made of it. It
is a process of its own because Triton is told here that there is such a GPU.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from omniforcing_model.kernels.rotation import Pairs
from omniforcing_model.kernels.triton_operators import KERNELS

TOKENS = 2  # kernels are compiled for the rest of a shape
LENGTH = 7  # of a buffer
# Heads and head_dim of the 19 B shape, and of one with no power of 2 in it.
SHAPES: tuple[tuple[str, int, int, Pairs], ...] = (
    ("video", 32, 128, "split"),
    ("audio", 32, 64, "interleaved"),
    ("odd", 3, 10, "interleaved"),
)


class Hopper:
    """As much of a driver as compiling needs."""

    def get_current_target(self) -> GPUTarget:
        """Compute capability 9.0, warps of 32."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The first GPU."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Nothing is launched on it."""
        return device


def empty(*shape: int) -> Tensor:
    """Of the type the model has on a GPU."""
    return torch.empty(shape, dtype=torch.bfloat16)


def launches(count: int, head_dim: int, pairs: Pairs) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every operator with a call of its kernel."""
    width = count * head_dim
    tables = [torch.empty(TOKENS, count, head_dim) for _ in range(2)]
    turn = tables, pairs == "interleaved"
    three = empty(1, TOKENS, 3 * width).chunk(3, dim=-1)
    x, row, weight = three[0], empty(1, 1, width), empty(width)
    heads = empty(1, TOKENS, count, head_dim).transpose(1, 2)
    slot = *empty(2, 1, count, LENGTH, head_dim), torch.empty(1, TOKENS, dtype=torch.int64)
    weights = [weight, weight]
    arguments: dict[str, tuple[Any, ...]] = {
        "add_norm": (x, x, row, [row] * 4),
        "head_norm": (x, weight, count, *turn),
        "attention_inputs": (three[:2], weights, count, *turn),
        "attention_inputs_kept": (three, weights, count, *turn, *slot),
        "write": (heads, heads, *slot),
        "gate_heads": (heads, empty(1, TOKENS, count)),
        "rotate": (empty(2, 1, count, TOKENS, head_dim), *turn),
        "rotate_into": (empty(2, 1, count, TOKENS, head_dim), *turn, empty(2, *slot[0].shape)),
    }
    for name, values in arguments.items():
        yield name, lambda name=name, values=values: KERNELS[name](*values)
    yield "head_norm", lambda: KERNELS["head_norm"](x, weight, count, [], False)
    yield "add_norm", lambda: KERNELS["add_norm"](x, None, None, [row, row])
    yield "add_norm", lambda: KERNELS["add_norm"](x, x, None, [None, None])


def main() -> None:
    """Compile every kernel that a call of an operator would launch."""
    driver.set_active(Hopper())
    run = JITFunction.run
    made: list[Any] = []

    def compiled(function: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        made.append(run(function, *arguments, grid=grid, warmup=True, **named))

    JITFunction.run = compiled
    found = []
    for shape, count, head_dim, pairs in SHAPES:
        for name, launch in launches(count, head_dim, pairs):
            made.clear()
            launch()
            ptx = "\n".join(kernel.asm["ptx"] for kernel in made)
            found.append(
                {
                    "operator": name,
                    "shape": shape,
                    "kernels": re.findall(r"\.entry (\w+)", ptx),
                    "functions": len(re.findall(r"\.func\b", ptx)),
                    "stack": len(re.findall(r"\.local\b", ptx)),
                    "binary": all("cubin" in kernel.asm for kernel in made),
                    "accesses": re.findall(r"(?:ld|st)\.global[.\w]*", ptx),
                }
            )
    print(json.dumps(found))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
