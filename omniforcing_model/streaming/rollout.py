"""The one rollout: denoise a block, commit it to the cache, go on (paper section 3.4).

Stage III, evaluation and serving all stream through this file; a replica that holds one stream runs
it too, with None in the other stream's place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from omniforcing_model.flow_matching import add_noise, to_clean
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.macro_block import BlockLayout, MacroBlock
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.attention_view import AttentionView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.modulation import NoiseLevel
from omniforcing_model.transformer.text_context import TextContext


class Rollout:
    """Streams one batch of prompts block by block through a model with a rolling cache."""

    def __init__(
        self,
        model: DualStreamTransformer,
        text: TextContext,
        grid: tuple[int, int],
        sigmas: Sequence[float],
        noise: BlockNoise,
        batch: int = 1,
    ) -> None:
        """Open a stream.

        Args:
            model: the student, both halves or one.
            text: `model.read_text(...)` of the prompts.
            grid: latent (height, width).
            sigmas: descending noise levels of the few denoising steps, without the final 0.
            noise: where noise comes from.
            batch: prompts in the batch.
        """
        self._model = model
        self._text = text
        self._grid = grid
        self._sigmas = tuple(sigmas)
        self._noise = noise
        self._batch = batch
        self._layout = BlockLayout(model.config.layout)
        self.cache = RollingCache.of(model, grid, batch)
        self.block_index = 0
        self._levels: dict[float, NoiseLevel] = {}
        self._emitted: tuple[AttentionView, PerStream[Tensor]] | None = None

    def next_block(self, exit_step: int | None = None) -> PerStream[Tensor]:
        """Clean latents of the next macro-block, float32.

        The pass that writes them into the cache is left for later (`commit`), so that they can be
        decoded first; the last block of a stream never needs it.

        Args:
            exit_step: leave after this denoising step (stage III draws it); default the last.
                Only this step's pass carries gradients, and only where the caller has them on.
        """
        self.commit()
        view = CachedView(self.cache, self.block_index)
        last = len(self._sigmas) - 1 if exit_step is None else exit_step
        clean = self._denoise(self._layout.block(self.block_index), view, last)
        self._emit(view, clean)
        return clean

    @torch.no_grad()
    def commit(self) -> None:
        """Write the last block's noise-free keys and values, if that is pending: one pass at
        sigma 0. `next_block` does it otherwise."""
        if self._emitted is not None:
            view, clean = self._emitted
            self._emitted = None
            self._predict(clean, 0.0, view)

    def force_block(self, latents: PerStream[Tensor]) -> None:
        """Take `latents` as the next block instead of denoising one."""
        self.commit()
        self._emit(CachedView(self.cache, self.block_index), latents)

    def _emit(self, view: AttentionView, clean: PerStream[Tensor]) -> None:
        self._emitted = (view, clean.map(torch.Tensor.detach))
        self.block_index += 1

    def _denoise(self, block: MacroBlock, view: AttentionView, exit_step: int) -> PerStream[Tensor]:
        noisy = self._draw(block, 0)
        for step, level in enumerate(self._sigmas[:exit_step]):
            with torch.no_grad():
                clean = self._predict(noisy, level, view)
                fresh = self._draw(block, step + 1)
                sigma = torch.full(
                    (self._batch,), self._sigmas[step + 1], device=self._model.device
                )
                noisy = clean.map(add_noise, fresh, PerStream(sigma, sigma))
        return self._predict(noisy, self._sigmas[exit_step], view)

    def _predict(
        self, noisy: PerStream[Tensor], level: float, view: AttentionView
    ) -> PerStream[Tensor]:
        sigma = torch.full((self._batch, 1), level, device=self._model.device)
        dtype = self._model.dtype
        velocity = self._model(
            noisy.map(lambda x: x.to(dtype)), self._noise_level(level, sigma), self._text, view
        )
        return noisy.map(lambda x, v: to_clean(x, v.float(), sigma), velocity)

    def _noise_level(self, level: float, sigma: Tensor) -> Tensor | NoiseLevel:
        """The level's modulation, computed once per stream unless gradients pass through it."""
        if torch.is_grad_enabled():
            return sigma
        if level not in self._levels:
            self._levels[level] = self._model.at_noise_level(sigma)
        return self._levels[level]

    def _draw(self, block: MacroBlock, step: int) -> PerStream[Tensor]:
        config = self._model.config
        shapes = PerStream(
            (self._batch, block.count.video, config.video.latent_channels, *self._grid),
            (self._batch, block.count.audio, config.audio.latent_channels),
        )
        names, device = PerStream("video", "audio"), self._model.device

        def draw(_: object, name: str, shape: tuple[int, ...]) -> Tensor:
            return to_device(self._noise(name, block.index, step, shape), device)

        return self._model.halves.map(draw, names, shapes)


def roll_out(rollout: Rollout, blocks: int, exit_step: int | None = None) -> PerStream[Tensor]:
    """Stream `blocks` blocks and join them: a whole clip's clean latents."""
    parts = [rollout.next_block(exit_step) for _ in range(blocks)]
    video = torch.cat([part.video for part in parts], dim=1)
    return PerStream(video, torch.cat([part.audio for part in parts], dim=1))
