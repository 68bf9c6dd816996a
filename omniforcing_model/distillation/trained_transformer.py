"""A transformer as training runs it: every pass is one call, and every layer of both streams one.

So an engine that spreads weights over ranks sees when a layer's weights are needed, and a layer's
activations may be made again when its gradients are taken. `SharedPasses` is what objectives sample
with: it reads no weights but inside of such calls.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import PrecisionError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import AttentionView
from omniforcing_model.transformer.denoiser import Level
from omniforcing_model.transformer.dual_stream_transformer import UNPERTURBED, DualStreamTransformer
from omniforcing_model.transformer.exchange import AudioLane, BothLayers, LayerOfBoth
from omniforcing_model.transformer.modality_stream import AudioStream, VideoStream
from omniforcing_model.transformer.modulation import Modulation, NoiseLevel
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.stream_layer import Pass, Residual
from omniforcing_model.transformer.stream_parallel import StreamParallel
from omniforcing_model.transformer.text_context import LayerText, Text, TextContext


class UnreadText:
    """One stream's text features, which passes read: their keys and values belong to a pass.

    Passes without gradients share them.
    """

    def __init__(self, half: VideoStream | AudioStream, features: Tensor) -> None:
        self._half, self._features = half, features
        self._read: Text | None = None

    def in_pass(self, half: VideoStream | AudioStream) -> Text:
        """The text of the pass that runs, of a network's `half`.

        Those without gradients may be of another network with the same weights, of which all are.
        """
        if torch.is_grad_enabled():
            return half.read_text(self._features, at_once=False)
        if self._read is None:
            self._read = half.read_text(self._features, at_once=False)
        return self._read

    def layer(self, index: int, modulation: Modulation) -> list[LayerText]:
        """Keys and values of layer `index`, of the pass that runs."""
        return self.in_pass(self._half).layer(index, modulation)

    def nbytes(self) -> int:
        """Bytes of the features, and of keys and values that passes share."""
        own = self._features.numel() * self._features.element_size()
        return own if self._read is None else self._read.nbytes()


def _in_pass(text: Text, half: VideoStream | AudioStream | None) -> Text:
    return text.in_pass(half) if isinstance(text, UnreadText) and half is not None else text


class TrainedTransformer(nn.Module):
    """One forward call is one pass, from latents and text features to velocities."""

    def __init__(self, network: DualStreamTransformer, recomputes: bool = False) -> None:
        """Run the layers of `network`, which holds both halves, as modules.

        recomputes: keep a layer's inputs alone for the backward pass, and run it again there.
        """
        super().__init__()
        self.network = network
        video, audio = network.halves
        assert video is not None
        assert audio is not None
        pairs = zip(video.stream_layers, audio.stream_layers, strict=True)
        # After `network`, whose names of the same parameters count.
        self.layers = nn.ModuleList(LayerOfBoth(BothLayers(*pair), recomputes) for pair in pairs)
        network.run_layers_by(self._run_layer)

    def forward(
        self,
        latents: PerStream[Tensor],
        sigma: Level,
        text: TextContext,
        view: AttentionView,
        perturbation: Perturbation = UNPERTURBED,
    ) -> PerStream[Tensor]:
        """As of `DualStreamTransformer`; `text` may be of `SharedPasses.read_text`."""
        read = text.streams.map(_in_pass, self.network.halves)
        velocity: PerStream[Tensor] = self.network(
            latents, sigma, TextContext(read), view, perturbation
        )
        return velocity

    def _run_layer(
        self,
        layers: BothLayers,
        states: PerStream[Residual],
        runs: PerStream[Pass],
        lane: AudioLane,
    ) -> PerStream[Residual]:
        return cast("LayerOfBoth", self.layers[layers.video.index]).run(states, runs, lane)


class SharedPasses:
    """A role as objectives sample with it (`Denoiser`): each pass is one call of `run`."""

    is_sealed = False

    def __init__(
        self, network: DualStreamTransformer, run: Callable[..., PerStream[Tensor]]
    ) -> None:
        """Call `run`, an engine around the `TrainedTransformer` of `network`."""
        self._network, self._run = network, run

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self._network.config

    @property
    def halves(self) -> PerStream[VideoStream | AudioStream | None]:
        """Both streams."""
        return self._network.halves

    @property
    def parallel(self) -> PerStream[StreamParallel]:
        """Both on one process: it is weights that are spread, not passes."""
        return self._network.parallel

    @property
    def device(self) -> torch.device:
        """Where latents are taken."""
        return self._network.device

    @property
    def dtype(self) -> torch.dtype:
        """What latents are taken in."""
        return self._network.dtype

    def read_text(self, text: PerStream[Tensor]) -> TextContext:
        """Features (batch, text tokens, text_width) per stream, for passes to read."""
        features = text.map(lambda own: own.to(self.dtype))
        return TextContext(self.halves.map(UnreadText, features))

    def at_noise_level(self, sigma: Tensor | PerStream[Tensor]) -> Level:
        """Sigma itself: each pass makes its modulation."""
        return sigma

    def level_of(self, sigma: PerStream[float]) -> NoiseLevel:
        """PrecisionError: weights that are trained are not final."""
        raise PrecisionError(f"expected final weights for a kept level {sigma}; seal the model")

    def __call__(
        self,
        latents: PerStream[Tensor],
        sigma: Level,
        text: TextContext,
        view: AttentionView,
        perturbation: Perturbation = UNPERTURBED,
    ) -> PerStream[Tensor]:
        """Velocities in the shapes of `latents`."""
        return self._run(latents, sigma, text, view, perturbation)
