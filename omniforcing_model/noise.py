"""Where the noise of a stream, a sampled clip or a training step comes from."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from omniforcing_model.seeds import seed_of


class BlockNoise(Protocol):
    """Standard normal noise of one stream, block and denoising step."""

    def __call__(self, stream: str, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """A tensor of `shape` (batch, ...)."""
        ...


def seeded_noise(seeds: int | Sequence[int]) -> BlockNoise:
    """Noise that depends only on (seed, stream, block, step): replayable, and the same in every
    layout of replicas.

    Args:
        seeds: one per row of the batch, or one for a batch of 1.
    """
    rows = [seeds] if isinstance(seeds, int) else list(seeds)

    def draw(stream: str, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        drawn = []
        for seed in rows:
            generator = torch.Generator().manual_seed(seed_of(seed, stream, block, step))
            drawn.append(torch.randn(shape[1:], generator=generator))
        return torch.stack(drawn)

    return draw


def generator_noise(generator: torch.Generator) -> BlockNoise:
    """Noise from a training step's generator, in the order of the calls."""

    def draw(stream: str, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        del stream, block, step
        return torch.randn(shape, generator=generator)

    return draw
