"""ODE trajectories: what stage II regresses (paper equation 6).

A trajectory holds the states at every sigma of the student's list and the clean end. The paper's
are those of the stage I model, integrated with Euler steps on this very list, so that two states
give the velocity between them exactly. The released weights come without a stage I: there the
teacher takes all its guided steps, and the states at the student's sigmas are picked from them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omniforcing_model.errors import SamplingError
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape, Guidance, draw_noise, ode_trajectory
from omniforcing_model.transformer.denoiser import Denoiser


class GuidedSteps(NamedTuple):
    """A teacher's many steps: its sigmas, from 1 to 0, and the guidance of every step."""

    sigmas: Sequence[float]
    guidance: Guidance


def make_trajectories(
    model: Denoiser,
    text: PerStream[Tensor],
    shape: ClipShape,
    student_sigmas: Sequence[float],
    noise: BlockNoise,
    guided: GuidedSteps | None = None,
) -> PerStream[Tensor]:
    """States of the model's ODE for each prompt.

    Args:
        model: the stage I model, or the teacher.
        text: features (batch, tokens, text_width) per stream.
        shape: of the clips.
        student_sigmas: descending, without the final 0.
        noise: where the start comes from.
        guided: the teacher's steps; without them one step per sigma of the student.

    Returns:
        video (batch, sigmas + 1, frames, ...) and audio (batch, sigmas + 1, frames, channels).
    """
    with torch.no_grad():
        context = model.read_text(text)
        start = draw_noise(model, shape, noise)
        if guided is None:
            states = ode_trajectory(model, context, start, [*student_sigmas, 0.0])
        else:
            steps = nearest_steps(guided.sigmas, student_sigmas)
            every = ode_trajectory(model, context, start, guided.sigmas, guided.guidance)
            states = [every[step] for step in steps]
    video = torch.stack([state.video for state in states], dim=1)
    return PerStream(video, torch.stack([state.audio for state in states], dim=1))


def nearest_steps(sigmas: Sequence[float], student_sigmas: Sequence[float]) -> list[int]:
    """Where in `sigmas` each of the student's is, or nearly, and the last, which is clean.

    SamplingError if two of them would be the same state.
    """
    targets = torch.tensor([*student_sigmas, 0.0], dtype=torch.float64)
    distances = (torch.tensor(sigmas, dtype=torch.float64) - targets[:, None]).abs()
    steps: list[int] = distances.argmin(dim=1).tolist()
    if len(set(steps)) < len(steps):
        raise SamplingError(
            f"expected a step of the teacher near each of the student's sigmas, got"
            f" {len(sigmas) - 1} steps for {', '.join(map(str, student_sigmas))}; raise"
            " sampling.teacher_steps"
        )
    return steps


def euler_velocities(states: Tensor, sigmas: Tensor) -> Tensor:
    """Velocities (batch, states - 1, ...) at all states but the last, from neighbouring states."""
    steps = (sigmas[1:] - sigmas[:-1]).reshape(1, -1, *[1] * (states.ndim - 2))
    return (states[:, 1:] - states[:, :-1]) / steps
