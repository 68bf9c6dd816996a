"""Attention by two products, a few heads at a time, is PyTorch's."""

import math

import pytest
import torch
from torch.nn import functional

from omniforcing_model.transformer.attention import (
    CACHED_SCORE_BYTES,
    AttentionOutput,
    KeysValues,
    attend,
    split_heads,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "heads", "tokens", "keys"), [(2, 3, 5, 7), (1, 5, 300, 900)])
def test_products_give_what_pytorch_gives(
    batch: int, heads: int, tokens: int, keys: int, dtype: torch.dtype
) -> None:
    # As the model hands them over: queries token-major, keys and values part of a longer buffer.
    queries = torch.randn(batch, tokens, heads, 16).to(dtype).transpose(1, 2)
    all_keys, values = torch.randn(2, batch, heads, keys + 9, 16).to(dtype)[:, :, :, :keys]
    with torch.no_grad():
        ours = attend(queries, all_keys, values)
    exact = functional.scaled_dot_product_attention(
        queries.double(), all_keys.double(), values.double()
    )
    rounding = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(ours.double(), exact, atol=rounding)


def test_the_larger_case_takes_several_rounds_of_heads() -> None:
    assert 5 * 300 * 900 * 4 > CACHED_SCORE_BYTES > 2 * 300 * 900 * 2


def test_heads_are_split_in_order() -> None:
    x = torch.arange(12.0).reshape(1, 2, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 2)
    assert heads[0, 1].tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_a_mask_hides_keys() -> None:
    queries, keys, values = torch.randn(3, 1, 2, 4, 8)
    mask = torch.tensor([[True, False, False, False]]).expand(4, 4)
    with torch.no_grad():
        assert torch.allclose(
            attend(queries, keys, values, mask), values[:, :, :1].expand(-1, -1, 4, -1)
        )


def test_a_gate_is_twice_a_sigmoid_of_the_query_sides_input() -> None:
    torch.manual_seed(0)
    plain, gated = AttentionOutput(4, 6, 2), AttentionOutput(4, 6, 2, gated=True)
    gated.to_out.load_state_dict(plain.to_out.state_dict())
    attended, inputs = torch.randn(1, 2, 3, 3), torch.randn(1, 3, 4)
    assert plain.to_gate is None
    gated.to_gate.weight.data.zero_()
    gated.to_gate.bias.data = torch.tensor([0.0, math.log(3)])
    factors = torch.tensor([1.0, 1.5])[None, :, None, None]
    expected = plain.merge(attended * factors, inputs)
    assert torch.allclose(gated.merge(attended, inputs), expected, atol=1e-6)


def test_keys_are_normed_and_values_are_not() -> None:
    torch.manual_seed(0)
    side = KeysValues(4, 6, 2)
    x = torch.randn(1, 3, 4)
    keys, values = side(x)
    whole = keys.transpose(1, 2).flatten(2)
    assert torch.allclose(whole.square().mean(-1), torch.ones(1, 3), atol=1e-3)
    assert torch.allclose(values.transpose(1, 2).flatten(2), side.to_kv(x)[..., 6:])
