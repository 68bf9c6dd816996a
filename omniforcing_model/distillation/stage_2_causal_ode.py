"""Stage II: causal ODE regression with audio sinks (paper section 3.3, equation 6).

The student sees a trajectory under the four-way causal mask and learns the stage I model's
velocity. Every macro-block stands at its own noise level. Where we differ from the released code:
the blocks before a random one are clean, because clean history is what the student will have when
it streams.

The released code has no stage I: states are picked from the teacher's many guided steps. The secant
between two of them is no velocity of a model, so there the clean end of the trajectory is learned.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from omniforcing_model.distillation.latent_batch import TrajectoryBatch
from omniforcing_model.distillation.objective import Models, weighted_sum
from omniforcing_model.distillation.ode_trajectory import euler_velocities
from omniforcing_model.flow_matching import to_clean
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.four_way_mask import CausalView


class CausalOdeRegression:
    """Velocity regression on trajectories, block-causal."""

    uses_sinks = True

    def __init__(self, audio_weight: float, target: Literal["velocity", "clean"]) -> None:
        """Weigh the audio loss by `audio_weight`.

        target: what is regressed: the velocity between neighbouring states, or the clean end.
        """
        self._audio_weight = audio_weight
        self._target = target

    def losses(
        self, role: str, models: Models, batch: TrajectoryBatch, generator: torch.Generator
    ) -> Iterator[dict[str, Tensor]]:
        """Mean squared error of the target over the latents of blocks that are not clean."""
        model = models[role]
        video, audio = batch.states
        rows, clean = len(video), len(batch.sigmas) - 1
        counts = PerStream(video.shape[2], audio.shape[2])
        layout = BlockLayout(model.config.layout)
        state_of_block = draw_states(rows, layout.blocks_of(counts), clean, generator)
        view = CausalView(model.config, counts, (video.shape[4], video.shape[5]), video.device)
        of_latent = layout.block_of_latent(counts).map(torch.tensor)
        state = of_latent.map(lambda blocks: state_of_block[:, blocks])
        noisy = batch.states.map(_pick, state)
        inputs, text = noisy.map(lambda x: x.to(model.dtype)), model.read_text(batch.text)
        velocity = model(inputs, batch.sigmas[state_of_block], text, view).map(Tensor.float)
        if self._target == "velocity":
            steps = batch.states.map(lambda states: euler_velocities(states, batch.sigmas))
            goals = steps.map(lambda step, at: _pick(step, at.clamp(max=clean - 1)), state)
            predicted = velocity
        else:
            goals = batch.states.map(lambda states: states[:, -1])
            predicted = noisy.map(to_clean, velocity, state.map(lambda at: batch.sigmas[at]))
        errors = predicted.map(lambda x, goal, at: _masked_error(x, goal, at < clean), goals, state)
        yield weighted_sum(errors, self._audio_weight)


def draw_states(rows: int, blocks: int, clean: int, generator: torch.Generator) -> Tensor:
    """State of every block, (rows, blocks): clean before a random block, random from it on."""
    first_noisy = torch.randint(blocks, (rows, 1), generator=generator)
    noisy = torch.randint(clean, (rows, blocks), generator=generator)
    return torch.where(torch.arange(blocks) < first_noisy, clean, noisy)


def _pick(states: Tensor, index: Tensor) -> Tensor:
    """states (batch, states, frames, ...) at index (batch, frames) -> (batch, frames, ...)."""
    rows = torch.arange(len(states))[:, None]
    return states[rows, index, torch.arange(states.shape[2])]


def _masked_error(predicted: Tensor, goal: Tensor, keep: Tensor) -> Tensor:
    per_latent = (predicted - goal).square().flatten(2).mean(dim=2)
    return (per_latent * keep).sum() / keep.sum().clamp(min=1)
