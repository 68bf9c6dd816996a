"""Which form of a region runs where, and that both are the same region."""

from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from omniforcing_model.kernels import operators, plain_regions, regions
from omniforcing_model.kernels.operands import Branch, HeadNorm, ScaleShift, Slot
from omniforcing_model.kernels.region_list import REGIONS
from omniforcing_model.kernels.rotation import Rotation

ROWS, TOKENS, HEADS, HEAD_DIM = 2, 5, 3, 8
WIDTH = HEADS * HEAD_DIM


class Calls(TorchDispatchMode):
    """Names of the operators that are called, views apart."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def rotation(*batch):
    return Rotation.of(torch.randn(*batch, TOKENS, HEADS, HEAD_DIM // 2), "split")


def slot():
    places = torch.stack([torch.randperm(9)[:TOKENS] for _ in range(ROWS)])
    return Slot(*torch.zeros(2, ROWS, HEADS, 9, HEAD_DIM), places)


def product(parts):
    return torch.randn(ROWS, TOKENS, parts * WIDTH).chunk(parts, dim=-1)


def norms():
    return HeadNorm(torch.randn(WIDTH), HEADS), HeadNorm(torch.randn(WIDTH), HEADS)


def modulation():
    return ScaleShift(*torch.randn(2, ROWS, 1, WIDTH))


def by_head():
    return torch.randn(ROWS, TOKENS, HEADS, HEAD_DIM).transpose(1, 2)


# Each a region and its arguments, by the operator it takes.
CASES = {
    "add_norm": lambda: (
        regions.add_norm,
        product(1)[0],
        Branch(product(1)[0], torch.randn(ROWS, 1, WIDTH)),
        [modulation(), modulation()],
    ),
    "head_norm": lambda: (regions.head_norm, product(2)[1], norms()[0], rotation()),
    "attention_inputs": lambda: (regions.attention_inputs, product(3), norms(), rotation(ROWS)),
    "attention_inputs_kept": lambda: (
        regions.attention_inputs,
        product(3),
        norms(),
        rotation(),
        slot(),
    ),
    "write": lambda: (regions.write, slot(), by_head(), by_head()),
    "gate_heads": lambda: (regions.gate_heads, by_head(), torch.randn(ROWS, TOKENS, HEADS)),
    "rotate": lambda: (regions.rotate, by_head(), rotation()),
    "rotate_into": lambda: (regions.rotate, by_head(), rotation(), by_head()),
}


def moved(value, device):
    """`value` with its tensors on `device`."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
    if isinstance(value, Rotation):
        return Rotation(moved(value.cos, device), moved(value.sin, device), value.pairs)
    if isinstance(value, tuple | list):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def tensors(value):
    """All tensors in a region's result or arguments."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.fixture
def on_cpu(monkeypatch):
    """Operators on the CPU, which are plain there."""
    monkeypatch.setattr(operators, "DEVICES", {"cpu", "meta"})


@pytest.mark.parametrize("name", operators.OPERATORS)
@torch.no_grad()
def test_a_region_is_one_call_on_the_meta_device_and_returns_what_it_does_on_a_cpu(name):
    function, *arguments = CASES[name]()
    shapes = moved(arguments, "meta")
    with Calls() as calls:
        likes = tensors(function(*shapes))
    assert calls.names == [f"omniforcing::{name}"]
    results = tensors(function(*arguments))
    assert [x.shape for x in likes] == [x.shape for x in results]
    assert [x.stride() for x in likes] == [x.stride() for x in results]
    assert [x.dtype for x in likes] == [x.dtype for x in results]


@pytest.mark.parametrize("name", operators.OPERATORS)
@torch.no_grad()
def test_an_operator_is_the_plain_form(name, on_cpu, monkeypatch):
    torch.manual_seed(1)
    function, *arguments = CASES[name]()
    with Calls() as calls:
        by_operator = [*tensors(function(*arguments)), *tensors(arguments)]
    assert calls.names == [f"omniforcing::{name}"]
    monkeypatch.setattr(operators, "DEVICES", set())
    torch.manual_seed(1)
    function, *arguments = CASES[name]()
    with Calls() as calls:
        plain = [*tensors(function(*arguments)), *tensors(arguments)]
    assert not [called for called in calls.names if called.startswith("omniforcing")]
    for one, other in zip(by_operator, plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.thorough
@pytest.mark.parametrize("name", operators.OPERATORS)
@torch.no_grad()
def test_a_region_is_compiled_without_a_break(name, on_cpu):
    function, *arguments = CASES[name]()
    wanted = [x.clone() for x in tensors(function(*arguments))]
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for one, other in zip(tensors(compiled(*arguments)), wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.thorough
@pytest.mark.parametrize("name", operators.OPERATORS)
@torch.no_grad()
def test_an_operator_changes_what_its_schema_says_and_nothing_else(name, on_cpu):
    function, *arguments = CASES[name]()
    seen = {}

    class Kept(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == operators.NAMESPACE:
                seen["call"] = func, args
            return func(*args, **(kwargs or {}))

    with Kept():
        function(*arguments)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    assert set(torch.library.opcheck(*seen["call"], test_utils=tests).values()) == {"SUCCESS"}


def test_gradients_pass_through_the_plain_form(on_cpu):
    x = product(1)[0].requires_grad_()
    with Calls() as calls:
        total, (normed,) = regions.add_norm(x, Branch(x, None), [modulation()])
    assert "omniforcing::add_norm" not in calls.names
    (total.sum() + normed.sum()).backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 2, 8, dtype=torch.float64),
        torch.randn(1, 2, regions.MOST_ELEMENTS + 1),
        torch.randn(1, 8, 2).transpose(1, 2),
    ],
    ids=["float64", "too wide", "not in one piece"],
)
@torch.no_grad()
def test_what_no_kernel_takes_is_plain(x, on_cpu):
    with Calls() as calls:
        total, (normed,) = regions.add_norm(x, None, [None])
    assert total is x
    assert torch.equal(normed, plain_regions.rms_norm(x))
    assert "omniforcing::add_norm" not in calls.names


def test_every_operator_is_listed_with_a_region_and_its_kernels():
    assert {name for region in REGIONS for name in region.operators} == set(operators.OPERATORS)
    for region in REGIONS:
        assert callable(getattr(regions, region.function))
        for source in region.sources:
            file, kernel = source.split(":")
            text = (Path(regions.__file__).parent / file).read_text(encoding="utf-8")
            assert f"@triton.jit\ndef {kernel}(" in text


def copied(value, dtype, device):
    """`value` on `device`, its tokens in `dtype`, in the same order of memory."""
    if isinstance(value, torch.Tensor):
        kind = dtype if value.is_floating_point() else value.dtype
        copy = torch.empty_strided(value.shape, value.stride(), dtype=kind, device=device)
        return copy.copy_(value)
    if isinstance(value, Rotation):
        return Rotation(value.cos.to(device), value.sin.to(device), value.pairs)
    if isinstance(value, tuple | list):
        parts = [copied(part, dtype, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def launched(run):
    """Names of the kernels that `run` launches."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", operators.OPERATORS)
@torch.no_grad()
def test_on_a_gpu_a_region_is_one_kernel_and_a_graph_of_it_the_plain_form(name, dtype):
    function, *arguments = CASES[name]()
    there, here = copied(arguments, dtype, "cpu"), copied(arguments, dtype, "cuda")
    function(*here)  # compiles
    assert len(launched(lambda: function(*here))) == 1
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = tensors(function(*here))  # nothing is computed before it is replayed
    graph.replay()
    found = [*results, *tensors(here)]
    wanted = [*tensors(function(*there)), *tensors(there)]
    rounding = 1e-5 if dtype == torch.float32 else 4e-2
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one.cpu().float(), other.float(), rtol=rounding, atol=rounding)
