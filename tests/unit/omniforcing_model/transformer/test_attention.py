"""Attention by two products, a few heads at a time, is PyTorch's."""

import pytest
import torch
from torch.nn import functional

from omniforcing_model.transformer.attention import CACHED_SCORE_BYTES, attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "heads", "tokens", "keys"), [(2, 3, 5, 7), (1, 5, 300, 900)])
def test_products_give_what_pytorch_gives(
    batch: int, heads: int, tokens: int, keys: int, dtype: torch.dtype
) -> None:
    # As the model hands them over: queries token-major, keys and values part of a longer buffer.
    queries = torch.randn(batch, tokens, heads, 16).to(dtype).transpose(1, 2)
    kept, given = torch.randn(2, batch, heads, keys + 9, 16).to(dtype)[:, :, :, :keys]
    with torch.no_grad():
        ours = attend(queries, kept, given)
    exact = functional.scaled_dot_product_attention(queries.double(), kept.double(), given.double())
    rounding = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(ours.double(), exact, atol=rounding)


def test_the_larger_case_takes_several_rounds_of_heads() -> None:
    assert 5 * 300 * 900 * 4 > CACHED_SCORE_BYTES > 2 * 300 * 900 * 2
