"""The few denoising steps of a block, for the baselines that do not run our rollout."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.flow_matching import add_noise, to_clean
from omniforcing_model.macro_block import MacroBlock
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream

Velocity = Callable[[PerStream[Tensor], float], PerStream[Tensor]]


class FewSteps:
    """Turns noise into a block's clean latents, step by step as `Rollout` does."""

    def __init__(
        self,
        config: ModelConfig,
        grid: tuple[int, int],
        sigmas: Sequence[float],
        noise: BlockNoise,
        device: torch.device,
    ) -> None:
        """As of `Rollout`; `device` is where latents live."""
        self._config, self._grid, self._noise, self._device = config, grid, noise, device
        self._sigmas = tuple(sigmas)

    def block(self, block: MacroBlock, velocity: Velocity) -> PerStream[Tensor]:
        """Clean latents, float32; `velocity` answers noisy latents at a sigma."""
        noisy = self._draw(block, 0)
        for step, level in enumerate(self._sigmas):
            here = self._constant(level, 1, 1)
            predicted = velocity(noisy, level).map(Tensor.float)
            clean = noisy.map(to_clean, predicted, PerStream(here, here))
            if step + 1 < len(self._sigmas):
                there = self._constant(self._sigmas[step + 1], 1)
                noisy = clean.map(add_noise, self._draw(block, step + 1), PerStream(there, there))
        return clean

    def _constant(self, sigma: float, *shape: int) -> Tensor:
        return torch.full(shape, sigma, device=self._device)

    def _draw(self, block: MacroBlock, step: int) -> PerStream[Tensor]:
        config, count = self._config, block.count
        shapes = PerStream(
            (1, count.video, config.video.latent_channels, *self._grid),
            (1, count.audio, config.audio.latent_channels),
        )
        return PerStream("video", "audio").map(
            lambda name, shape: self._noise(name, block.index, step, shape).to(self._device), shapes
        )
