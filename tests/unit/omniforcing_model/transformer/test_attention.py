"""The sides of an attention: what is projected, normed and gated."""

import math

import torch

from omniforcing_model.transformer.attention import (
    AttentionOutput,
    KeysValues,
    split_heads,
)


def test_heads_are_split_in_order() -> None:
    x = torch.arange(12.0).reshape(1, 2, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 2)
    assert heads[0, 1].tolist() == [[2.0, 3.0], [8.0, 9.0]]


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
