"""The one attention: queries on one side, keys and values on the other.

The two sides are separate modules because in a cross-modal attention they belong to different
streams, and in a replica that holds one stream only one of them exists.
q and k are RMS-normed over all heads jointly, then rotated, then split (facts 1.3).
"""

from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.rope import Rotation

NORM_EPS = 1e-6


class Queries(nn.Module):
    """The asking side: query projection before, output projection after."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, inner)
        self.norm_q = nn.RMSNorm(inner, eps=NORM_EPS)
        self.to_out = nn.Linear(inner, width)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """Queries (batch, heads, tokens, head_dim) of `x` (batch, tokens, width)."""
        queries = split_heads(self.norm_q(self.to_q(x)), self.heads)
        return queries if rotation is None else rotation(queries)

    def merge(self, attended: Tensor) -> Tensor:
        """Project what was attended, (batch, heads, tokens, head_dim), back to the stream."""
        projected: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return projected


class KeysValues(nn.Module):
    """The answering side: keys (normed, rotated) and values."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_k = nn.Linear(width, inner)
        self.norm_k = nn.RMSNorm(inner, eps=NORM_EPS)
        self.to_v = nn.Linear(width, inner)

    def forward(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """Keys and values, (batch, heads, tokens, head_dim) each, of `x` (batch, tokens, width)."""
        keys = split_heads(self.norm_k(self.to_k(x)), self.heads)
        values = split_heads(self.to_v(x), self.heads)
        return (keys if rotation is None else rotation(keys)), values


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
    by_head: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return by_head


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v; `mask` (queries, keys) is True where a key is visible."""
    attended: Tensor = functional.scaled_dot_product_attention(queries, keys, values, mask)
    return attended
