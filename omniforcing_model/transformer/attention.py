"""The one attention: queries on one side, keys and values on the other.

In a cross-modal attention the two sides belong to different streams, and in a replica that holds
one stream only one of them exists; so they are separate modules, and only self attention has both.
q and k are RMS-normed over all heads jointly, then split, then rotated (LTX-2). LTX-2.3 scales each
head's output by a gate: 2 * sigmoid of a projection of the query side's input.
"""

from torch import Tensor, nn

from omniforcing_model.kernels.operands import HeadNorm, Slot, join_heads, split_heads
from omniforcing_model.kernels.regions import attention_inputs, gate_heads, head_norm, write
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.transformer.projections import ColumnLinear, HeadsNorm, RowLinear
from omniforcing_model.transformer.stream_parallel import WHOLE, StreamParallel

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]  # (batch, heads, tokens, head_dim) each


class AttentionOutput(nn.Module):
    """The end of every query side: gates per head, and the projection back to the stream."""

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        gated: bool = False,
        parallel: StreamParallel = WHOLE,
    ) -> None:
        super().__init__()
        share = parallel.degree if parallel.cuts_weights else 1
        self.heads = heads // share
        self.to_out = RowLinear(inner, width, parallel)
        self.to_gate = ColumnLinear(width, {"to_gate": heads}, parallel) if gated else None

    def merge(self, attended: Tensor, inputs: Tensor) -> Tensor:
        """Project what was attended back to the stream.

        Args:
            attended: (batch, heads, tokens, head_dim).
            inputs: what the queries were projected from, (batch, tokens, width).
        """
        joined = (
            join_heads(attended)
            if self.to_gate is None
            else gate_heads(attended, self.to_gate(inputs))
        )
        projected: Tensor = self.to_out(joined)
        return projected


class Queries(AttentionOutput):
    """The query side: query projection before, output projection after."""

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        gated: bool = False,
        parallel: StreamParallel = WHOLE,
    ) -> None:
        super().__init__(width, inner, heads, gated, parallel)
        self.to_q = ColumnLinear(width, {"to_q": inner}, parallel)
        self.norm_q = HeadsNorm(inner, parallel)

    def forward(self, x: Tensor) -> Tensor:
        """Queries (batch, heads, tokens, head_dim) of `x` (batch, tokens, width), not rotated."""
        return _by_head(self.to_q(x), self.norm_q, self.heads)


class KeysValues(nn.Module):
    """The key side: keys (normed) and values."""

    def __init__(
        self, width: int, inner: int, heads: int, parallel: StreamParallel = WHOLE
    ) -> None:
        super().__init__()
        share = parallel.degree if parallel.cuts_weights else 1
        self.heads = heads // share
        self.to_kv = ColumnLinear(width, {"to_k": inner, "to_v": inner}, parallel)
        self.norm_k = HeadsNorm(inner, parallel)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (batch, heads, tokens, head_dim) each, of `x` (batch, tokens, width);
        the keys are not rotated."""
        keys, values = self.to_kv(x).chunk(2, dim=-1)
        return _by_head(keys, self.norm_k, self.heads), split_heads(values, self.heads)


class SelfAttention(AttentionOutput):
    """Both sides of the attention of a stream to itself, in one projection."""

    def __init__(
        self, width: int, heads: int, gated: bool = False, parallel: StreamParallel = WHOLE
    ) -> None:
        super().__init__(width, width, heads, gated, parallel)
        self.to_qkv = ColumnLinear(width, dict.fromkeys(("to_q", "to_k", "to_v"), width), parallel)
        self.norm_q = HeadsNorm(width, parallel)
        self.norm_k = HeadsNorm(width, parallel)

    def forward(self, x: Tensor, rotation: Rotation, slot: Slot | None) -> QueriesKeysValues:
        """Queries, keys and values of `x` (batch, tokens, width); with a slot, its buffers, into
        which the last two are written."""
        queries, keys, values = self.to_qkv(x).chunk(3, dim=-1)
        return _inputs((queries, keys, values), (self.norm_q, self.norm_k), rotation, slot)


def cross_inputs(
    query_side: tuple[Queries, Tensor],
    key_side: tuple[KeysValues, Tensor],
    rotation: Rotation,
    slot: Slot | None,
) -> QueriesKeysValues:
    """One stream's part of both cross-modal attentions: its queries for the other stream's keys,
    and its keys and values for the other's queries.

    Args:
        query_side: the module, and its input (batch, tokens, width).
        key_side: the module, and its input, of the same tokens.
        rotation: of these tokens.
        slot: where keys and values are written; its buffers are returned then.
    """
    queries, keys_values = query_side[0], key_side[0]
    keys, values = keys_values.to_kv(key_side[1]).chunk(2, dim=-1)
    projected = (queries.to_q(query_side[1]), keys, values)
    return _inputs(projected, (queries.norm_q, keys_values.norm_k), rotation, slot)


def _inputs(
    projected: tuple[Tensor, Tensor, Tensor],
    norms: tuple[HeadsNorm, HeadsNorm],
    rotation: Rotation,
    slot: Slot | None,
) -> QueriesKeysValues:
    heads = rotation.cos.shape[-2]
    if not norms[0].is_cut:
        of_queries, of_keys = (HeadNorm(norm.weight, heads) for norm in norms)
        return attention_inputs(projected, (of_queries, of_keys), rotation, slot)
    queries, keys = (
        rotation(_by_head(part, norm, heads))
        for part, norm in zip(projected[:2], norms, strict=True)
    )
    values = split_heads(projected[2], heads)
    if slot is None:
        return queries, keys, values
    write(slot, keys, values)
    return queries, slot.keys, slot.values


def _by_head(projected: Tensor, norm: HeadsNorm, heads: int) -> Tensor:
    if norm.is_cut:
        return split_heads(norm(projected), heads)
    return head_norm(projected, HeadNorm(norm.weight, heads))
