"""Stage III: joint self-forcing DMD (paper section 3.4, equation 9).

The student streams a whole clip through its rolling cache, block after block on its own output: the
rollout that serves. Every block leaves the denoising chain after the same random step, whose pass
carries gradients; history in the cache does not. One DMD loss covers the clip.
"""

import torch
from torch import Tensor

from omniforcing_model.distillation.distribution_matching import DistributionMatching
from omniforcing_model.distillation.latent_batch import LatentBatch
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import generator_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout, roll_out
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer


class SelfForcingDMD(DistributionMatching):
    """Samples streamed block by block."""

    uses_sinks = True

    def generate(
        self, model: DualStreamTransformer, batch: LatentBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        """Streamed samples of the clip's length."""
        video, audio = batch.latents
        blocks = BlockLayout(model.config.layout).blocks_of(
            PerStream(video.shape[1], audio.shape[1])
        )
        rollout = Rollout(
            model,
            model.read_text(batch.text),
            (video.shape[3], video.shape[4]),
            self.rule.student_sigmas,
            generator_noise(generator),
            batch=len(video),
        )
        return roll_out(rollout, blocks, exit_step=self.exit_step(batch))
