"""The two losses of distribution matching, against their formulas; where teacher and critic are
distributions themselves, in closed form; and what the losses end with together.

With the score s = grad log p(x_sigma) the clean latents to expect are (x_sigma + sigma^2 s) /
(1 - sigma), so that the generator's gradient is sigma^2 / (1 - sigma) (s_fake - s_real), over a
norm. Guidance by w makes w s_worded - (w - 1) s_wordless of the teacher's score.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omniforcing_model.distillation.distribution_matching import (
    DistributionMatching,
    DistributionMatchingRule,
    SamplePart,
    Samples,
)
from omniforcing_model.distillation.latent_batch import PromptBatch
from omniforcing_model.distillation.stage_1_bidirectional_dmd import BidirectionalDMD
from omniforcing_model.flow_matching import add_noise, to_velocity
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import ClipShape, Guidance, predict_clean
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from tests.worlds.known_scores import Gaussian, GaussianDenoiser, Learner, Still, TwoModes
from tests.worlds.training import loss_of, random_model, small_run

LEVELS = (0.3, 0.6, 0.9)
RULE = DistributionMatchingRule((1.0,), LEVELS, PerStream(2.0, 3.0), audio_weight=0.5)
ROWS = 2
# Of a clip of the samples, per stream.
VALUES = PerStream(4 * 4, 26 * 3)
# Of two modes: deviation around each, clips of a step, their values in both streams, learning rate.
SPREAD = 0.4
CLIPS = 256
CLIP_VALUES = 8
RATE = 8e-3


class GivenSamples(DistributionMatching):
    """A generator that makes the same samples whatever its model."""

    uses_sinks = False

    def __init__(self, samples: PerStream[Tensor], rule: DistributionMatchingRule = RULE) -> None:
        super().__init__(rule)
        self._samples = samples

    def generate(
        self, model: DualStreamTransformer, batch: PromptBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        return self._samples

    def generate_parts(
        self, model: DualStreamTransformer, batch: PromptBatch, generator: torch.Generator
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
def batch(samples: PerStream[Tensor]) -> PromptBatch:
    text = torch.randn(ROWS, 3, 16, generator=torch.Generator().manual_seed(2))
    null = torch.zeros_like(text)
    texts = (PerStream(text, text), PerStream(null, null))
    counts = PerStream(samples.video.shape[1], samples.audio.shape[1])
    return PromptBatch(*texts, ClipShape(ROWS, counts, (1, 1)), exit_draw=0.0)


def noise_of(
    samples: PerStream[Tensor], seed: int, levels: tuple[float, ...] = LEVELS
) -> tuple[Tensor, PerStream[Tensor], PerStream[Tensor]]:
    """Sigma of each clip, noise and noisy samples, as a step with this seed draws them."""
    dice = torch.Generator().manual_seed(seed)
    sigma = torch.tensor(levels)[torch.randint(len(levels), (ROWS,), generator=dice)]
    clean = samples.map(Tensor.detach)
    noise = clean.map(lambda x: torch.randn(x.shape, generator=dice))
    return sigma, noise, clean.map(add_noise, noise, PerStream(sigma, sigma))


@pytest.mark.parametrize("seed", [3, 4])
def test_the_generators_gradient_is_the_normalised_difference_of_the_two_scores(
    models: dict[str, DualStreamTransformer],
    samples: PerStream[Tensor],
    batch: PromptBatch,
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
    models: dict[str, DualStreamTransformer], samples: PerStream[Tensor], batch: PromptBatch
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


def test_clips_of_a_grid_with_levels_of_its_own_are_noised_at_these(
    models: dict[str, DualStreamTransformer], samples: PerStream[Tensor], batch: PromptBatch
) -> None:
    def loss(rule: DistributionMatchingRule) -> float:
        dice = torch.Generator().manual_seed(3)
        return loss_of(GivenSamples(samples, rule), "critic", models, batch, dice)["loss"].item()

    own = replace(RULE, noise_levels=(0.25,))
    other = replace(RULE, noise_levels=(0.9,))
    assert loss(replace(other, levels_by_grid={(1, 1): (0.25,)})) == loss(own) != loss(other)
    assert loss(replace(other, levels_by_grid={(1, 2): (0.25,)})) == loss(other)


def gaussians(seed: int, spreads: PerStream[Tensor] | None = None) -> PerStream[Gaussian]:
    """One of a clip's values in each stream: of random means, and covariances unless given."""
    dice = torch.Generator().manual_seed(seed)

    def drawn(values: int, covariance: Tensor | None) -> Gaussian:
        mean = torch.randn(values, generator=dice, dtype=torch.float64)
        root = torch.randn(values, values, generator=dice, dtype=torch.float64) / values**0.5
        own = root @ root.T + 0.1 * torch.eye(values, dtype=torch.float64)
        return Gaussian(mean, own if covariance is None else covariance)

    return PerStream(VALUES.video, VALUES.audio).map(drawn, spreads or PerStream(None, None))


def gradient_of(
    models: dict[str, GaussianDenoiser],
    samples: PerStream[Tensor],
    batch: PromptBatch,
    seed: int,
    rule: DistributionMatchingRule,
) -> PerStream[Tensor]:
    """The generator's gradient, freed of the streams' weights and of the mean over values."""
    objective = GivenSamples(samples, rule)
    dice = torch.Generator().manual_seed(seed)
    loss_of(objective, "generator", models | {"generator": Still()}, batch, dice)
    weights = PerStream(1.0, rule.audio_weight)
    gradients = samples.map(lambda x, weight: x.grad * x.numel() / weight, weights)
    for x in samples:
        x.grad = None
    return gradients


@pytest.mark.parametrize("guidance", [(1.0, 1.0), (3.0, 5.0), (1.0, 2.0)])
@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.7, 0.98])
def test_with_gaussian_scores_the_gradient_is_their_normalised_difference(
    samples: PerStream[Tensor], batch: PromptBatch, sigma: float, guidance: tuple[float, float]
) -> None:
    worded, wordless, fake = gaussians(1), gaussians(2), gaussians(3)
    models = {"teacher": GaussianDenoiser(worded, wordless), "critic": GaussianDenoiser(fake)}
    rule = DistributionMatchingRule((1.0,), (sigma,), PerStream(*guidance), audio_weight=0.5)
    gradients = gradient_of(models, samples, batch, 7, rule)
    _, _, noisy = noise_of(samples, 7, (sigma,))
    streams = zip(gradients, samples, noisy, worded, wordless, fake, guidance, strict=True)
    for gradient, x, x_sigma, of_words, of_none, of_fake, scale in streams:
        real_score = scale * of_words.score(x_sigma, sigma)
        real_score -= (scale - 1) * of_none.score(x_sigma, sigma)
        real = (x_sigma + sigma**2 * real_score) / (1 - sigma)
        distance = (x.detach() - real).abs().flatten(1).mean(dim=1)
        difference = sigma**2 / (1 - sigma) * (of_fake.score(x_sigma, sigma) - real_score)
        expected = difference / (distance.reshape(-1, *[1] * (x.ndim - 1)) + 1e-6)
        largest = expected.abs().max().item()
        torch.testing.assert_close(gradient, expected.float(), rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("seed", [3, 4])
def test_gaussians_of_one_spread_push_along_one_line_whatever_the_noise_and_the_samples(
    samples: PerStream[Tensor], batch: PromptBatch, seed: int, guidance: float
) -> None:
    """sigma^2 C^-1 (m_fake - m_real) with C = (1 - sigma)^2 S + sigma^2 I and the guided teacher's
    mean m_real = m_worded + (w - 1)(m_worded - m_wordless)."""
    worded = gaussians(1)
    spreads = worded.map(lambda law: law.covariance)
    wordless, fake = gaussians(2, spreads), gaussians(3, spreads)
    models = {"teacher": GaussianDenoiser(worded, wordless), "critic": GaussianDenoiser(fake)}
    sigma = 0.6
    rule = DistributionMatchingRule((1.0,), (sigma,), PerStream(guidance, guidance), 0.5)
    gradients = gradient_of(models, samples, batch, seed, rule)
    for gradient, of_words, of_none, of_fake in zip(gradients, worded, wordless, fake, strict=True):
        real = of_words.mean + (guidance - 1) * (of_words.mean - of_none.mean)
        covariance = of_fake.noised(sigma).covariance_matrix
        line = torch.linalg.solve(covariance, of_fake.mean - real).float()
        directions = torch.nn.functional.normalize(gradient.flatten(1), dim=1)
        expected = torch.nn.functional.normalize(line, dim=0).expand_as(directions)
        torch.testing.assert_close(directions, expected, rtol=1e-4, atol=1e-5)


def test_a_critic_at_the_guided_teachers_gaussian_gives_no_gradient(
    samples: PerStream[Tensor], batch: PromptBatch
) -> None:
    worded = gaussians(1)
    wordless = gaussians(2, worded.map(lambda law: law.covariance))
    guided = worded.map(
        lambda words, none: words._replace(mean=3 * words.mean - 2 * none.mean), wordless
    )
    teacher = GaussianDenoiser(worded, wordless)
    rule = DistributionMatchingRule((1.0,), LEVELS, PerStream(3.0, 3.0), audio_weight=0.5)
    models = {"teacher": teacher, "critic": GaussianDenoiser(guided)}
    at_rest = gradient_of(models, samples, batch, 5, rule)
    models["critic"] = GaussianDenoiser(worded)
    for still, moved in zip(at_rest, gradient_of(models, samples, batch, 5, rule), strict=True):
        assert still.abs().max() < 1e-4 * moved.abs().max()


def distilled(steps: int, critic_learns_until: int) -> PerStream[Tensor]:
    """Samples (clips, values) of a small generator that has learned clips of two modes, as stage I
    trains it: from what it sees in one step, with five steps of a critic that starts as the
    teacher for each of its own."""
    torch.manual_seed(0)
    teacher = TwoModes(SPREAD)
    models = {
        "teacher": teacher,
        "critic": Learner(CLIP_VALUES, teacher),
        "generator": Learner(CLIP_VALUES, Still()),
    }
    levels = tuple(torch.linspace(0.05, 0.95, 19).tolist())
    stage = BidirectionalDMD(DistributionMatchingRule((1.0,), levels, PerStream(1.0, 1.0), 1.0))
    words = PerStream(torch.ones(CLIPS, 1, 1), torch.ones(CLIPS, 1, 1))
    batch = PromptBatch(words, words, ClipShape(CLIPS, PerStream(1, 1), (1, 1)), exit_draw=0.0)
    optimisers = {
        role: torch.optim.Adam(models[role].parameters(), betas=(0.0, 0.99))
        for role in ("critic", "generator")
    }
    dice = torch.Generator().manual_seed(0)
    for step in range(steps):
        turns = [("critic", step < critic_learns_until), ("generator", step % 5 == 4)]
        for role in (role for role, has_its_turn in turns if has_its_turn):
            optimiser = optimisers[role]
            optimiser.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - step / steps))
            optimiser.zero_grad()
            loss_of(stage, role, models, batch, dice)
            optimiser.step()
    with torch.no_grad():
        samples = stage.generate(models["generator"], batch, torch.Generator().manual_seed(9))
    return samples.map(lambda x: x.flatten(1))


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_generator_of_two_modes_keeps_both_with_their_spread() -> None:
    video, audio = distilled(steps=1200, critic_learns_until=1200)
    clips = torch.cat([video, audio], dim=1)
    is_first = clips.mean(dim=1) > 0
    assert 0.3 < is_first.float().mean() < 0.7
    assert ((video.mean(dim=1) > 0) == (audio.mean(dim=1) > 0)).float().mean() > 0.9
    for mode, of_mode in ((1.0, clips[is_first]), (-1.0, clips[~is_first])):
        assert abs(of_mode.mean() - mode) < 0.25
        assert 0.5 * SPREAD < of_mode.std(dim=0).mean() < 1.5 * SPREAD


def test_with_a_critic_that_no_longer_learns_it_falls_into_one_mode_and_loses_its_spread() -> None:
    """What keeps both above is the critic: against scores of samples that are no longer made, the
    generator seeks a peak of the teacher's."""
    clips = torch.cat(distilled(steps=600, critic_learns_until=100), dim=1)
    is_first = clips.mean(dim=1) > 0
    assert not 0.1 < is_first.float().mean() < 0.9
    assert clips.std(dim=0).mean() < 0.5 * SPREAD
