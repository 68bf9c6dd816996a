"""The two losses of distribution matching, against their formulas."""

import pytest
import torch
from torch import Tensor

from omniforcing_model.distillation.distribution_matching import (
    DistributionMatching,
    DistributionMatchingRule,
    SamplePart,
    Samples,
)
from omniforcing_model.distillation.latent_batch import LatentBatch
from omniforcing_model.flow_matching import add_noise, to_velocity
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance, predict_clean
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from tests.worlds.training import loss_of, random_model, small_run

LEVELS = (0.3, 0.6, 0.9)
RULE = DistributionMatchingRule((1.0,), LEVELS, PerStream(2.0, 3.0), audio_weight=0.5)
ROWS = 2


class GivenSamples(DistributionMatching):
    """A generator that makes the same samples whatever its model."""

    uses_sinks = False

    def __init__(self, samples: PerStream[Tensor]) -> None:
        super().__init__(RULE)
        self._samples = samples

    def generate(
        self, model: DualStreamTransformer, batch: LatentBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        return self._samples

    def generate_parts(
        self, model: DualStreamTransformer, batch: LatentBatch, generator: torch.Generator
    ) -> Samples:
        """The first frame of each stream, then the rest."""
        firsts = SamplePart(self._samples.map(lambda x: x[:, :1]), PerStream(0, 0))
        rest = SamplePart(self._samples.map(lambda x: x[:, 1:]), PerStream(1, 1))
        return Samples(self._samples.map(Tensor.detach), lambda: iter((firsts, rest)))


@pytest.fixture(scope="module")
def models() -> dict[str, DualStreamTransformer]:
    config = small_run()
    return {name: random_model(config, n) for n, name in enumerate(("generator", "critic"))} | {
        "teacher": random_model(config, 2)
    }


@pytest.fixture
def samples() -> PerStream[Tensor]:
    dice = torch.Generator().manual_seed(1)
    return PerStream(
        torch.randn(ROWS, 4, 4, 1, 1, generator=dice), torch.randn(ROWS, 26, 3, generator=dice)
    ).map(lambda x: x.requires_grad_())


@pytest.fixture
def batch(samples: PerStream[Tensor]) -> LatentBatch:
    text = torch.randn(ROWS, 3, 16, generator=torch.Generator().manual_seed(2))
    null = torch.zeros_like(text)
    texts = (PerStream(text, text), PerStream(null, null))
    return LatentBatch(samples.map(Tensor.detach), *texts, exit_draw=0.0)


def noise_of(
    samples: PerStream[Tensor], seed: int
) -> tuple[Tensor, PerStream[Tensor], PerStream[Tensor]]:
    """Sigma of each clip, noise and noisy samples, as a step with this seed draws them."""
    dice = torch.Generator().manual_seed(seed)
    sigma = torch.tensor(LEVELS)[torch.randint(len(LEVELS), (ROWS,), generator=dice)]
    clean = samples.map(Tensor.detach)
    noise = clean.map(lambda x: torch.randn(x.shape, generator=dice))
    return sigma, noise, clean.map(add_noise, noise, PerStream(sigma, sigma))


@pytest.mark.parametrize("seed", [3, 4])
def test_the_generators_gradient_is_the_normalised_difference_of_the_two_scores(
    models: dict[str, DualStreamTransformer],
    samples: PerStream[Tensor],
    batch: LatentBatch,
    seed: int,
) -> None:
    dice = torch.Generator().manual_seed(seed)
    loss_of(GivenSamples(samples), "generator", models, batch, dice)
    sigma, _, noisy = noise_of(samples, seed)
    with torch.no_grad():
        critic, teacher = models["critic"], models["teacher"]
        fake = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
        guidance = Guidance(
            teacher.read_text(batch.null_text), PerStream(GuidanceScales(2.0), GuidanceScales(3.0))
        )
        real = predict_clean(teacher, noisy, sigma, teacher.read_text(batch.text), guidance)
    for weight, x, of_fake, of_real in zip((1.0, 0.5), samples, fake, real, strict=True):
        distance = (x.detach() - of_real).abs().flatten(1).mean(dim=1)
        scale = distance.reshape(-1, *[1] * (x.ndim - 1)) + 1e-6
        expected = weight * (of_fake - of_real) / scale / x.numel()
        torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-8)


def test_the_critic_learns_the_velocity_from_the_samples_to_their_noise(
    models: dict[str, DualStreamTransformer], samples: PerStream[Tensor], batch: LatentBatch
) -> None:
    dice = torch.Generator().manual_seed(3)
    parts = loss_of(GivenSamples(samples), "critic", models, batch, dice)
    sigma, noise, noisy = noise_of(samples, 3)
    critic = models["critic"]
    clean = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
    velocity = noisy.map(to_velocity, clean.map(Tensor.detach), PerStream(sigma, sigma))
    errors = velocity.map(lambda v, eps, x: ((v - (eps - x)) ** 2).mean(), noise, samples)
    video, audio = errors.video.item(), errors.audio.item()
    assert parts["video"].item() == pytest.approx(video, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(video + 0.5 * audio, rel=1e-5)
