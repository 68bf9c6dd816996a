"""softmax(q k^T / sqrt(head_dim)) v, in the form that the machine's choice names (choice.py)."""

import torch
from torch import Tensor
from torch.nn import functional

from omniforcing_model.kernels.choice import choice_for, native_attention

CACHED_SCORE_BYTES = 3 << 20  # of scores at a time: they stay in a cache between the products


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of (batch, heads, tokens, head_dim) each.

    Only without a mask and gradients, on a CPU, is there a choice.

    Args:
        queries: any number of tokens.
        keys: as many as values.
        values: of the keys.
        mask: (queries, keys), or with axes for batch and heads in front; True where a key is
            visible.
    """
    if mask is None:
        native = native_attention(queries)
        if native is not None:
            return native.attend(queries, keys, values)
        if _has_products(queries):
            return by_products(queries, keys, values)
    attended: Tensor = functional.scaled_dot_product_attention(queries, keys, values, mask)
    return attended


def _has_products(queries: Tensor) -> bool:
    return (
        queries.device.type == "cpu"
        and not torch.is_grad_enabled()
        and choice_for(queries).attention == "products"
    )


def by_products(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention as two matrix products: PyTorch's own kernel multiplies small tiles, and bfloat16
    in float32.

    A few heads at a time, whose scores, in the type of the queries, share one buffer.
    """
    batch, heads, tokens, head_dim = queries.shape
    flat_queries, flat_values = queries.flatten(0, 1), values.flatten(0, 1)
    transposed_keys = keys.flatten(0, 1).mT
    score_bytes = tokens * keys.shape[2] * queries.element_size()
    together = max(1, min(len(flat_queries), CACHED_SCORE_BYTES // max(1, score_bytes)))
    buffer = queries.new_empty(together, tokens, keys.shape[2])
    attended = queries.new_empty(flat_queries.shape)
    for first in range(0, len(flat_queries), together):
        part = slice(first, first + together)
        scores = buffer[: len(flat_queries[part])]
        # The buffer is not read: beta is 0.
        torch.baddbmm(
            scores,
            flat_queries[part],
            transposed_keys[part],
            beta=0,
            alpha=head_dim**-0.5,
            out=scores,
        )
        torch.softmax(scores, dim=-1, out=scores)
        torch.bmm(scores, flat_values[part], out=attended[part])
    by_head: Tensor = attended.unflatten(0, (batch, heads))
    return by_head
