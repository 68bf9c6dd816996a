"""The real score of distribution matching: a frozen teacher's guided prediction of noised samples.

It takes latents and gives latents, no gradient: so the teacher may be a role beside the others, or
compute elsewhere. It is asked before the fake score computes, and its answer is read after.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance, predict_clean
from omniforcing_model.transformer.denoiser import Denoiser


class NoisedSamples(NamedTuple):
    """What the real score is asked about.

    `noisy`: latents at `sigma`, video (batch, frames, channels, height, width), audio (batch,
    frames, channels). `sigma`: (batch,). `text` and `null_text`: features (batch, tokens,
    text_width) per stream. `guidance`: away from `null_text`; 1 is none.
    """

    noisy: PerStream[Tensor]
    sigma: Tensor
    text: PerStream[Tensor]
    null_text: PerStream[Tensor]
    guidance: PerStream[float]


class RealScore(Protocol):
    """A teacher, wherever it is."""

    def ask(self, samples: NoisedSamples) -> Callable[[], PerStream[Tensor]]:
        """Clean latents in the shapes of `samples.noisy`, once they are called for."""
        ...


class TeacherScore:
    """Of a teacher in this process."""

    def __init__(self, teacher: Denoiser) -> None:
        self._teacher = teacher

    def ask(self, samples: NoisedSamples) -> Callable[[], PerStream[Tensor]]:
        """Clean latents, computed when they are called for."""
        return lambda: predict_guided(self._teacher, samples)


@torch.no_grad()
def predict_guided(teacher: Denoiser, samples: NoisedSamples) -> PerStream[Tensor]:
    """The guided clean prediction, in the shapes of `samples.noisy`."""
    scales = samples.guidance.map(GuidanceScales)
    guidance = Guidance(teacher.read_text(samples.null_text), scales)
    text = teacher.read_text(samples.text)
    return predict_clean(teacher, samples.noisy, samples.sigma, text, guidance)
