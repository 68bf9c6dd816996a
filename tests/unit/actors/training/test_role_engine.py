"""What a role starts from, and how its learning rate goes up and down."""

import pytest
from torch import distributed as dist

from actors.training.role_engine import RoleEngine, RolePlan
from actors.training.stage_objectives import stage_objective
from actors.training.start_weights import made_network, start_weights
from infra.presets import load_preset
from omniforcing_model.weights.checkpoint_files import load_model
from tests.worlds.training import small_run, write_model


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


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_in_bfloat16_it_starts_from_the_float32_of_a_checkpoint(tmp_path, zero_stage):
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = small_run("stages.teacher.optimiser.precision=bfloat16", zero_stage=zero_stage)
    folder = write_model(config, tmp_path / "model")
    optimiser = config.stages.trained_stage("teacher").optimiser
    start = start_weights(config, "teacher", "generator", folder)
    of_role = RolePlan("generator", optimiser, 1e-3, 1, 1)
    network = made_network(start, optimiser, "cpu")
    engine = RoleEngine(of_role, network, stage_objective(config, "teacher"), start)
    whole = dict(load_model(tmp_path / "model").named_parameters())
    shards = engine.shards()
    # Sinks do not learn in this stage; they are published all the same.
    assert {*whole} - {*shards} == {"audio.sinks.tokens"}
    for name, weight in whole.items():
        assert not weight.bfloat16().float().equal(weight)
        values = shards[name].values if name in shards else None
        assert engine.whole(name, values).equal(weight), name
    engine.close()
