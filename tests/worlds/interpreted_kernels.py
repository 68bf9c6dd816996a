"""The Triton kernels in Triton's interpreter, on a CPU, against the plain forms.

    TRITON_INTERPRET=1 python -m tests.worlds.interpreted_kernels

prints, for every case and type, how far the kernel's and the plain form's results are from those of
the same numbers in float64, and how many kernels ran. It is a process of its own because Triton
reads the variable when it is imported.
"""

import itertools
import json
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from triton.runtime import interpreter

from omniforcing_model.kernels import operators, regions
from omniforcing_model.kernels.operands import Branch, HeadNorm, ScaleShift, Slot
from omniforcing_model.kernels.rotation import Pairs, Rotation
from omniforcing_model.kernels.triton_operators import KERNELS

ROWS, TOKENS = 2, 3
HEADS = ((4, 16), (3, 10))  # heads and head_dim, powers of 2 and not
PAIRS: tuple[Pairs, ...] = ("split", "interleaved")
GATES = ("no branch", "no gate", "a row", "one row", "tokens")
# The interpreter rounds to float16 as a GPU does; to bfloat16 it cuts off.
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Draw:
    """Random tensors, the same in every run: of `dtype`, or its numbers in float64."""

    def __init__(self, dtype: torch.dtype, exact: bool) -> None:
        self._dtype = dtype
        self._exact = exact
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=self._generator).to(self._dtype)
        return drawn.double() if self._exact else drawn

    def product(self, parts: int, width: int) -> tuple[Tensor, ...]:
        """Strided parts of one product, (rows, tokens, width) each."""
        return self(ROWS, TOKENS, parts * width).chunk(parts, dim=-1)

    def rotation(self, pairs: Pairs, *shape: int) -> Rotation:
        """Of tables of this shape, ((rows,) tokens, heads, head_dim)."""
        angles = torch.randn((*shape[:-1], shape[-1] // 2), generator=self._generator)
        return Rotation.of(angles.double(), pairs)

    def slot(self, heads: int, head_dim: int) -> Slot:
        """Places in no order, differing by row, in one layer of a buffer of two."""
        length = TOKENS + 4
        buffers = (self(2, ROWS, heads, length, head_dim)[1] for _ in range(2))
        order = [torch.randperm(length, generator=self._generator)[:TOKENS] for _ in range(ROWS)]
        return Slot(*buffers, torch.stack(order))


Case = Callable[[Draw], tuple[Tensor, ...]]


def added(width: int, gate: str, modulations: int) -> Case:
    """A sum, its norm, and that under so many modulations; 0: the norm itself."""

    def run(draw: Draw) -> tuple[Tensor, ...]:
        x, values, _ = draw.product(3, width)
        gates = {"a row": draw(ROWS, 1, width), "one row": draw(1, 1, width)}
        gates["tokens"] = draw(ROWS, 3, TOKENS, width)[:, 1]
        scale, shift, other = draw(ROWS, 1, 3, width).unbind(2)
        rows = [ScaleShift(scale, shift), ScaleShift(other, draw(ROWS, TOKENS, width))]
        branch = None if gate == "no branch" else Branch(values, gates.get(gate))
        total, normed = regions.add_norm(x, branch, rows[:modulations] or [None])
        return total, *normed

    return run


def normed(heads: int, head_dim: int, pairs: Pairs | None) -> Case:
    """Heads of one part of a product."""

    def run(draw: Draw) -> tuple[Tensor, ...]:
        width = heads * head_dim
        rotation = None if pairs is None else draw.rotation(pairs, TOKENS, heads, head_dim)
        norm = HeadNorm(draw(width), heads)
        return (regions.head_norm(draw.product(2, width)[1], norm, rotation),)

    return run


def inputs(heads: int, head_dim: int, pairs: Pairs, kept: bool, by_row: bool) -> Case:
    """Queries, keys and values of one product, or the buffers they are kept in."""

    def run(draw: Draw) -> tuple[Tensor, ...]:
        width = heads * head_dim
        table = (ROWS, TOKENS, heads, head_dim) if by_row else (TOKENS, heads, head_dim)
        norms = HeadNorm(draw(width), heads), HeadNorm(draw(width), heads)
        slot = draw.slot(heads, head_dim) if kept else None
        three = draw.product(3, width)
        return regions.attention_inputs(three, norms, draw.rotation(pairs, *table), slot)

    return run


def written(heads: int, head_dim: int) -> Case:
    """Buffers after keys and values of a message have been written."""

    def run(draw: Draw) -> tuple[Tensor, ...]:
        slot = draw.slot(heads, head_dim)
        regions.write(slot, *draw(2, ROWS, heads, TOKENS, head_dim))
        return slot[:2]

    return run


def gated(heads: int, head_dim: int) -> Case:
    """Heads, token-major as attention returns them, under gates."""

    def run(draw: Draw) -> tuple[Tensor, ...]:
        attended = draw(ROWS, TOKENS, heads, head_dim).transpose(1, 2)
        return (regions.gate_heads(attended, draw(ROWS, TOKENS, heads)),)

    return run


def turned(heads: int, head_dim: int, pairs: Pairs, table: str, into: bool) -> Case:
    """Keys of two layers, or of one; `into` the first tokens of a longer buffer."""

    def run(draw: Draw) -> tuple[Tensor, ...]:
        tables = {"tokens": (TOKENS,), "one": (1,), "by row": (ROWS, TOKENS)}
        rotation = draw.rotation(pairs, *tables[table], heads, head_dim)
        keys = draw(2, ROWS, heads, TOKENS, head_dim)
        if not into:
            return (regions.rotate(keys[1] if table == "one" else keys, rotation),)
        buffer = draw(2, ROWS, heads, TOKENS + 3, head_dim)
        regions.rotate(keys, rotation, buffer[:, :, :, :TOKENS])
        return (buffer,)

    return run


def cases() -> Iterator[tuple[str, Case]]:
    """Every case under its name, whose first word is the region's."""
    sizes = [*itertools.product((64,), GATES, (0, 1, 2)), *itertools.product((40,), GATES, (2,))]
    for width, gate, modulations in sizes:
        yield f"add_norm {width}, {gate}, {modulations}", added(width, gate, modulations)
    for heads, head_dim in HEADS:
        size = f"{heads} x {head_dim}"
        yield f"head_norm {size}", normed(heads, head_dim, None)
        yield f"write {size}", written(heads, head_dim)
        yield f"gate_heads {size}", gated(heads, head_dim)
        for pairs in PAIRS:
            yield f"head_norm {size} {pairs}", normed(heads, head_dim, pairs)
            for kept, by_row in ((False, False), (True, False), (True, True)):
                name = f"attention_inputs {size} {pairs}, kept: {kept}, by row: {by_row}"
                yield name, inputs(heads, head_dim, pairs, kept, by_row)
            for table, into in (("tokens", False), ("one", False), ("one", True), ("by row", True)):
                name = f"rotate {size} {pairs}, table: {table}, into a buffer: {into}"
                yield name, turned(heads, head_dim, pairs, table, into)


def errors(results: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """The largest and the mean distance, relative where numbers are above 1."""
    apart = [
        (one.double() - other).abs() / other.abs().clamp(min=1)
        for one, other in zip(results, exact, strict=True)
    ]
    return [max(x.max().item() for x in apart), max(x.mean().item() for x in apart)]


@torch.no_grad()
def main() -> None:
    """Run every case in every type."""
    launches = 0
    launch = interpreter.GridExecutor.__call__

    def counted(executor: interpreter.GridExecutor, *arguments: object, **named: object) -> None:
        nonlocal launches
        launches += 1
        launch(executor, *arguments, **named)

    interpreter.GridExecutor.__call__ = counted
    kernels = torch.library.Library(operators.NAMESPACE, "IMPL")
    for name, kernel in KERNELS.items():
        kernels.impl(name, kernel, "CPU", allow_override=True)
    found = {}
    for (name, case), (kind, dtype) in itertools.product(cases(), TYPES.items()):
        exact, plain = case(Draw(dtype, exact=True)), case(Draw(dtype, exact=False))
        launches = 0
        operators.DEVICES.add("cpu")
        fused = case(Draw(dtype, exact=False))
        operators.DEVICES.remove("cpu")
        found[f"{name}, {kind}"] = {
            "launches": launches,
            "kernel": errors(fused, exact),
            "plain": errors(plain, exact),
            "strides": [x.stride() for x in fused] == [x.stride() for x in plain],
        }
    print(json.dumps(found))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
