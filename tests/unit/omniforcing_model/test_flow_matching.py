"""Rectified flow and LTX-2's sigma schedules."""

import pytest
import torch

from omniforcing_model.flow_matching import add_noise, shifted_schedule, to_clean, to_velocity

LTX2_8 = [1, 0.965712, 0.921875, 0.863856, 0.783445, 0.664579, 0.471003, 0.1, 0]
LTX2_4 = [1, 0.867083, 0.631569, 0.1, 0]


@pytest.mark.parametrize("expected", [LTX2_8, LTX2_4])
def test_the_schedule_is_that_of_ltx2(expected: list[float]) -> None:
    assert shifted_schedule(len(expected) - 1, 2.05, 0.1) == pytest.approx(expected, abs=1e-6)


def test_the_40_step_schedule_holds_the_students_sigmas() -> None:
    schedule = shifted_schedule(40, 2.05, 0.1)
    picked = [schedule[i] for i in (0, 17, 29, 36, 40)]
    assert picked == pytest.approx([1, 0.906229, 0.726524, 0.420719, 0], abs=1e-6)


def test_noise_velocity_and_clean_are_one_straight_line() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 5, 4, generator=generator)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    noisy = add_noise(clean, noise, sigma)
    assert torch.allclose(to_clean(noisy, noise - clean, sigma), clean, atol=1e-6)
    assert torch.allclose(to_velocity(noisy, clean, sigma), noise - clean, atol=1e-5)
