"""Which of a teacher's steps a trajectory takes, and the velocity between two of its states."""

import pytest
import torch

from omniforcing_model.distillation.ode_trajectory import euler_velocities, nearest_steps
from omniforcing_model.errors import SamplingError


def test_each_sigma_of_the_student_takes_the_nearest_step_and_the_last_is_clean() -> None:
    assert nearest_steps([1.0, 0.8, 0.5, 0.2, 0.0], (1.0, 0.45)) == [0, 2, 4]
    assert nearest_steps([1.0, 0.8, 0.5, 0.2, 0.0], (0.9, 0.66, 0.15)) == [0, 1, 3, 4]


def test_two_sigmas_near_one_step_are_refused_with_the_number_of_steps() -> None:
    with pytest.raises(SamplingError, match=r"got 2 steps for 1\.0, 0\.9; raise"):
        nearest_steps([1.0, 0.5, 0.0], (1.0, 0.9))


def test_a_sigma_near_the_clean_end_is_refused_too() -> None:
    with pytest.raises(SamplingError, match=r"got 2 steps for 1\.0, 0\.1; raise"):
        nearest_steps([1.0, 0.5, 0.0], (1.0, 0.1))


def test_a_velocity_is_the_difference_of_states_over_that_of_their_sigmas() -> None:
    states = torch.tensor([[[4.0, 0.0], [3.0, 1.0], [1.0, 2.0]]])
    velocities = euler_velocities(states, torch.tensor([1.0, 0.5, 0.0]))
    assert velocities.tolist() == [[[2.0, -2.0], [4.0, -2.0]]]
