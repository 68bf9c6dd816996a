"""One modality's half of the transformer, layer by layer (facts 1.2 and 1.3).

All parameters of a stream are here, also its sides of the two cross-modal attentions: the side that
asks (queries, output) and the side that answers (keys, values). A replica that holds one stream
holds one of these and nothing else.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.adaln import AdaLayerNormSingle
from omniforcing_model.attention import NORM_EPS, KeysValues, Queries, attend
from omniforcing_model.attention_view import AttentionView, Pathway, Seen
from omniforcing_model.config import ModelConfig
from omniforcing_model.exchange import AudioRun, CrossMessage, VideoRun
from omniforcing_model.sink_token import SinkTokens

StreamName = Literal["video", "audio"]
TextKeys = Sequence[tuple[Tensor, Tensor]]  # per layer: keys, values

# Rows of the cross-modal table are scale before shift, unlike the six-row table (facts 1.2).
A2V_ROWS = (0, 1)
V2A_ROWS = (2, 3)


def norm(x: Tensor) -> Tensor:
    """RMSNorm without a weight."""
    return functional.rms_norm(x, (x.shape[-1],), eps=NORM_EPS)


class Modulation(NamedTuple):
    """AdaLN outputs of one forward pass, (batch, n, rows, width): shared by all layers."""

    within: Tensor
    across: Tensor
    gate: Tensor
    embedded: Tensor
    token_blocks: Tensor

    def rows(self, output: Tensor, table: Tensor) -> Sequence[Tensor]:
        """Table plus AdaLN output, one (batch, tokens or 1, width) tensor per row."""
        rows = output + table.to(output.dtype)
        if rows.shape[1] > 1:
            rows = rows[:, self.token_blocks]
        return rows.unbind(dim=2)


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear, four times as wide in the middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        hidden: Tensor = self.down(functional.gelu(self.up(x), approximate="tanh"))
        return hidden


class StreamLayer(nn.Module):
    """One stream's part of one transformer block."""

    def __init__(self, config: ModelConfig, name: StreamName) -> None:
        super().__init__()
        stream = config.video if name == "video" else config.audio
        width, heads, cross = stream.width, stream.heads, config.audio.width
        self.self_queries = Queries(width, width, heads)
        self.self_keys = KeysValues(width, width, heads)
        self.text_queries = Queries(width, width, heads)
        self.text_keys = KeysValues(width, width, heads)
        self.cross_queries = Queries(width, cross, config.audio.heads)
        self.cross_keys = KeysValues(width, cross, config.audio.heads)
        self.feed_forward = FeedForward(width)
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.cross_table = nn.Parameter(torch.randn(5, width) / width**0.5)


class ModalityStream(nn.Module):
    """Everything of one modality: in and out projections, AdaLN, text, layers."""

    def __init__(self, config: ModelConfig, name: StreamName) -> None:
        super().__init__()
        stream = config.video if name == "video" else config.audio
        self.config = config
        self.name: StreamName = name
        self.latent_channels, width = stream.latent_channels, stream.width
        self.proj_in = nn.Linear(self.latent_channels, width)
        self.proj_out = nn.Linear(width, self.latent_channels)
        self.table_out = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.time_embed = AdaLayerNormSingle(width, 6)
        self.cross_embed = AdaLayerNormSingle(width, 4)
        self.gate_embed = AdaLayerNormSingle(width, 1)
        self.caption_in = nn.Linear(config.text_width, width)
        self.caption_out = nn.Linear(width, width)
        self.layers = nn.ModuleList(StreamLayer(config, name) for _ in range(config.layers))

    def read_text(self, text: Tensor) -> TextKeys:
        """Keys and values of the text for every layer, once per prompt.

        Args:
            text: features (batch, text tokens, text_width).
        """
        hidden = self.caption_out(functional.gelu(self.caption_in(text), approximate="tanh"))
        return [layer.text_keys(hidden, None) for layer in self._layers()]

    def modulation(self, sigma: Tensor, token_blocks: Tensor) -> Modulation:
        """AdaLN outputs for sigma (batch, n), one column per macro-block or one for all."""
        within, embedded = self.time_embed(sigma * self.config.timestep_scale)
        across, _ = self.cross_embed(sigma * self.config.timestep_scale)
        gate, _ = self.gate_embed(sigma * self.config.gate_timestep_scale)
        return Modulation(within, across, gate, embedded, token_blocks.to(sigma.device))

    def _layers(self) -> list[StreamLayer]:
        return cast("list[StreamLayer]", self.layers)

    def _self_and_text(
        self, index: int, x: Tensor, rows: Sequence[Tensor], view: AttentionView, text: TextKeys
    ) -> Tensor:
        layer = self._layers()[index]
        rotations = view.rotations.video if self.name == "video" else view.rotations.audio
        pathway: Pathway = "video_self" if self.name == "video" else "audio_self"
        shift, scale, gate = rows[:3]
        inner = norm(x) * (1 + scale) + shift
        keys, values = layer.self_keys(inner, rotations.within)
        queries = layer.self_queries(inner, rotations.within)
        attended = attend(queries, *view.see(pathway, index, keys, values))
        x = x + layer.self_queries.merge(attended) * gate
        queries = layer.text_queries(norm(x), None)
        return x + layer.text_queries.merge(attend(queries, *text[index]))

    def _feed_forward(self, index: int, x: Tensor, rows: Sequence[Tensor]) -> Tensor:
        shift, scale, gate = rows[3:]
        hidden: Tensor = self._layers()[index].feed_forward(norm(x) * (1 + scale) + shift)
        return x + hidden * gate

    def _output(self, x: Tensor, modulation: Modulation) -> Tensor:
        embedded = modulation.embedded[:, :, None, :]
        shift, scale = modulation.rows(embedded, self.table_out)
        normed = functional.layer_norm(x, (x.shape[-1],), eps=NORM_EPS)
        velocity: Tensor = self.proj_out(normed * (1 + scale) + shift)
        return velocity


class VideoStream(ModalityStream):
    """The video half; it holds both cross-modal caches and answers the audio half's queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "video")

    def run(self, tokens: Tensor, sigma: Tensor, text: TextKeys, view: AttentionView) -> VideoRun:
        """Velocity of `tokens` (batch, tokens, channels), one exchange per layer."""
        modulation = self.modulation(sigma, view.token_blocks().video)
        across = view.rotations.video.across
        x = self.proj_in(tokens)
        for index, layer in enumerate(self._layers()):
            rows = modulation.rows(modulation.within, layer.table)
            x = self._self_and_text(index, x, rows, view, text)
            cross = modulation.rows(modulation.across, layer.cross_table[:4])
            gate = modulation.rows(modulation.gate, layer.cross_table[4:])[0]
            inner = norm(x)
            keys, values = layer.cross_keys(_modulate(inner, cross, V2A_ROWS), across)
            queries = layer.cross_queries(_modulate(inner, cross, A2V_ROWS), across)
            to_audio = view.see("video_to_audio", index, keys, values)
            message = yield None
            assert message is not None
            yield attend(message.queries, *to_audio)
            heard: Seen = view.see("audio_to_video", index, message.keys, message.values)
            x = x + layer.cross_queries.merge(attend(queries, *heard)) * gate
            x = self._feed_forward(index, x, rows)
        return self._output(x, modulation)


class AudioStream(ModalityStream):
    """The audio half, with the sink tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "audio")
        self.sinks = SinkTokens(config.layout.sinks, config.audio.width)

    def run(self, tokens: Tensor, sigma: Tensor, text: TextKeys, view: AttentionView) -> AudioRun:
        """Velocity of `tokens` (batch, tokens, channels), one exchange per layer."""
        modulation = self.modulation(sigma, view.token_blocks().audio)
        across = view.rotations.audio.across
        x = self.proj_in(tokens)
        if view.sinks:
            x = self.sinks.prepend(x)
        for index, layer in enumerate(self._layers()):
            rows = modulation.rows(modulation.within, layer.table)
            x = self._self_and_text(index, x, rows, view, text)
            cross = modulation.rows(modulation.across, layer.cross_table[:4])
            gate = modulation.rows(modulation.gate, layer.cross_table[4:])[0]
            inner = norm(x)
            keys, values = layer.cross_keys(_modulate(inner, cross, A2V_ROWS), across)
            queries = layer.cross_queries(_modulate(inner, cross, V2A_ROWS), across)
            answer = yield CrossMessage(keys, values, queries)
            x = x + layer.cross_queries.merge(answer) * gate
            x = self._feed_forward(index, x, rows)
        return self._output(x, modulation)[:, view.sinks :]


def _modulate(x: Tensor, rows: Sequence[Tensor], which: tuple[int, int]) -> Tensor:
    scale, shift = rows[which[0]], rows[which[1]]
    return x * (1 + scale) + shift
