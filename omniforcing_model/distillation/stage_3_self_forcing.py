"""Stage III: joint self-forcing DMD (paper section 3.4, equation 9).

The student streams a whole clip through its rolling cache, block after block on its own output: the
rollout that serves. Every block leaves the denoising chain after the same random step, whose pass
carries gradients; history in the cache does not. One DMD loss covers the clip.

The clip is streamed without gradients first and scored. Then each block's last pass is made again,
with gradients that are taken at once: the activations of one block are held, and history is read
from the cache, not copied for a backward pass that comes later.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from omniforcing_model.distillation.distribution_matching import (
    DistributionMatching,
    SamplePart,
    Samples,
)
from omniforcing_model.distillation.latent_batch import LatentBatch
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import generator_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout, joined, roll_out
from omniforcing_model.transformer.denoiser import Denoiser


class SelfForcingDMD(DistributionMatching):
    """Samples streamed block by block."""

    uses_sinks = True

    def generate(
        self, model: Denoiser, batch: LatentBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        """Streamed samples of the clip's length."""
        rollout = self._rollout(model, batch, generator)
        return roll_out(rollout, self._blocks(model, batch), exit_step=self.exit_step(batch))

    def generate_parts(
        self, model: Denoiser, batch: LatentBatch, generator: torch.Generator
    ) -> Samples:
        """The same samples, of which each block is a part."""
        exit_step = self.exit_step(batch)
        with torch.no_grad():
            rollout = self._rollout(model, batch, generator)
            passes = []
            for _ in range(self._blocks(model, batch)):
                rollout.next_block(exit_step)
                assert rollout.last_pass is not None, "a block was denoised"
                passes.append(rollout.last_pass)

        def parts() -> Iterator[SamplePart]:
            again, start = self._rollout(model, batch, generator), PerStream(0, 0)
            for last_pass in passes:
                latents = again.redo_block(last_pass, exit_step)
                yield SamplePart(latents, start)
                start = start.map(lambda at, own: at + own.shape[1], last_pass.clean)

        return Samples(joined([last_pass.clean for last_pass in passes]), parts)

    def _blocks(self, model: Denoiser, batch: LatentBatch) -> int:
        video, audio = batch.latents
        counts = PerStream(video.shape[1], audio.shape[1])
        return BlockLayout(model.config.layout).blocks_of(counts)

    def _rollout(self, model: Denoiser, batch: LatentBatch, generator: torch.Generator) -> Rollout:
        video = batch.latents.video
        return Rollout(
            model,
            model.read_text(batch.text),
            (video.shape[3], video.shape[4]),
            self.rule.student_sigmas,
            generator_noise(generator),
            batch=len(video),
        )
