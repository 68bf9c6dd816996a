"""What the stages train on: clean latents with their text, prompts, or ODE trajectories."""

from typing import NamedTuple

from torch import Tensor

from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape


class LatentBatch(NamedTuple):
    """Clips of the dataset.

    `latents`: clean, video (batch, frames, channels, height, width), audio (batch, frames,
    channels). `text` and `null_text`: features (batch, tokens, text_width) of the captions and of
    the prompt without words, per stream.
    """

    latents: PerStream[Tensor]
    text: PerStream[Tensor]
    null_text: PerStream[Tensor]


class PromptBatch(NamedTuple):
    """Prompts that samples are made for, from noise.

    `text`: as above; `null_text`: of the negative prompt, or of that without words. `shape`: of a
    clip of the data. `exit_draw` and `length_draw`: uniform in [0, 1), the same for all
    micro-batches of a role's step: after which step samples leave their chain, and how long a
    stream is.
    """

    text: PerStream[Tensor]
    null_text: PerStream[Tensor]
    shape: ClipShape
    exit_draw: float
    length_draw: float = 0.0


class TrajectoryBatch(NamedTuple):
    """ODE trajectories of the stage I model.

    `states`: video (batch, states, frames, channels, height, width), audio (batch, states, frames,
    channels), from noise to clean. `sigmas`: (states,), descending, the last 0. `text` as above.
    """

    states: PerStream[Tensor]
    sigmas: Tensor
    text: PerStream[Tensor]


Batch = LatentBatch | PromptBatch | TrajectoryBatch
