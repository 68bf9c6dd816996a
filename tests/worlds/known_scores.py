"""Denoisers whose answer is known: the posterior mean of Gaussians and of a mixture of two.

They stand where a transformer would, with as much of `Denoiser` as sampling of whole clips asks.
Their text is the features themselves, and a row whose features are all 0 has no words.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from omniforcing_model.flow_matching import to_velocity
from omniforcing_model.per_stream import PerStream
from tests.worlds.small_models import small_model_config

CONFIG = small_model_config()


class Gaussian(NamedTuple):
    """Of a clip's values in one stream: mean (values,) and covariance (values, values)."""

    mean: Tensor
    covariance: Tensor

    def noised(self, sigma):
        """The distribution of x_sigma."""
        noise = sigma**2 * torch.eye(len(self.mean), dtype=self.mean.dtype)
        covariance = (1 - sigma) ** 2 * self.covariance + noise
        return torch.distributions.MultivariateNormal((1 - sigma) * self.mean, covariance)

    def score(self, noisy, sigma):
        """The gradient of its logarithm at x_sigma, in the shape of `noisy`, (batch, ...)."""
        flat = noisy.double().flatten(1).requires_grad_()
        (score,) = torch.autograd.grad(self.noised(sigma).log_prob(flat).sum(), flat)
        return score.reshape(noisy.shape)

    def posterior_mean(self, noisy, sigma):
        """E[x0 | x_sigma] of rows (batch, values) at sigma (batch,)."""
        level = sigma[:, None, None]
        noise = level**2 * torch.eye(len(self.mean), dtype=noisy.dtype)
        of_noisy = (1 - level) ** 2 * self.covariance + noise
        offsets = noisy - (1 - sigma[:, None]) * self.mean
        solved = torch.linalg.solve(of_noisy, offsets[..., None])
        return self.mean + ((1 - level) * self.covariance @ solved)[..., 0]


class StandIn:
    """A denoiser that knows the clean latents to expect."""

    config = CONFIG
    device = torch.device("cpu")
    dtype = torch.float32

    def read_text(self, text):
        return text

    def at_noise_level(self, sigma):
        return sigma

    def __call__(self, latents, sigma, text, view, perturbation=None):
        sigma = sigma[:, 0]
        clean = self.expected(latents, sigma, text)
        return latents.map(to_velocity, clean, PerStream(sigma, sigma))


class GaussianDenoiser(StandIn):
    """One Gaussian per stream for prompts with words, and one for those without."""

    def __init__(self, worded, wordless=None):
        self._worded, self._wordless = worded, wordless or worded

    def expected(self, latents, sigma, text):
        return latents.map(self._expected, text, self._worded, self._wordless, (sigma, sigma))

    def _expected(self, latents, text, worded, wordless, sigma):
        noisy = latents.double().flatten(1)
        has_words = text.flatten(1).any(dim=1)[:, None]
        means = (law.posterior_mean(noisy, sigma.double()) for law in (worded, wordless))
        return torch.where(has_words, *means).reshape(latents.shape).to(latents.dtype)


class TwoModes(StandIn):
    """Clips around +1 or around -1 in every value: in both streams the same."""

    def __init__(self, spread):
        self._spread = spread

    def expected(self, latents, sigma, text):
        keep = 1 - sigma
        variance = (keep * self._spread) ** 2 + sigma**2
        evidence = sum(x.flatten(1).sum(dim=1) for x in latents) * keep / variance
        gain = keep * self._spread**2 / variance
        mode = (1 - gain * keep) * torch.tanh(evidence)
        return latents.map(lambda x: _column(gain, x) * x + _column(mode, x))


class Learner(nn.Module):
    """A small network that adds to what another denoiser says; at first it adds nothing."""

    config, device, dtype = StandIn.config, StandIn.device, StandIn.dtype

    def __init__(self, values, start, width=64):
        super().__init__()
        self._start = start
        self._layers = nn.Sequential(
            nn.Linear(values + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, values),
        )
        nn.init.zeros_(self._layers[-1].weight)
        nn.init.zeros_(self._layers[-1].bias)

    read_text = StandIn.read_text
    at_noise_level = StandIn.at_noise_level

    def forward(self, latents, sigma, text, view, perturbation=None):
        flat = torch.cat([x.flatten(1) for x in latents], dim=1)
        added = self._layers(torch.cat([flat, sigma], dim=1))
        parts = added.split([x[0].numel() for x in latents], dim=1)
        velocity = self._start(latents, sigma, text, view)
        return velocity.map(lambda v, part: v + part.reshape(v.shape), parts)


class Still(StandIn):
    """Takes what it sees for clean."""

    def expected(self, latents, sigma, text):
        return latents


def _column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))
