import pytest
import torch

from omniforcing_model.distillation.objective import require_finite, weighted_sum
from omniforcing_model.errors import DivergenceError
from omniforcing_model.per_stream import PerStream


def test_the_loss_is_that_of_the_picture_and_the_weighted_one_of_the_sound() -> None:
    video = torch.tensor(2.0, requires_grad=True)
    parts = weighted_sum(PerStream(video, torch.tensor(3.0)), 0.5)
    assert {name: value.item() for name, value in parts.items()} == {
        "loss": 3.5,
        "video": 2.0,
        "audio": 3.0,
    }
    assert parts["loss"].requires_grad
    assert not parts["video"].requires_grad


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_refused_by_name(number: float) -> None:
    with pytest.raises(DivergenceError, match="finite numbers in the sound, got NaN or infinity"):
        require_finite(torch.tensor([0.0, number]), "the sound")


def test_finite_numbers_come_back_as_they_are() -> None:
    value = torch.tensor([0.0, -1.0])
    assert require_finite(value, "the sound") is value
