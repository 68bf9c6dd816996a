"""What the counter says of code whose kernels anybody can count."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.kernels.placement import to_device
from omniforcing_model.kernels.regions import Slot, gate_heads, write
from omniforcing_model.transformer.stream_layer import FeedForward
from omniforcing_model.transformer.stream_parallel import WHOLE
from pipelines.benchmarks.kernels.kernel_counter import META, KernelCounter, KernelCounts

FLOAT_BYTES = 4


def counts_of(work, model: nn.Module | None = None, device: torch.device = META) -> KernelCounts:
    with torch.no_grad(), KernelCounter(model, device) as counts:
        work()
    return counts


def on_gpu(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def test_a_norm_a_product_and_gelu_are_three_kernels() -> None:
    x, weight, bias = on_gpu(2, 6, 8), on_gpu(16, 8), on_gpu(16)

    def work() -> None:
        normed = functional.rms_norm(x, (8,), eps=1e-6)
        functional.gelu(functional.linear(normed, weight, bias), approximate="tanh")

    counts = counts_of(work)
    assert counts.by_kind == {"norm": 1, "product": 1, "elementwise": 1}
    assert counts.kernels == 3
    assert not counts.unknown


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_masked", [False, True])
def test_an_attention_is_one_kernel(dtype: torch.dtype, is_masked: bool) -> None:
    q, k, v = (on_gpu(1, 2, tokens, 8).to(dtype) for tokens in (3, 5, 5))
    mask = on_gpu(3, 5).bool() if is_masked else None
    counts = counts_of(lambda: functional.scaled_dot_product_attention(q, k, v, mask))
    assert counts.by_kind == {"attention": 1}
    assert counts.calls == 1


def test_views_and_memory_are_calls_without_a_kernel() -> None:
    x = on_gpu(2, 6, 8)

    def work() -> None:
        x.chunk(2, dim=-1)[0].transpose(0, 1).unflatten(-1, (2, 2))
        x.new_empty(5)
        torch.empty_like(x[:, 1:3].flatten(0, 0).detach().expand(3, 2, 2, 8))

    counts = counts_of(work)
    assert counts.calls >= 8
    assert counts.kernels == 0


def test_a_norm_of_a_strided_part_copies_it_first() -> None:
    whole = on_gpu(2, 6, 8)
    counts = counts_of(lambda: functional.rms_norm(whole[..., :4], (4,)))
    assert counts.kernels == 2


def test_a_module_is_the_place_of_what_it_launches() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([FeedForward(8, WHOLE), FeedForward(8, WHOLE)])})
    model.to("meta")

    def work() -> None:
        for layer in model["layers"]:  # type: ignore[attr-defined]
            layer(on_gpu(1, 3, 8))

    counts = counts_of(work, model)
    # Both layers go by one name.
    assert counts.by_place == {"layers.up.gelu": 2, "layers.down": 2}


@pytest.mark.parametrize(
    ("wait", "operator"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: int(x.argmax()), "_local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.cpu(), "_to_copy"),
        (lambda x: x.tolist(), "_to_copy"),
        (lambda x: torch.empty(x.shape).copy_(x), "copy"),
        (lambda x: x.copy_(torch.empty(x.shape)), "copy"),
        (lambda x: torch.tensor([1.0], device=x.device), "tensor"),
        (lambda x: x.new_tensor([1.0]), "tensor"),
        (lambda x: torch.ones(3).to(x.device), "_to_copy"),
    ],
)
def test_a_wait_for_the_gpu_is_found(wait, operator: str) -> None:
    x = on_gpu(4)
    counts = counts_of(lambda: wait(x))
    assert [name for name, _ in counts.host_waits] == [operator]


def test_a_copy_that_waits_for_nothing_is_an_upload_alone() -> None:
    counts = counts_of(lambda: to_device(torch.ones(3), META))
    assert (counts.uploads, counts.downloads, counts.kernels) == (1, 0, 0)
    assert not counts.host_waits


def test_work_of_the_host_launches_nothing() -> None:
    counts = counts_of(lambda: (torch.ones(3) * 2).sum().item())
    assert counts.calls == 4
    assert counts.kernels == 0
    assert not counts.host_waits


def test_an_operator_that_the_table_does_not_know_is_one_kernel_and_named() -> None:
    x = on_gpu(4)
    counts = counts_of(lambda: x.cumsum(0))
    assert counts.by_kind == {"other": 1}
    assert counts.unknown == {"aten.cumsum.default": 1}


def test_kernels_read_and_write_their_tensors_once() -> None:
    x, y = on_gpu(4, 8), on_gpu(8)
    counts = counts_of(lambda: x + y)
    assert counts.read_by_kind == {"elementwise": (32 + 8) * FLOAT_BYTES}
    assert counts.written_by_kind == {"elementwise": 32 * FLOAT_BYTES}
    in_place = counts_of(lambda: x.mul_(y.expand(4, 8)))
    assert in_place.read_by_kind == counts.read_by_kind
    assert in_place.written_by_kind == counts.written_by_kind


def test_a_long_buffer_is_charged_with_what_is_written_into_it() -> None:
    buffer, rows = on_gpu(1000, 8), on_gpu(2, 8)
    places = torch.empty(2, dtype=torch.int64, device="meta")

    def work() -> None:
        buffer[places] = rows
        buffer[3:5] = rows

    counts = counts_of(work)
    assert counts.by_kind == {"indexed": 1, "copy": 1}
    assert counts.written_by_kind == {"copy": 16 * FLOAT_BYTES, "indexed": 16 * FLOAT_BYTES}


def test_a_region_is_one_kernel_under_its_own_name() -> None:
    keys = on_gpu(1, 2, 3, 4)
    places = torch.empty(1, 3, dtype=torch.int64, device="meta")
    slot = Slot(on_gpu(1, 2, 100, 4), on_gpu(1, 2, 100, 4), places)

    def work() -> None:
        write(slot, keys, keys)
        gate_heads(keys, on_gpu(1, 3, 2))

    counts = counts_of(work)
    assert counts.by_kind == {"region write": 1, "region gate_heads": 1}
    # Keys and values, not the buffers that they go into.
    assert counts.written_by_kind["region write"] == 2 * 24 * FLOAT_BYTES
    assert not counts.unknown


def test_what_runs_is_counted_too() -> None:
    """On a device that computes, values are real ones."""
    found: list[float] = []
    x = torch.ones(4)
    counts = counts_of(lambda: found.append((x * 2).sum().item()), device=x.device)
    assert found == [8.0]
    assert counts.by_kind == {"elementwise": 1, "reduction": 1}
    assert len(counts.host_waits) == 1
