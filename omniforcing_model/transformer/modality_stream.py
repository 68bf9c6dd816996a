"""One modality's half of the transformer: its ends, its modulation, its text and its layers.

All parameters of a stream are here, also its sides of the two cross-modal attentions: the query
side (queries, output) of one and the key side (keys, values) of the other. A replica that holds one
stream holds one of these and nothing else.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.elementwise import EPS, gelu
from omniforcing_model.transformer.adaln import AdaLayerNormSingle
from omniforcing_model.transformer.attention_view import AttentionView, StreamRotations
from omniforcing_model.transformer.modulation import Modulation, StreamModulation
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.projections import Linear
from omniforcing_model.transformer.sink_token import SinkTokens
from omniforcing_model.transformer.stream_layer import Pass, Residual, StreamLayer, StreamName
from omniforcing_model.transformer.stream_parallel import WHOLE, StreamParallel
from omniforcing_model.transformer.text_context import StreamText, Text


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
        self.proj_in = Linear(self.latent_channels, width)
        self.proj_out = Linear(width, self.latent_channels)
        self.table_out = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.time_embed = AdaLayerNormSingle(width, 9 if config.modulated_text else 6)
        self.cross_embed = AdaLayerNormSingle(width, 4)
        self.gate_embed = AdaLayerNormSingle(width, 1)
        self.prompt_embed = AdaLayerNormSingle(width, 2) if config.modulated_text else None
        if not config.modulated_text:
            self.caption_in = Linear(config.text_width, width)
            self.caption_out = Linear(width, width)
        self.layers = nn.ModuleList(
            StreamLayer(config, name, index, parallel) for index in range(config.layers)
        )

    def read_text(self, features: Tensor, at_once: bool = True) -> StreamText:
        """The text in this stream's width, with its keys and values: once per prompt.

        Args:
            features: (batch, text tokens, text_width), from LTX-2.3 on in the stream's own width.
            at_once: make the keys and values of all layers now; else each when it is read.
        """
        if not self.config.modulated_text:
            features = self.caption_out(gelu(self.caption_in(features)))
        if self.config.layout.prompt_sigma == "own":
            return StreamText(features, self.stream_layers, at_once=at_once)
        always = self._prompt_modulation(torch.ones(1, 1, device=features.device))
        return StreamText(features, self.stream_layers, always, at_once)

    def modulation(self, sigma: Tensor) -> StreamModulation:
        """AdaLN outputs for sigma (batch, columns), one column per macro-block or one for all.

        The layout may say that the cross-modal part of it has sigma 1 whatever sigma is.
        """
        within, embedded = self.time_embed(sigma * self.config.timestep_scale)
        across_sigma = torch.ones_like(sigma) if self.config.layout.cross_sigma == "one" else sigma
        across, _ = self.cross_embed(across_sigma * self.config.timestep_scale)
        gate, _ = self.gate_embed(across_sigma * self.config.gate_timestep_scale)
        return StreamModulation(within, across, gate, embedded, self._prompt_modulation(sigma))

    def _prompt_modulation(self, sigma: Tensor) -> Tensor | None:
        """Rows that modulate the prompt from LTX-2.3 on, (batch, columns, 2, width)."""
        if self.prompt_embed is None:
            return None
        rows: Tensor = self.prompt_embed(sigma * self.config.timestep_scale)[0]
        return rows

    @property
    def stream_layers(self) -> list[StreamLayer]:
        """The layers, in order."""
        return cast("list[StreamLayer]", self.layers)

    def start(
        self,
        latents: Tensor,
        modulation: Modulation,
        text: Text,
        view: AttentionView,
        perturbation: Perturbation,
    ) -> tuple[Residual, Pass]:
        """The input of the first layer, and what every layer reads.

        Args:
            latents: (batch, tokens, channels).
            modulation: of this stream.
            text: of this stream.
            view: of both.
            perturbation: of the pass.
        """
        of = 0 if self.name == "video" else 1
        columns = view.columns[of]
        own = self.parallel.tokens(sum(columns.counts))
        run = Pass(modulation, text, view, perturbation, self._turns(view, own), columns.part(own))
        return Residual(self._embed(latents, view)), run

    def velocity(self, x: Residual, run: Pass) -> Tensor:
        """(batch, tokens, channels) of the last layer's output, without sinks."""
        normed = functional.layer_norm(x.settled(), (x.tokens.shape[-1],), eps=EPS)
        rows = run.modulation.output(self.table_out, run.columns.of_token)
        velocity: Tensor = self.proj_out(rows(normed))
        return self.parallel.gather_tokens(velocity)

    def _embed(self, latents: Tensor, view: AttentionView) -> Tensor:
        del view
        embedded: Tensor = self.proj_in(latents[:, self.parallel.tokens(latents.shape[1])])
        return embedded

    def _turns(self, view: AttentionView, own: slice) -> StreamRotations:
        """The rotations of the heads and tokens that this process projects."""
        stream, rotations = self.config.video, view.rotations.video
        if self.name == "audio":
            stream, rotations = self.config.audio, view.rotations.audio
        within = rotations.within.part(self.parallel.projected_heads(stream.heads), own)
        heads = self.parallel.projected_heads(self.config.audio.heads)
        return StreamRotations(within, rotations.across.part(heads, own))


class VideoStream(ModalityStream):
    """The video half; it holds both cross-modal caches and attends for the audio half's queries."""

    def __init__(self, config: ModelConfig, parallel: StreamParallel = WHOLE) -> None:
        super().__init__(config, "video", parallel)


class AudioStream(ModalityStream):
    """The audio half, with the sink tokens."""

    def __init__(self, config: ModelConfig, parallel: StreamParallel = WHOLE) -> None:
        super().__init__(config, "audio", parallel)
        self.sinks = SinkTokens(config.layout.sinks, config.audio.width)

    def velocity(self, x: Residual, run: Pass) -> Tensor:
        """(batch, tokens, channels) of the last layer's output, without sinks."""
        return super().velocity(x, run)[:, run.view.sinks :]

    def _embed(self, latents: Tensor, view: AttentionView) -> Tensor:
        embedded = super()._embed(latents, view)
        return self.sinks.prepend(embedded) if view.sinks else embedded
