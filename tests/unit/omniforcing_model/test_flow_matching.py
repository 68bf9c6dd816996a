"""Rectified flow and LTX-2's sigma schedules."""

import pytest
import torch

from omniforcing_model.flow_matching import (
    add_noise,
    shift_for_tokens,
    shifted_schedule,
    to_clean,
    to_velocity,
)

LTX2_8 = [1, 0.965712, 0.921875, 0.863856, 0.783445, 0.664579, 0.471003, 0.1, 0]
LTX2_4 = [1, 0.867083, 0.631569, 0.1, 0]


# fmt: off
LTX2_30 = [
    1, 0.994957, 0.989603, 0.983908, 0.977840, 0.971358, 0.964421, 0.956978, 0.948972, 0.940336,
    0.930994, 0.920854, 0.909810, 0.897735, 0.884479, 0.869858, 0.853651, 0.835584, 0.815319,
    0.792427, 0.766363, 0.736418, 0.701656, 0.660813, 0.612141, 0.553148, 0.480164, 0.387541,
    0.266120, 0.1, 0,
]
LTX2_40 = [
    1, 0.996449, 0.992737, 0.988851, 0.984780, 0.980510, 0.976026, 0.971312, 0.966349, 0.961116,
    0.955593, 0.949753, 0.943568, 0.937008, 0.930037, 0.922614, 0.914696, 0.906229, 0.897156,
    0.887408, 0.876908, 0.865565, 0.853273, 0.839908, 0.825323, 0.809343, 0.791758, 0.772313,
    0.750697, 0.726524, 0.699312, 0.668450, 0.633152, 0.592384, 0.544771, 0.488430, 0.420719,
    0.337809, 0.233936, 0.1, 0,
]
# fmt: on


@pytest.mark.parametrize("expected", [LTX2_40, LTX2_30, LTX2_8, LTX2_4])
def test_the_schedule_is_that_of_ltx2(expected: list[float]) -> None:
    assert shifted_schedule(len(expected) - 1, 2.05, 0.1) == pytest.approx(expected, abs=1e-6)


def test_the_40_step_schedule_holds_the_students_sigmas() -> None:
    schedule = shifted_schedule(40, 2.05, 0.1)
    picked = [schedule[i] for i in (0, 17, 29, 36, 40)]
    assert picked == pytest.approx([1, 0.906229, 0.726524, 0.420719, 0], abs=1e-6)


@pytest.mark.parametrize(("tokens", "shift"), [(1024, 0.95), (4096, 2.05), (6144, 2.783333)])
def test_a_longer_or_larger_clip_has_a_larger_shift(tokens: int, shift: float) -> None:
    assert shift_for_tokens(tokens) == pytest.approx(shift, abs=1e-6)


def test_noise_velocity_and_clean_are_one_straight_line() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 5, 4, generator=generator)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    noisy = add_noise(clean, noise, sigma)
    assert torch.allclose(to_clean(noisy, noise - clean, sigma), clean, atol=1e-6)
    assert torch.allclose(to_velocity(noisy, clean, sigma), noise - clean, atol=1e-5)
