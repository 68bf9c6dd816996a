"""The average's decay, by hand."""

import pytest
import torch
from torch import nn

from omniforcing_model.distillation.ema import Ema


def model(value: float) -> nn.Module:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def average(ema: Ema) -> float:
    copy = model(9.0)
    ema.copy_to(copy)
    return float(copy.state_dict()["weight"])


def test_early_decays_are_small_and_grow_up_to_the_one_that_is_set() -> None:
    ema = Ema(model(0.0), decay=0.2)
    assert average(ema) == 0.0
    ema.update(model(1.0))
    assert average(ema) == pytest.approx(9 / 11)  # decay (1 + 1) / (10 + 1)
    ema.update(model(1.0))
    assert average(ema) == pytest.approx(0.2 * 9 / 11 + 0.8)  # (1 + 2) / (10 + 2) is more than 0.2


def test_a_restored_average_goes_on_with_its_count_of_updates() -> None:
    ema, restored = Ema(model(0.0), decay=0.9), Ema(model(5.0), decay=0.9)
    ema.update(model(1.0))
    state = ema.state()
    assert int(state["ema.updates"]) == 1
    restored.restore(state)
    restored.update(model(0.0))
    assert average(restored) == pytest.approx(0.25 * 9 / 11)


def test_the_average_is_float32_whatever_the_weights_are() -> None:
    ema = Ema(model(0.5).to(torch.bfloat16), decay=0.9)
    assert ema.state()["weight"].dtype == torch.float32
