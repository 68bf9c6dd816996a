"""One stream's part of one transformer block, in two segments around the exchange (LTX-2's order).

`before`: self attention, text, and what goes to the other stream: queries for its keys, keys and
values for its queries. `after`: what was heard of it, and feed forward. Both cross-modal attentions
read the states before either update, and both are computed where the video stream is, whose keys
are many (exchange.py).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.attention import attend
from omniforcing_model.kernels.operands import Branch, Slot
from omniforcing_model.kernels.plain_regions import add
from omniforcing_model.kernels.regions import add_norm, write
from omniforcing_model.transformer.attention import (
    KeysValues,
    Queries,
    SelfAttention,
    cross_inputs,
)
from omniforcing_model.transformer.attention_view import (
    AttentionView,
    KeysValuesMask,
    Pathway,
    StreamRotations,
    TokenColumns,
)
from omniforcing_model.transformer.modulation import LayerRows, Modulation
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.projections import ColumnLinear, RowLinear
from omniforcing_model.transformer.stream_parallel import StreamParallel
from omniforcing_model.transformer.text_context import Text

StreamName = Literal["video", "audio"]


class Pass(NamedTuple):
    """What one forward pass of a stream reads besides its tokens, of the tokens it computes."""

    modulation: Modulation
    text: Text
    view: AttentionView
    perturbation: Perturbation
    rotations: StreamRotations
    columns: TokenColumns


class Residual(NamedTuple):
    """A stream between two layers: `tokens` (batch, tokens, width) and what is still to be added.

    The sum is made together with the norm that follows.
    """

    tokens: Tensor
    branch: Branch | None = None

    def settled(self) -> Tensor:
        """The sum."""
        return add(self.tokens, self.branch)

    def parts(self) -> tuple[Tensor, ...]:
        """Its tensors: tokens alone, or tokens, values and gate of a branch."""
        if self.branch is None:
            return (self.tokens,)
        assert self.branch.gate is not None, "a layer ends with a gated branch"
        return (self.tokens, self.branch.values, self.branch.gate)

    @classmethod
    def of(cls, tokens: Tensor, *branch: Tensor) -> "Residual":
        """The residual whose `parts` these are."""
        return cls(tokens, Branch(*branch) if branch else None)


class CrossMessage(NamedTuple):
    """A stream's part of both cross-modal attentions: (batch, heads, own tokens, head_dim) each.

    Its keys and values are read by the other stream's queries.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor


class MidLayer(NamedTuple):
    """A stream in the middle of a layer, at the exchange.

    inner: what its cross-modal queries were projected from.
    """

    tokens: Tensor
    inner: Tensor
    cross: CrossMessage


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear, four times as wide in the middle."""

    def __init__(self, width: int, parallel: StreamParallel) -> None:
        super().__init__()
        self.up = ColumnLinear(width, {"up": 4 * width}, parallel)
        self.down = RowLinear(4 * width, width, parallel)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        hidden: Tensor = self.down(self.up.gelu(x))
        return hidden


class StreamLayer(nn.Module):
    """Layer number `index` of one stream."""

    def __init__(
        self, config: ModelConfig, name: StreamName, index: int, parallel: StreamParallel
    ) -> None:
        super().__init__()
        stream = config.video if name == "video" else config.audio
        width, heads, cross = stream.width, stream.heads, config.audio
        gated, text = config.gated_attention, config.modulated_text
        self.name, self.index, self.parallel = name, index, parallel
        self.self_attention = SelfAttention(width, heads, gated, parallel)
        self.text_queries = Queries(width, width, heads, gated, parallel)
        self.text_keys = KeysValues(width, width, heads, parallel)
        self.cross_queries = Queries(width, cross.width, cross.heads, gated, parallel)
        self.cross_keys = KeysValues(width, cross.width, cross.heads, parallel)
        self.feed_forward = FeedForward(width, parallel)
        self.table = nn.Parameter(torch.randn(9 if text else 6, width) / width**0.5)
        self.cross_table = nn.Parameter(torch.randn(5, width) / width**0.5)
        self.text_table = nn.Parameter(torch.randn(2, width) / width**0.5) if text else None

    def before(self, x: Residual, run: Pass, slot: Slot | None = None) -> MidLayer:
        """From the layer's input to the exchange.

        `slot`: where this process keeps the keys and values that the other stream's queries read,
        if it does.
        """
        rows = self._rows(run)
        x = self._attend_to_text(self._attend_to_self(x, rows, run), rows, run)
        modulations = (rows.audio_to_video, rows.video_to_audio)
        if self.name == "audio":
            modulations = (rows.video_to_audio, rows.audio_to_video)
        tokens, (inner, key_side) = add_norm(*x, modulations)
        parts = cross_inputs(
            (self.cross_queries, inner),
            (self.cross_keys, key_side),
            run.rotations.across,
            None if self.parallel.cuts_tokens else slot,
        )
        queries, keys, values = self.parallel.to_heads(*parts)
        if slot is not None and self.parallel.cuts_tokens:
            write(slot, keys, values)
        return MidLayer(tokens, inner, CrossMessage(queries, keys, values))

    def answer(self, at: MidLayer, message: CrossMessage, run: Pass) -> Tensor:
        """What the audio stream's queries attend to in the video stream, which computes it.

        (batch, own heads, audio tokens, head_dim).
        """
        keys_values = run.view.read("video_to_audio", self.index, at.cross.keys, at.cross.values)
        return attend(message.queries, *keys_values)

    def keep(self, message: CrossMessage, run: Pass) -> None:
        """Write what came from another process into the cache, which is the video stream's."""
        slot = run.view.slot("audio_to_video", self.index)
        if slot is not None:
            write(slot, message.keys, message.values)

    def hear(self, at: MidLayer, message: CrossMessage, run: Pass) -> Tensor:
        """What the video stream's queries attend to in the audio stream.

        (batch, heads, own video tokens, head_dim).
        """
        keys_values = run.view.read("audio_to_video", self.index, message.keys, message.values)
        return self.parallel.to_tokens(attend(at.cross.queries, *keys_values))

    def after(self, at: MidLayer, heard: Tensor | None, run: Pass) -> Residual:
        """From the exchange to the next layer's input; `heard` is None where streams are apart."""
        rows = self._rows(run)
        branch = None
        if heard is not None:
            branch = Branch(self.cross_queries.merge(heard, at.inner), rows.cross_gate)
        tokens, (inner,) = add_norm(at.tokens, branch, (rows.feed_forward,))
        return Residual(tokens, Branch(self.feed_forward(inner), rows.feed_forward_gate))

    def _rows(self, run: Pass) -> LayerRows:
        return run.modulation.rows(self.index, self, run.columns.of_token)

    def _attend_to_self(self, x: Residual, rows: LayerRows, run: Pass) -> Residual:
        weakened = self.index in run.perturbation.self_attention
        if weakened and run.perturbation.kind == "drop":
            return x
        tokens, (inner,) = add_norm(*x, (rows.attention,))
        pathway: Pathway = "video_self" if self.name == "video" else "audio_self"
        slot = None if weakened else run.view.slot(pathway, self.index)
        inline = None if self.parallel.cuts_tokens else slot
        parts = self.self_attention(inner, run.rotations.within, inline)
        if weakened:
            attended = parts[2]
        else:
            queries, keys, values = self.parallel.to_heads(*parts)
            if slot is not None and inline is None:
                write(slot, keys, values)
            read: KeysValuesMask = run.view.read(pathway, self.index, keys, values)
            attended = self.parallel.to_tokens(attend(queries, *read))
        branch = Branch(self.self_attention.merge(attended, inner), rows.attention_gate)
        return Residual(tokens, branch)

    def _attend_to_text(self, x: Residual, rows: LayerRows, run: Pass) -> Residual:
        tokens, (inner,) = add_norm(*x, (rows.text,))
        queries = self.text_queries(inner)
        text = run.text.layer(self.index, run.modulation)
        if len(text) == 1:
            attended = attend(queries, *text[0])
        else:
            parts = queries.split(list(run.columns.counts), dim=2)
            attended = torch.cat(
                [attend(part, *keys_values) for part, keys_values in zip(parts, text, strict=True)],
                dim=2,
            )
        branch = Branch(self.text_queries.merge(attended, inner), rows.text_gate)
        return Residual(tokens, branch)
