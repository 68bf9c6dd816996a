"""Flow-matching pre-training of the teacher, for those who do not start from LTX-2."""

from collections.abc import Iterator

import torch
from torch import Tensor

from omniforcing_model.distillation.latent_batch import LatentBatch
from omniforcing_model.distillation.objective import Models, weighted_sum
from omniforcing_model.flow_matching import add_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import BidirectionalView


class TeacherPretraining:
    """Velocity regression at one sigma per clip, shared by both streams."""

    uses_sinks = False

    def __init__(self, caption_dropout: float, audio_weight: float) -> None:
        """Drop the caption of this share of clips, so that guidance has an unconditional model."""
        self._caption_dropout = caption_dropout
        self._audio_weight = audio_weight

    def losses(
        self, role: str, models: Models, batch: LatentBatch, generator: torch.Generator
    ) -> Iterator[dict[str, Tensor]]:
        """Mean squared error of the velocity, per stream."""
        model = models[role]
        latents = batch.latents
        rows = len(latents.video)
        sigma = training_sigmas(rows, generator)
        noise = latents.map(lambda x: torch.randn(x.shape, generator=generator))
        dropped = torch.rand(rows, generator=generator) < self._caption_dropout
        text = batch.text.map(
            lambda features, null: torch.where(dropped[:, None, None], null, features),
            batch.null_text,
        )
        noisy = latents.map(add_noise, noise, PerStream(sigma, sigma))
        counts = PerStream(latents.video.shape[1], latents.audio.shape[1])
        grid = (latents.video.shape[3], latents.video.shape[4])
        view = BidirectionalView(model.config, counts, grid, latents.video.device)
        inputs = noisy.map(lambda x: x.to(model.dtype))
        predicted = model(inputs, sigma[:, None], model.read_text(text), view)
        velocity = predicted.map(Tensor.float)
        errors = velocity.map(lambda v, eps, x: (v - (eps - x)).square().mean(), noise, latents)
        yield weighted_sum(errors, self._audio_weight)


def training_sigmas(rows: int, generator: torch.Generator) -> Tensor:
    """Noise levels (rows,): stratified over the batch, denser where structure is decided.

    A uniform quantile is shifted by sigma' = 2 sigma / (1 + sigma); one sample falls in each of
    `rows` equal strata, which lowers the variance of small batches.
    """
    strata = torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)
    uniform = strata / rows
    return (2 * uniform / (1 + uniform)).clamp(1e-3, 1.0)
