"""How the learning rate of a role goes up and down."""

import pytest

from actors.training.role_engine import RolePlan
from infra.presets import load_preset


def plan(updates=10, **settings):
    optimiser = load_preset("tiny").stages.trained_stage("stage_2").optimiser
    return RolePlan("generator", optimiser.model_copy(update=settings), 0.5, 1, updates)


def test_the_rate_goes_up_stays_and_goes_down_to_the_last_update():
    rates = [plan(warmup_steps=4, decay_share=0.3).rate_of(update) for update in range(1, 12)]
    up, down = [0.125, 0.25, 0.375], [1 / 3, 1 / 6]
    assert rates == pytest.approx([*up, *[0.5] * 5, *down, 0.0])


def test_without_warm_up_and_decay_the_rate_is_constant():
    constant = plan(warmup_steps=0, decay_share=0.0)
    assert [constant.rate_of(update) for update in (1, 10)] == [0.5, 0.5]


def test_decay_over_the_whole_stage_starts_at_the_full_rate():
    whole = plan(updates=4, warmup_steps=0, decay_share=1.0)
    assert [whole.rate_of(update) for update in (1, 2, 3, 4)] == [0.5, 0.375, 0.25, 0.125]
