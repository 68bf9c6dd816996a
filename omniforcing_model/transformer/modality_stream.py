"""One modality's half of the transformer, layer by layer (LTX-2's block order).

All parameters of a stream are here, also its sides of the two cross-modal attentions: the query
side (queries, output) of one and the key side (keys, values) of the other. A replica that holds one
stream holds one of these and nothing else.
"""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.elementwise import EPS, gelu, rms_norm
from omniforcing_model.transformer.adaln import AdaLayerNormSingle
from omniforcing_model.transformer.attention import KeysValues, Queries, SelfAttention, attend
from omniforcing_model.transformer.attention_view import (
    AttentionView,
    Pathway,
    StreamRotations,
)
from omniforcing_model.transformer.exchange import AudioRun, CrossMessage, VideoRun
from omniforcing_model.transformer.modulation import LayerRows, StreamModulation
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.projections import ColumnLinear, RowLinear
from omniforcing_model.transformer.sink_token import SinkTokens
from omniforcing_model.transformer.stream_parallel import WHOLE, StreamParallel
from omniforcing_model.transformer.text_context import StreamText

StreamName = Literal["video", "audio"]


class Pass(NamedTuple):
    """What one forward pass of a stream reads besides its tokens."""

    modulation: StreamModulation
    text: StreamText
    view: AttentionView
    perturbation: Perturbation


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
    """One stream's part of one transformer block."""

    def __init__(self, config: ModelConfig, name: StreamName, parallel: StreamParallel) -> None:
        super().__init__()
        stream = config.video if name == "video" else config.audio
        width, heads, cross = stream.width, stream.heads, config.audio
        gated, text = config.gated_attention, config.modulated_text
        self.self_attention = SelfAttention(width, heads, gated, parallel)
        self.text_queries = Queries(width, width, heads, gated, parallel)
        self.text_keys = KeysValues(width, width, heads, parallel)
        self.cross_queries = Queries(width, cross.width, cross.heads, gated, parallel)
        self.cross_keys = KeysValues(width, cross.width, cross.heads, parallel)
        self.feed_forward = FeedForward(width, parallel)
        self.table = nn.Parameter(torch.randn(9 if text else 6, width) / width**0.5)
        self.cross_table = nn.Parameter(torch.randn(5, width) / width**0.5)
        self.text_table = nn.Parameter(torch.randn(2, width) / width**0.5) if text else None


class ModalityStream(nn.Module):
    """Everything of one modality: in and out projections, AdaLN, text, layers."""

    def __init__(
        self, config: ModelConfig, name: StreamName, parallel: StreamParallel = WHOLE
    ) -> None:
        super().__init__()
        stream = config.video if name == "video" else config.audio
        self.config = config
        self.name: StreamName = name
        self.parallel = parallel
        self.latent_channels, width = stream.latent_channels, stream.width
        self.proj_in = nn.Linear(self.latent_channels, width)
        self.proj_out = nn.Linear(width, self.latent_channels)
        self.table_out = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.time_embed = AdaLayerNormSingle(width, 9 if config.modulated_text else 6)
        self.cross_embed = AdaLayerNormSingle(width, 4)
        self.gate_embed = AdaLayerNormSingle(width, 1)
        self.prompt_embed = AdaLayerNormSingle(width, 2) if config.modulated_text else None
        if not config.modulated_text:
            self.caption_in = nn.Linear(config.text_width, width)
            self.caption_out = nn.Linear(width, width)
        self.layers = nn.ModuleList(
            StreamLayer(config, name, parallel) for _ in range(config.layers)
        )

    def read_text(self, features: Tensor) -> StreamText:
        """The text in this stream's width, with its keys and values: once per prompt.

        Args:
            features: (batch, text tokens, text_width), from LTX-2.3 on in the stream's own width.
        """
        if not self.config.modulated_text:
            features = self.caption_out(gelu(self.caption_in(features)))
        return StreamText(features, self._layers())

    def modulation(self, sigma: Tensor) -> StreamModulation:
        """AdaLN outputs for sigma (batch, columns), one column per macro-block or one for all."""
        timestep = sigma * self.config.timestep_scale
        within, embedded = self.time_embed(timestep)
        across, _ = self.cross_embed(timestep)
        gate, _ = self.gate_embed(sigma * self.config.gate_timestep_scale)
        prompt = None if self.prompt_embed is None else self.prompt_embed(timestep)[0]
        return StreamModulation(within, across, gate, embedded, prompt)

    def _layers(self) -> list[StreamLayer]:
        return cast("list[StreamLayer]", self.layers)

    def _rotations(self, rotations: StreamRotations) -> StreamRotations:
        """The rotations of the heads and tokens that this process projects."""
        stream = self.config.video if self.name == "video" else self.config.audio
        tokens = self.parallel.tokens(len(rotations.within.cos))
        return StreamRotations(
            rotations.within.part(self.parallel.projected_heads(stream.heads), tokens),
            rotations.across.part(self.parallel.projected_heads(self.config.audio.heads), tokens),
        )

    def _columns(self, of_token: Tensor, device: torch.device) -> Tensor:
        return of_token.to(device)[self.parallel.tokens(len(of_token))]

    def _attend_to_self(
        self, index: int, x: Tensor, rows: LayerRows, run: Pass, rotations: StreamRotations
    ) -> Tensor:
        weakened = index in run.perturbation.self_attention
        if weakened and run.perturbation.kind == "drop":
            return x
        attention = self._layers()[index].self_attention
        pathway: Pathway = "video_self" if self.name == "video" else "audio_self"
        inner = rows.attention(rms_norm(x))
        queries, keys, values = attention(inner, rotations.within)
        if weakened:
            attended = values
        else:
            queries, keys, values = self.parallel.to_heads(queries, keys, values)
            attended = attend(queries, *run.view.read(pathway, index, keys, values))
            attended = self.parallel.to_tokens(attended)
        return torch.addcmul(x, attention.merge(attended, inner), rows.attention_gate)

    def _attend_to_text(
        self, index: int, x: Tensor, rows: LayerRows, run: Pass, columns: Tensor
    ) -> Tensor:
        layer = self._layers()[index]
        inner = rms_norm(x) if rows.text is None else rows.text(rms_norm(x))
        queries = layer.text_queries(inner, None)
        text = run.text.layer(index, run.modulation)
        if len(text) == 1:
            attended = attend(queries, *text[0])
        else:
            counts = torch.bincount(columns, minlength=len(text)).tolist()
            parts = queries.split(counts, dim=2)
            attended = torch.cat(
                [attend(part, *keys_values) for part, keys_values in zip(parts, text, strict=True)],
                dim=2,
            )
        from_text = layer.text_queries.merge(attended, inner)
        return (
            x + from_text if rows.text_gate is None else torch.addcmul(x, from_text, rows.text_gate)
        )

    def _feed_forward(self, index: int, x: Tensor, rows: LayerRows) -> Tensor:
        hidden = self._layers()[index].feed_forward(rows.feed_forward(rms_norm(x)))
        return torch.addcmul(x, hidden, rows.feed_forward_gate)

    def _output(self, x: Tensor, modulation: StreamModulation, columns: Tensor) -> Tensor:
        normed = functional.layer_norm(x, (x.shape[-1],), eps=EPS)
        velocity: Tensor = self.proj_out(modulation.output(self.table_out, columns)(normed))
        return self.parallel.gather_tokens(velocity)


class VideoStream(ModalityStream):
    """The video half; it holds both cross-modal caches and attends for the audio half's queries."""

    def __init__(self, config: ModelConfig, parallel: StreamParallel = WHOLE) -> None:
        super().__init__(config, "video", parallel)

    def run(self, tokens: Tensor, run: Pass) -> VideoRun:
        """Velocity of `tokens` (batch, tokens, channels), one exchange per layer."""
        rotations = self._rotations(run.view.rotations.video)
        columns = self._columns(run.view.token_blocks().video, tokens.device)
        x = self.proj_in(tokens[:, self.parallel.tokens(tokens.shape[1])])
        for index, layer in enumerate(self._layers()):
            rows = run.modulation.rows(index, layer, columns)
            x = self._attend_to_self(index, x, rows, run, rotations)
            x = self._attend_to_text(index, x, rows, run, columns)
            inner = rms_norm(x)
            query_side = rows.audio_to_video(inner)
            keys, values = layer.cross_keys(rows.video_to_audio(inner), rotations.across)
            queries = layer.cross_queries(query_side, rotations.across)
            queries, keys, values = self.parallel.to_heads(queries, keys, values)
            to_audio = run.view.read("video_to_audio", index, keys, values)
            message = yield None
            assert message is not None
            yield attend(message.queries, *to_audio)
            if not run.perturbation.isolate:
                sound = run.view.read("audio_to_video", index, message.keys, message.values)
                attended = self.parallel.to_tokens(attend(queries, *sound))
                from_audio = layer.cross_queries.merge(attended, query_side)
                x = torch.addcmul(x, from_audio, rows.cross_gate)
            x = self._feed_forward(index, x, rows)
        return self._output(x, run.modulation, columns)


class AudioStream(ModalityStream):
    """The audio half, with the sink tokens."""

    def __init__(self, config: ModelConfig, parallel: StreamParallel = WHOLE) -> None:
        super().__init__(config, "audio", parallel)
        self.sinks = SinkTokens(config.layout.sinks, config.audio.width)

    def run(self, tokens: Tensor, run: Pass) -> AudioRun:
        """Velocity of `tokens` (batch, tokens, channels), one exchange per layer."""
        rotations = self._rotations(run.view.rotations.audio)
        columns = self._columns(run.view.token_blocks().audio, tokens.device)
        x = self.proj_in(tokens)
        if run.view.sinks:
            x = self.sinks.prepend(x)
        for index, layer in enumerate(self._layers()):
            rows = run.modulation.rows(index, layer, columns)
            x = self._attend_to_self(index, x, rows, run, rotations)
            x = self._attend_to_text(index, x, rows, run, columns)
            inner = rms_norm(x)
            query_side = rows.video_to_audio(inner)
            keys, values = layer.cross_keys(rows.audio_to_video(inner), rotations.across)
            queries = layer.cross_queries(query_side, rotations.across)
            answer = yield CrossMessage(keys, values, queries)
            if not run.perturbation.isolate:
                from_video = layer.cross_queries.merge(answer, query_side)
                x = torch.addcmul(x, from_video, rows.cross_gate)
            x = self._feed_forward(index, x, rows)
        return self._output(x, run.modulation, columns)[:, run.view.sinks :]
