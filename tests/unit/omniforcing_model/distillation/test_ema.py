"""The average's decay, by hand."""

import pytest
import torch

from omniforcing_model.distillation.ema import Ema


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([value])}


def test_early_decays_are_small_and_grow_up_to_the_one_that_is_set() -> None:
    ema = Ema(weights(0.0), decay=0.2)
    assert ema.averages["weight"].item() == 0.0
    ema.update(weights(1.0))
    assert ema.averages["weight"].item() == pytest.approx(9 / 11)  # decay (1 + 1) / (10 + 1)
    ema.update(weights(1.0))  # (1 + 2) / (10 + 2) is more than 0.2
    assert ema.averages["weight"].item() == pytest.approx(0.2 * 9 / 11 + 0.8)


def test_the_average_of_a_part_is_the_part_of_the_average() -> None:
    start, later = torch.arange(6.0), torch.arange(6.0).square()
    whole, part = Ema({"w": start}, 0.5), Ema({"w": start[2:4]}, 0.5)
    whole.update({"w": later})
    part.update({"w": later[2:4]})
    assert torch.equal(part.averages["w"], whole.averages["w"][2:4])


def test_the_average_is_float32_whatever_the_weights_are_and_a_copy_of_its_own() -> None:
    start = torch.tensor([0.5], dtype=torch.bfloat16)
    ema = Ema({"weight": start}, decay=0.9)
    start.zero_()
    assert ema.averages["weight"].dtype == torch.float32
    assert ema.averages["weight"].item() == 0.5
