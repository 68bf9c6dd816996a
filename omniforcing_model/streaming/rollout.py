"""The one rollout: denoise a block, commit it to the cache, go on (paper section 3.4).

Stage III, evaluation and serving all stream through this file; a replica that holds one stream runs
it too, with None in the other stream's place.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.flow_matching import add_noise, to_clean
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.block_latents import NOTHING, BlockLatents, both_of
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.attention_view import AttentionView
from omniforcing_model.transformer.denoiser import Denoiser, Level
from omniforcing_model.transformer.text_context import TextContext


class BlockPass(NamedTuple):
    """The last denoising pass of a block: the latents it began with, and the clean ones it gave."""

    noisy: PerStream[Tensor]
    clean: PerStream[Tensor]


class Rollout:
    """Streams one batch of prompts block by block through a model with a rolling cache."""

    def __init__(
        self,
        model: Denoiser,
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
        self._sigmas = tuple(sigmas)
        self._noise = noise
        self._batch = batch
        self._latents = BlockLatents(model, grid, batch)
        self.cache = RollingCache.of(model, grid, batch)
        self.block_index = 0
        self._levels: dict[PerStream[float], Level] = {}
        self._emitted: tuple[AttentionView, PerStream[Tensor]] | None = None
        self.last_pass: BlockPass | None = None

    def next_block(
        self, exit_step: int | None = None, given: PerStream[Tensor | None] = NOTHING
    ) -> PerStream[Tensor]:
        """Clean latents of the next macro-block, float32.

        The pass that writes them into the cache is left for later (`commit`), so that they can be
        decoded first; the last block of a stream never needs it.

        Args:
            exit_step: leave after this denoising step (stage III draws it); default the last.
                Only this step's pass carries gradients, and only where the caller has them on.
            given: clean latents of one stream, None for the other, which is denoised while it sees
                them at sigma 0: a first picture, or a sound. Of both streams: as `force_block`.

        Raises:
            ShapeError: what is given is not latents of the next block.
        """
        if (both := both_of(given)) is not None:
            self.force_block(both)
            return both
        self._latents.check(given, self.block_index)
        self.commit()
        view = CachedView(self.cache, self.block_index)
        last = len(self._sigmas) - 1 if exit_step is None else exit_step
        clean = self._denoise(view, last, given)
        self._emit(view, clean)
        return clean

    def redo_block(self, last_pass: BlockPass, exit_step: int) -> PerStream[Tensor]:
        """The clean latents of the next block, which another rollout has streamed, by its last pass
        alone: with gradients, where the caller has them on.

        History becomes what that rollout had. Take the gradients before the next block: it writes
        into the cache that a recomputed layer reads.
        """
        self.commit()
        view = CachedView(self.cache, self.block_index)
        level = PerStream(self._sigmas[exit_step], self._sigmas[exit_step])
        clean = self._predict(last_pass.noisy, level, view)
        self._emit(view, last_pass.clean)
        return clean

    @torch.no_grad()
    def commit(self) -> None:
        """Write the last block's noise-free keys and values, if that is pending: one pass at
        sigma 0. `next_block` does it otherwise."""
        if self._emitted is not None:
            view, clean = self._emitted
            self._emitted = None
            self._predict(clean, PerStream(0.0, 0.0), view)

    def force_block(self, latents: PerStream[Tensor]) -> None:
        """Take `latents` as the next block instead of denoising one: a stream goes on from them.

        Raises:
            ShapeError: they are not latents of the next block.
        """
        self._latents.check(latents, self.block_index)
        self.commit()
        self._emit(CachedView(self.cache, self.block_index), latents)

    def skip_to(self, block: int) -> None:
        """Let the next block be `block`, before which only the pinned ones are seen (replay.py)."""
        self.commit()
        self.cache.begin_ring(block)
        self.block_index = block

    def _emit(self, view: AttentionView, clean: PerStream[Tensor]) -> None:
        self._emitted = (view, clean.map(torch.Tensor.detach))
        self.block_index += 1

    def _denoise(
        self, view: AttentionView, exit_step: int, given: PerStream[Tensor | None]
    ) -> PerStream[Tensor]:
        levels = [
            PerStream(*(level if latents is None else 0.0 for latents in given))
            for level in self._sigmas
        ]
        noisy = self._latents.begun(self._noise, self.block_index, given)
        for step, level in enumerate(levels[:exit_step]):
            with torch.no_grad():
                clean = self._predict(noisy, level, view)
                sigma = levels[step + 1].map(lambda own: self._full((self._batch,), own))
                drawn = self._latents.draw(self._noise, self.block_index, step + 1)
                noisy = clean.map(add_noise, drawn, sigma)
        clean = self._predict(noisy, levels[exit_step], view)
        self.last_pass = BlockPass(noisy, clean.map(Tensor.detach))
        return clean

    def _predict(
        self, noisy: PerStream[Tensor], level: PerStream[float], view: AttentionView
    ) -> PerStream[Tensor]:
        sigma = level.map(lambda own: self._full((self._batch, 1), own))
        dtype = self._model.dtype
        velocity = self._model(
            noisy.map(lambda x: x.to(dtype)), self._noise_level(level, sigma), self._text, view
        )
        return noisy.map(lambda x, v, own: to_clean(x, v.float(), own), velocity, sigma)

    def _noise_level(self, level: PerStream[float], sigma: PerStream[Tensor]) -> Level:
        """The level's modulation, computed once per stream unless gradients pass through it, and
        once per process where the weights are final."""
        if torch.is_grad_enabled():
            return sigma
        if self._model.is_sealed:
            return self._model.level_of(level)
        if level not in self._levels:
            self._levels[level] = self._model.at_noise_level(sigma)
        return self._levels[level]

    def _full(self, shape: tuple[int, ...], value: float) -> Tensor:
        return torch.full(shape, value, device=self._model.device)


def roll_out(rollout: Rollout, blocks: int, exit_step: int | None = None) -> PerStream[Tensor]:
    """Stream `blocks` blocks and join them: a whole clip's clean latents."""
    return joined([rollout.next_block(exit_step) for _ in range(blocks)])


def joined(blocks: Sequence[PerStream[Tensor]]) -> PerStream[Tensor]:
    """The latents of a clip, from those of its blocks."""
    video = torch.cat([block.video for block in blocks], dim=1)
    return PerStream(video, torch.cat([block.audio for block in blocks], dim=1))
