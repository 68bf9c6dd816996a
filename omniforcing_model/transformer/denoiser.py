"""What predicts velocities: a transformer, or what stands before one that is spread over ranks.

Sampling, streaming and the objectives ask for no more than this, so that they run over both.
"""

from typing import Protocol

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import AttentionView
from omniforcing_model.transformer.modality_stream import AudioStream, VideoStream
from omniforcing_model.transformer.modulation import NoiseLevel
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.stream_parallel import StreamParallel
from omniforcing_model.transformer.text_context import TextContext

# Sigma in [0, 1], (batch, 1) or (batch, columns), of both streams or one each; or its modulation.
Level = Tensor | PerStream[Tensor] | NoiseLevel


class Denoiser(Protocol):
    """`DualStreamTransformer` as those see it who sample with it."""

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        ...

    @property
    def halves(self) -> PerStream[VideoStream | AudioStream | None]:
        """The streams that this process holds."""
        ...

    @property
    def parallel(self) -> PerStream[StreamParallel]:
        """How they are spread over processes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where latents are taken."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What latents are taken in."""
        ...

    @property
    def is_sealed(self) -> bool:
        """Whether the weights are final."""
        ...

    def read_text(self, text: PerStream[Tensor]) -> TextContext:
        """Features (batch, text tokens, text_width) per stream, for any number of passes."""
        ...

    def at_noise_level(self, sigma: Tensor | PerStream[Tensor]) -> Level:
        """Sigma, for any number of passes."""
        ...

    def level_of(self, sigma: PerStream[float]) -> NoiseLevel:
        """Modulation at each stream's sigma, of final weights."""
        ...

    def __call__(
        self,
        latents: PerStream[Tensor],
        sigma: Level,
        text: TextContext,
        view: AttentionView,
        perturbation: Perturbation = ...,
    ) -> PerStream[Tensor]:
        """Velocities in the shapes of `latents`."""
        ...
