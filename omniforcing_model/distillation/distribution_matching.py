"""Distribution matching distillation, shared by stages I and III (paper sections 3.3 and 3.4).

The generator's samples are noised; a frozen teacher (real score, guided) and a trained critic (fake
score) predict them clean; the difference of the two predictions is the generator's gradient. The
critic learns by flow matching on the generator's samples. The real score is guided away from
`null_text`, which is the stage's negative prompt, as the references have it (the paper gives the
scales alone); without words it is plain classifier-free guidance.

    g = (x0_fake - x0_real) / mean|x - x0_real|,  L = 1/2 mean (x - sg[x - g])^2
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from omniforcing_model.distillation.latent_batch import PromptBatch
from omniforcing_model.distillation.objective import Models, weighted_sum
from omniforcing_model.distillation.real_score import NoisedSamples, RealScore, TeacherScore
from omniforcing_model.flow_matching import add_noise, to_velocity
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import predict_clean
from omniforcing_model.transformer.denoiser import Denoiser

NORMALISER_EPS = 1e-6


@dataclass(frozen=True)
class DistributionMatchingRule:
    """The constants of a DMD stage.

    `student_sigmas`: descending, without the final 0. `noise_levels`: the sigmas at which the two
    scores are compared, one drawn per clip and shared by both streams. `guidance`: the teacher's.
    `levels_by_grid`: those of clips of some latent (height, width), where they are others.
    """

    student_sigmas: tuple[float, ...]
    noise_levels: tuple[float, ...]
    guidance: PerStream[float]
    audio_weight: float
    levels_by_grid: Mapping[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)


class SamplePart(NamedTuple):
    """Latents of samples that carry gradients, and where they begin in the clip, per stream."""

    latents: PerStream[Tensor]
    start: PerStream[int]


class Samples(NamedTuple):
    """The generator's clean samples for a batch, without gradients, and the same with them.

    `parts` makes those one after the other, once; the gradients of one are taken before the next.
    """

    clean: PerStream[Tensor]
    parts: Callable[[], Iterator[SamplePart]]


class DistributionMatching(ABC):
    """A DMD stage; subclasses say how the generator makes its samples."""

    uses_sinks: bool

    def __init__(self, rule: DistributionMatchingRule, real_score: RealScore | None = None) -> None:
        """Match a teacher by `rule`: that of `real_score`, or else the role `teacher`."""
        self.rule = rule
        self._real_score = real_score
        self._levels = torch.tensor(rule.noise_levels)
        self._of_grids = {g: torch.tensor(levels) for g, levels in rule.levels_by_grid.items()}

    def exit_step(self, batch: PromptBatch) -> int:
        """The step of the student's chain after which samples leave it; its pass has gradients.

        All ranks make the same passes, so that those which gather sharded weights stay together.
        """
        return int(batch.exit_draw * len(self.rule.student_sigmas))

    @abstractmethod
    def generate(
        self, model: Denoiser, batch: PromptBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        """Clean samples for the prompts of `batch`; one pass of them carries gradients, where the
        caller has them on."""

    @abstractmethod
    def generate_parts(
        self, model: Denoiser, batch: PromptBatch, generator: torch.Generator
    ) -> Samples:
        """The same samples, of which the gradients can be taken part by part."""

    def losses(
        self, role: str, models: Models, batch: PromptBatch, generator: torch.Generator
    ) -> Iterator[dict[str, Tensor]]:
        """The critic's flow-matching loss, or the generator's DMD loss, part by part."""
        if role == "critic":
            with torch.no_grad():
                clean = self.generate(models["generator"], batch, generator)
            yield self._critic_loss(models["critic"], clean, batch, generator)
            return
        samples = self.generate_parts(models["generator"], batch, generator)
        gradient = self._gradient(models, samples.clean, batch, generator)
        for latents, start in samples.parts():
            errors = latents.map(_pushed, gradient, start)
            yield weighted_sum(errors, self.rule.audio_weight)

    def _critic_loss(
        self,
        critic: Denoiser,
        samples: PerStream[Tensor],
        batch: PromptBatch,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        sigma, noise, noisy = self._noisy_samples(samples, generator)
        clean = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
        velocity = noisy.map(to_velocity, clean, PerStream(sigma, sigma))
        errors = velocity.map(lambda v, eps, x: (v - (eps - x)).square().mean(), noise, samples)
        return weighted_sum(errors, self.rule.audio_weight)

    @torch.no_grad()
    def _gradient(
        self,
        models: Models,
        samples: PerStream[Tensor],
        batch: PromptBatch,
        generator: torch.Generator,
    ) -> PerStream[Tensor]:
        """g of every latent: the two scores' difference, normalised."""
        sigma, _, noisy = self._noisy_samples(samples, generator)
        score, critic = self._real_score or TeacherScore(models["teacher"]), models["critic"]
        asked = NoisedSamples(noisy, sigma, batch.text, batch.null_text, self.rule.guidance)
        # A teacher elsewhere computes while the critic does.
        real = score.ask(asked)
        fake = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
        return samples.map(_normalised, fake, real())

    def _noisy_samples(
        self, samples: PerStream[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, PerStream[Tensor], PerStream[Tensor]]:
        """One sigma per clip, the noise, and the noised samples."""
        rows, (height, width) = len(samples.video), samples.video.shape[3:]
        levels = self._of_grids.get((height, width), self._levels)
        sigma = levels[torch.randint(len(levels), (rows,), generator=generator)]
        noise = samples.map(lambda x: torch.randn(x.shape, generator=generator))
        return sigma, noise, samples.map(add_noise, noise, PerStream(sigma, sigma))


def _normalised(sample: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """g, normalised per clip."""
    axes = tuple(range(1, sample.ndim))
    scale = (sample - real).abs().mean(dim=axes, keepdim=True) + NORMALISER_EPS
    return (fake - real) / scale


def _pushed(latents: Tensor, gradient: Tensor, start: int) -> Tensor:
    """The part of L that is of `latents`, which begin at latent `start` of the clip."""
    own = gradient[:, start : start + latents.shape[1]]
    target = latents.detach() - own
    return 0.5 * functional.mse_loss(latents, target, reduction="sum") / gradient.numel()
