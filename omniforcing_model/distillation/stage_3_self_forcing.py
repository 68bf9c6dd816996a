"""Stage III: joint self-forcing DMD (paper section 3.4, equation 9).

The student streams a whole clip through its rolling cache, block after block on its own output: the
rollout that serves. Every block leaves the denoising chain after the same random step, whose pass
carries gradients; history in the cache does not. One DMD loss covers the clip.

The clip is streamed without gradients first and scored. Then each block's last pass is made again,
with gradients that are taken at once: the activations of one block are held, and history is read
from the cache, not copied for a backward pass that comes later.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.distillation.distribution_matching import (
    DistributionMatching,
    DistributionMatchingRule,
    SamplePart,
    Samples,
)
from omniforcing_model.distillation.latent_batch import PromptBatch
from omniforcing_model.distillation.real_score import RealScore
from omniforcing_model.noise import generator_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout, joined, roll_out
from omniforcing_model.transformer.denoiser import Denoiser


class RolloutRule(NamedTuple):
    """How long streams are, in blocks, from `least` to `most`, and how many of their last blocks
    carry gradients: all where `gradient_blocks` is None."""

    least: int
    most: int
    gradient_blocks: int | None = None

    def blocks(self, draw: float) -> int:
        """Of a step, whose `draw` is uniform in [0, 1)."""
        return self.least + int(draw * (self.most - self.least + 1))


class SelfForcingDMD(DistributionMatching):
    """Samples streamed block by block.

    A stream that is longer than the clips of the data lets the window roll and the anchor move, as
    they do when it serves. Its last latents, as many as a clip has, are what is scored: the scores
    know clips of that length. Unlike Self-Forcing, which decodes the frame before them and encodes
    it as a first one, the first of them stays as it was streamed.
    """

    uses_sinks = True

    def __init__(
        self,
        rule: DistributionMatchingRule,
        rollout: RolloutRule,
        real_score: RealScore | None = None,
    ) -> None:
        """Match a teacher as `DistributionMatching` does, by streams of `rollout`."""
        super().__init__(rule, real_score)
        self._rollout_rule = rollout

    def generate(
        self, model: Denoiser, batch: PromptBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        """Streamed samples of the clip's length, the last of their stream."""
        rollout = self._rollout(model, batch, generator)
        blocks = self._rollout_rule.blocks(batch.length_draw)
        streamed = roll_out(rollout, blocks, exit_step=self.exit_step(batch))
        return streamed.map(_last, batch.shape.latents)

    def generate_parts(
        self, model: Denoiser, batch: PromptBatch, generator: torch.Generator
    ) -> Samples:
        """The same samples, of which each block is a part."""
        exit_step, rule = self.exit_step(batch), self._rollout_rule
        blocks = rule.blocks(batch.length_draw)
        with torch.no_grad():
            rollout = self._rollout(model, batch, generator)
            passes = []
            for _ in range(blocks):
                rollout.next_block(exit_step)
                assert rollout.last_pass is not None, "a block was denoised"
                passes.append(rollout.last_pass)
        streamed = joined([last_pass.clean for last_pass in passes])
        clip = streamed.map(_last, batch.shape.latents)
        before = streamed.map(lambda x, own: x.shape[1] - own.shape[1], clip)
        without = blocks - (rule.gradient_blocks or blocks)

        def parts() -> Iterator[SamplePart]:
            again, at = self._rollout(model, batch, generator), before.map(lambda n: -n)
            for index, last_pass in enumerate(passes):
                end = at.map(lambda start, own: start + own.shape[1], last_pass.clean)
                if index < without or max(end) <= 0:
                    again.force_block(last_pass.clean)
                else:
                    latents = again.redo_block(last_pass, exit_step)
                    yield SamplePart(
                        latents.map(lambda x, start: x[:, max(0, -start) :], at),
                        at.map(lambda start: max(0, start)),
                    )
                at = end

        return Samples(clip, parts)

    def _rollout(self, model: Denoiser, batch: PromptBatch, generator: torch.Generator) -> Rollout:
        return Rollout(
            model,
            model.read_text(batch.text),
            batch.shape.grid,
            self.rule.student_sigmas,
            generator_noise(generator),
            batch=batch.shape.batch,
        )


def _last(streamed: Tensor, count: int) -> Tensor:
    """The last `count` latents, or all there are."""
    return streamed[:, max(0, streamed.shape[1] - count) :]
