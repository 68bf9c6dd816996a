"""What the compiled library computes is what PyTorch's operations do."""

import platform

import pytest
import torch
from torch.nn import functional

from omniforcing_model.kernels import plain_regions
from omniforcing_model.kernels.native.kernels import NativeKernels, Turn
from omniforcing_model.kernels.operands import Branch, HeadNorm, ScaleShift
from omniforcing_model.kernels.rotation import Pairs, Rotation
from tests.worlds.native_library import compiled

ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 8e-3}  # relative, of a norm
BOTH = pytest.mark.parametrize("dtype", list(ROUNDING))


@pytest.fixture(
    scope="module",
    params=[
        "native",
        pytest.param("x86-64-v3", marks=pytest.mark.thorough),
        pytest.param("x86-64", marks=pytest.mark.thorough),
    ],
)
def kernels(request):
    march = request.param
    if march != "native" and platform.machine() != "x86_64":
        pytest.skip("another architecture")
    if march == "x86-64-v3" and not torch.cpu._is_avx2_supported():
        pytest.skip("this CPU is older")
    return NativeKernels(compiled(march))


@pytest.fixture(autouse=True)
def streaming():
    with torch.inference_mode():
        yield


def difference(ours, exact):
    """Norm of the difference over the norm."""
    return float((ours.double() - exact).norm() / exact.norm())


def attended(queries, keys, values):
    return functional.scaled_dot_product_attention(queries.double(), keys.double(), values.double())


@BOTH
@pytest.mark.parametrize("queries", [1, 15, 16, 17, 33, 48, 49, 100])
@pytest.mark.parametrize(("keys", "head_dim"), [(1, 16), (63, 8), (64, 64), (65, 20), (130, 32)])
def test_attention_is_pytorchs_for_any_number_of_queries_and_keys(
    kernels, queries, keys, head_dim, dtype
):
    q = torch.randn(2, 3, queries, head_dim).to(dtype)
    k, v = torch.randn(2, 2, 3, keys, head_dim).to(dtype)
    ours = kernels.attend(q, k, v)
    assert ours.shape == q.shape
    assert difference(ours, attended(q, k, v)) < ROUNDING[dtype]


@BOTH
def test_attention_reads_parts_of_buffers_where_they_are(kernels, dtype):
    # As the model hands them over: queries token-major, keys and values of a longer ring.
    q = torch.randn(2, 40, 3, 16).to(dtype).transpose(1, 2)
    k, v = torch.randn(2, 2, 3, 90, 16).to(dtype)[:, :, :, :70]
    assert difference(kernels.attend(q, k, v), attended(q, k, v)) < ROUNDING[dtype]


@BOTH
def test_keys_whose_rows_are_an_odd_number_of_elements_apart_are_read_right(kernels, dtype):
    q = torch.randn(1, 2, 5, 16).to(dtype)
    k, v = torch.randn(2, 1, 2, 9, 17).to(dtype)[..., :16]
    assert difference(kernels.attend(q, k, v), attended(q, k, v)) < ROUNDING[dtype]


@BOTH
def test_attention_comes_out_token_by_token(kernels, dtype):
    q, k, v = torch.randn(3, 1, 2, 5, 16).to(dtype)
    assert kernels.attend(q, k, v).transpose(1, 2).is_contiguous()


@BOTH
@pytest.mark.parametrize("size", [1e-3, 30.0, 3e3])
def test_a_softmax_of_any_size_of_scores_neither_overflows_nor_loses_weight(kernels, dtype, size):
    q, k = (torch.randn(2, 1, 2, 50, 64) * size).to(dtype)
    v = torch.ones(1, 2, 50, 64, dtype=dtype)
    assert torch.allclose(
        kernels.attend(q, k, v), v, rtol=8e-3 if dtype == torch.bfloat16 else 1e-6
    )


@BOTH
def test_a_query_that_is_not_a_number_is_seen_and_spoils_no_other(kernels, dtype):
    q, k, v = torch.randn(3, 1, 2, 20, 16).to(dtype)
    q[0, 1, 7, 3] = torch.nan
    ours = kernels.attend(q, k, v)
    bad = ours.isnan().any(dim=-1).nonzero().tolist()
    assert bad == [[0, 1, 7]]


def test_two_threads_compute_what_one_does(kernels):
    q, k, v = torch.randn(3, 1, 3, 200, 32)
    x, values, gate = torch.randn(3, 1, 33, 64)
    answers = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            answers.append((kernels.attend(q, k, v), *kernels.add_norm(x, values, gate, [None])[1]))
        finally:
            torch.set_num_threads(before)
    for one, two in zip(*answers, strict=True):
        assert torch.equal(one, two)


@BOTH
@pytest.mark.parametrize("pairs", ["split", "interleaved", None])
def test_heads_are_normed_and_turned_as_by_the_plain_region(kernels, dtype, pairs: Pairs | None):
    projected = torch.randn(2, 7, 3 * 96).to(dtype)
    x, weight = projected[..., 96:192], torch.randn(96).to(dtype)
    rotation = turn = None
    if pairs is not None:
        rotation = Rotation.of(torch.randn(7, 4, 12), pairs)
        turn = Turn(rotation.cos, rotation.sin, pairs == "interleaved")
    norm = HeadNorm(weight.double(), 4)
    exact = plain_regions.head_norm(x.double(), norm, rotation)
    ours = kernels.head_norm(x, weight, 4, turn)
    assert ours.shape == exact.shape
    assert difference(ours, exact) < ROUNDING[dtype]


def test_rows_of_a_batch_turn_by_their_own_tables(kernels):
    x, weight = torch.randn(2, 5, 24), torch.ones(24)
    rotation = Rotation.of(torch.randn(2, 5, 3, 4), "split")
    ours = kernels.head_norm(x, weight, 3, Turn(rotation.cos, rotation.sin, False))
    exact = plain_regions.head_norm(x, HeadNorm(weight, 3), rotation)
    assert torch.allclose(ours, exact, atol=1e-6)
    assert not torch.allclose(exact[0], plain_regions.head_norm(x[:1], HeadNorm(weight, 3))[0])


@BOTH
def test_keys_and_values_go_straight_to_their_place(kernels, dtype):
    queries, keys, values = torch.randn(2, 5, 3 * 24).to(dtype).chunk(3, dim=-1)
    ring = torch.zeros(2, 2, 3, 20, 8, dtype=dtype)
    into = ring[0, :, :, 6:11], ring[1, :, :, 6:11]
    weights = [torch.randn(24).to(dtype) for _ in "qk"]
    rotation = Rotation.of(torch.randn(5, 3, 4), "split")
    turn = Turn(rotation.cos, rotation.sin, False)
    apart = kernels.attention_inputs((queries, keys, values), weights, 3, turn, None)
    kept = kernels.attention_inputs((queries, keys, values), weights, 3, turn, into)
    for one, other in zip(apart, kept, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(ring[0, :, :, 6:11], apart[1])
    assert torch.equal(ring[1, :, :, 6:11], values.unflatten(-1, (3, 8)).transpose(1, 2))
    assert ring[:, :, :, :6].eq(0).all()
    assert ring[:, :, :, 11:].eq(0).all()


@BOTH
@pytest.mark.parametrize("gate_tokens", [None, 1, 7])
@pytest.mark.parametrize("row_tokens", [1, 7])
def test_a_sum_and_its_norms_are_the_plain_regions(kernels, dtype, gate_tokens, row_tokens):
    x, values = torch.randn(2, 2, 7, 40).to(dtype)
    gate = None if gate_tokens is None else torch.randn(2, gate_tokens, 40).to(dtype)
    # As modulations come: rows of a larger tensor, of one batch row for all.
    rows = torch.randn(1, row_tokens, 4, 40).to(dtype).expand(2, -1, -1, -1).unbind(dim=2)
    pairs = [ScaleShift(*rows[:2]), ScaleShift(*rows[2:]), None]
    exact_pairs = [p and ScaleShift(*(row.double() for row in p)) for p in pairs]
    branch = Branch(values.double(), None if gate is None else gate.double())
    total, normed = plain_regions.add_norm(x.double(), branch, exact_pairs)
    ours, ours_normed = kernels.add_norm(x, values, gate, pairs)
    for one, exact in zip((ours, *ours_normed), (total, *normed), strict=True):
        assert difference(one, exact) < ROUNDING[dtype]


def test_without_a_branch_the_sum_is_the_tokens_themselves(kernels):
    x = torch.randn(1, 3, 16)
    total, (normed,) = kernels.add_norm(x, None, None, [None])
    assert total is x
    assert torch.allclose(normed, functional.rms_norm(x, (16,), eps=1e-6), atol=1e-6)


def test_gradients_other_types_and_other_devices_are_not_taken(kernels):
    x = torch.zeros(1, 2, 4)
    assert kernels.takes(x)
    assert not kernels.takes(x.double())
    assert not kernels.takes(x.to("meta"))
    with torch.inference_mode(False), torch.enable_grad():
        assert not kernels.takes(x)
