"""Distribution matching distillation, shared by stages I and III (paper sections 3.3 and 3.4).

The generator's samples are noised; a frozen teacher (real score, guided) and a trained critic (fake
score) predict them clean; the difference of the two predictions is the generator's gradient. The
critic learns by flow matching on the generator's samples. The real score is guided away from
`null_text`, which is the stage's negative prompt, as the references have it (the paper gives the
scales alone); without words it is plain classifier-free guidance.

    g = (x0_fake - x0_real) / mean|x - x0_real|,  L = 1/2 mean (x - sg[x - g])^2
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from omniforcing_model.distillation.latent_batch import LatentBatch
from omniforcing_model.distillation.objective import Models, weighted_sum
from omniforcing_model.flow_matching import add_noise, to_velocity
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance, predict_clean
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer

NORMALISER_EPS = 1e-6


@dataclass(frozen=True)
class DistributionMatchingRule:
    """The constants of a DMD stage.

    `student_sigmas`: descending, without the final 0. `noise_levels`: the sigmas at which the two
    scores are compared, one drawn per clip and shared by both streams. `guidance`: the teacher's.
    """

    student_sigmas: tuple[float, ...]
    noise_levels: tuple[float, ...]
    guidance: PerStream[float]
    audio_weight: float


class DistributionMatching(ABC):
    """A DMD stage; subclasses say how the generator makes its samples."""

    uses_sinks: bool

    def __init__(self, rule: DistributionMatchingRule) -> None:
        self.rule = rule
        self._levels = torch.tensor(rule.noise_levels)

    def exit_step(self, batch: LatentBatch) -> int:
        """The step of the student's chain after which samples leave it; its pass has gradients.

        All ranks make the same passes, so that those which gather sharded weights stay together.
        """
        return int(batch.exit_draw * len(self.rule.student_sigmas))

    @abstractmethod
    def generate(
        self, model: DualStreamTransformer, batch: LatentBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        """Clean samples for the prompts of `batch`; one pass of them carries gradients."""

    def loss(
        self, role: str, models: Models, batch: LatentBatch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The critic's flow-matching loss, or the generator's DMD loss."""
        if role == "critic":
            with torch.no_grad():
                samples = self.generate(models["generator"], batch, generator)
            return self._critic_loss(models["critic"], samples, batch, generator)
        samples = self.generate(models["generator"], batch, generator)
        return self._generator_loss(models, samples, batch, generator)

    def _critic_loss(
        self,
        critic: DualStreamTransformer,
        samples: PerStream[Tensor],
        batch: LatentBatch,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        sigma, noise, noisy = self._noisy_samples(samples, generator)
        clean = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
        velocity = noisy.map(to_velocity, clean, PerStream(sigma, sigma))
        errors = velocity.map(lambda v, eps, x: (v - (eps - x)).square().mean(), noise, samples)
        return weighted_sum(errors, self.rule.audio_weight)

    def _generator_loss(
        self,
        models: Models,
        samples: PerStream[Tensor],
        batch: LatentBatch,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            detached = samples.map(Tensor.detach)
            sigma, _, noisy = self._noisy_samples(detached, generator)
            critic, teacher = models["critic"], models["teacher"]
            fake = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
            scales = self.rule.guidance.map(GuidanceScales)
            guidance = Guidance(teacher.read_text(batch.null_text), scales)
            text = teacher.read_text(batch.text)
            real = predict_clean(teacher, noisy, sigma, text, guidance)
            targets = detached.map(_target, fake, real)
        errors = samples.map(lambda x, goal: 0.5 * functional.mse_loss(x, goal), targets)
        return weighted_sum(errors, self.rule.audio_weight)

    def _noisy_samples(
        self, samples: PerStream[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, PerStream[Tensor], PerStream[Tensor]]:
        """One sigma per clip, the noise, and the noised samples."""
        rows = len(samples.video)
        sigma = self._levels[torch.randint(len(self._levels), (rows,), generator=generator)]
        noise = samples.map(lambda x: torch.randn(x.shape, generator=generator))
        return sigma, noise, samples.map(add_noise, noise, PerStream(sigma, sigma))


def _target(sample: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """x - g, with the gradient normalised per clip."""
    axes = tuple(range(1, sample.ndim))
    scale = (sample - real).abs().mean(dim=axes, keepdim=True) + NORMALISER_EPS
    return sample - (fake - real) / scale
