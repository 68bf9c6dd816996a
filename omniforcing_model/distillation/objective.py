"""What a training worker needs of a stage's objective: a loss for each role that learns."""

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from omniforcing_model.distillation.latent_batch import Batch
from omniforcing_model.errors import DivergenceError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.denoiser import Denoiser

B_contra = TypeVar("B_contra", bound=Batch, contravariant=True)
Models = Mapping[str, Denoiser]


class Objective(Protocol[B_contra]):
    """The losses of one stage: pure mathematics, no processes."""

    @property
    def uses_sinks(self) -> bool:
        """Whether the generator's audio sinks take part."""
        ...

    def losses(
        self, role: str, models: Models, batch: B_contra, generator: torch.Generator
    ) -> Iterator[dict[str, Tensor]]:
        """Terms whose sum is the loss of a role that learns, each under "loss", with its named
        parts beside it.

        The gradients of a term are taken before the next one is made, so that the activations of
        one are held at a time.

        Args:
            role: one that learns.
            models: every role's model, learning and frozen.
            batch: clips or trajectories.
            generator: all randomness of this micro-batch comes from here.
        """
        ...


def weighted_sum(parts: PerStream[Tensor], audio_weight: float) -> dict[str, Tensor]:
    """lambda_v L_v + lambda_a L_a with lambda_v = 1 (paper section 3.3), and its parts."""
    total = parts.video + audio_weight * parts.audio
    return {"loss": total, "video": parts.video.detach(), "audio": parts.audio.detach()}


def require_finite(value: Tensor, what: str) -> Tensor:
    """`value` itself; DivergenceError if anything in it is not a finite number."""
    if not torch.isfinite(value).all():
        raise DivergenceError(
            f"expected finite numbers in {what}, got NaN or infinity; lower the learning rate,"
            " check the last good checkpoint and the data of this step"
        )
    return value
