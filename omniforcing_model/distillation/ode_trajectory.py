"""ODE trajectories of the stage I model: what stage II regresses (paper equation 6).

A trajectory holds the states at every sigma of the student's list and the clean end. Two states
give the velocity between them exactly: the ODE was integrated with Euler steps on this very list.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from omniforcing_model.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.per_stream import PerStream
from omniforcing_model.rollout import BlockNoise
from omniforcing_model.sampling import ClipShape, draw_noise, ode_trajectory


def make_trajectories(
    model: DualStreamTransformer,
    text: PerStream[Tensor],
    shape: ClipShape,
    student_sigmas: Sequence[float],
    noise: BlockNoise,
) -> PerStream[Tensor]:
    """States of the stage I model's ODE for each prompt.

    Args:
        model: the stage I model.
        text: features (batch, tokens, text_width) per stream.
        shape: of the clips.
        student_sigmas: descending, without the final 0.
        noise: where the start comes from.

    Returns:
        video (batch, sigmas + 1, frames, ...) and audio (batch, sigmas + 1, frames, channels).
    """
    with torch.no_grad():
        context = model.read_text(text)
        start = draw_noise(model, shape, noise)
        states = ode_trajectory(model, context, start, [*student_sigmas, 0.0])
    video = torch.stack([state.video for state in states], dim=1)
    return PerStream(video, torch.stack([state.audio for state in states], dim=1))


def euler_velocities(states: Tensor, sigmas: Tensor) -> Tensor:
    """Velocities (batch, states - 1, ...) at all states but the last, from neighbouring states."""
    steps = (sigmas[1:] - sigmas[:-1]).reshape(1, -1, *[1] * (states.ndim - 2))
    return (states[:, 1:] - states[:, :-1]) / steps
