"""Stage I: bidirectional DMD with backward simulation (paper section 3.3).

The generator keeps its full attention and learns to sample in few steps. Its inputs are simulated
by itself from noise down to the step that is trained, so that it trains on what it will meet.
Unlike the released code, the clean end of the chain is not among the trained steps: a pass at sigma
0 has no gradient.
"""

import torch
from torch import Tensor

from omniforcing_model.distillation.distribution_matching import (
    DistributionMatching,
    SamplePart,
    Samples,
)
from omniforcing_model.distillation.latent_batch import PromptBatch
from omniforcing_model.flow_matching import add_noise
from omniforcing_model.noise import generator_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import draw_noise, few_step_sample, predict_clean
from omniforcing_model.transformer.denoiser import Denoiser


class BidirectionalDMD(DistributionMatching):
    """Few-step samples of whole clips."""

    uses_sinks = False

    def generate(
        self, model: Denoiser, batch: PromptBatch, generator: torch.Generator
    ) -> PerStream[Tensor]:
        """Samples that leave the chain after the batch's step; that step's pass has gradients."""
        shape = batch.shape
        noise = generator_noise(generator)
        sigmas = self.rule.student_sigmas
        step = self.exit_step(batch)
        text = model.read_text(batch.text)
        noisy = draw_noise(model, shape, noise)
        sigma = torch.full((shape.batch,), sigmas[step])
        if step > 0:
            clean = few_step_sample(model, text, shape, sigmas[:step], noise)
            noisy = clean.map(add_noise, noisy, PerStream(sigma, sigma))
        return predict_clean(model, noisy, sigma, text)

    def generate_parts(
        self, model: Denoiser, batch: PromptBatch, generator: torch.Generator
    ) -> Samples:
        """The whole clips as one part."""
        clean = self.generate(model, batch, generator)
        return Samples(clean.map(Tensor.detach), lambda: iter([SamplePart(clean, PerStream(0, 0))]))
