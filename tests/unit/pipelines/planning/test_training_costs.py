"""Operations, bytes on the wire, hours and files of a stage, to the digit where it can be."""

import pytest

from infra.presets import load_preset
from omniforcing_model.flop_count import VisibleKeys, pass_flops, text_flops
from omniforcing_model.per_stream import PerStream
from pipelines.planning.model_size import model_size
from pipelines.planning.training_costs import checkpoint_bytes, passes_of, stage_costs

ONE = ["stages.teacher.optimiser.micro_batch=1", "stages.teacher.optimiser.recomputes=false"]


def tiny(*overrides):
    return load_preset("tiny", overrides)


def clip_flops(config):
    """Of one pass over a clip of `tiny` of 3 s: 10 video latents of 2 x 2, 76 of audio."""
    tokens = PerStream(40, 76)
    keys = VisibleKeys(40, 76, 76, 40)
    text = config.codec.text_tokens
    return pass_flops(config.model, tokens, keys, text).total + text_flops(config.model, text)


def test_a_pass_with_gradients_is_three_passes_and_four_where_layers_run_again():
    config = tiny(*ONE, "data.seconds=3", "data.height=64", "data.width=64")
    assert passes_of(config, "teacher", "generator").operations == 3 * clip_flops(config)
    again = tiny(*ONE[:1], "stages.teacher.optimiser.recomputes=true", "data.seconds=3")
    assert passes_of(again, "teacher", "generator").operations == 4 * clip_flops(again)


def test_a_critics_turn_samples_half_a_chain_and_a_generators_is_scored_three_times():
    config = tiny("sampling.student_sigmas=[1.0, 0.8, 0.5]")
    critic, generator = (passes_of(config, "stage_1", role) for role in ("critic", "generator"))
    # A gather a pass, and two where it has gradients: of three steps one goes before, on average.
    assert critic.gathers == 2 + 2
    assert generator.gathers == 1 + 2 + 3
    assert (critic.backward, generator.backward) == (1, 1)


def test_a_stream_gathers_for_every_block_and_takes_gradients_block_by_block():
    config = tiny("sampling.student_sigmas=[1.0, 0.5]", "data.seconds=3")
    critic, generator = (passes_of(config, "stage_3", role) for role in ("critic", "generator"))
    blocks, steps = 4, 1.5
    streamed = blocks * steps + (blocks - 1)
    assert critic.gathers == streamed + 2
    assert generator.gathers == streamed + 3 + 2 * blocks + (blocks - 1)
    assert generator.backward == blocks


def test_bytes_on_the_wire_are_weights_by_passes_without_a_ranks_own():
    on = ["cluster.distillation_worker.replicas=4", "stages.teacher.optimiser.batch=8"]
    spread = tiny(*ONE, *on, "stages.teacher.optimiser.zero_stage=3")
    weights = 4 * model_size(spread.model).total
    # Gathered forward and backward, and gradients summed: of two micro-batches each.
    costs = stage_costs(spread, "teacher")
    assert costs["step_wire_gb"] == pytest.approx(2 * 3 * 3 / 4 * weights / 1e9)
    alone = tiny(*ONE, "cluster.distillation_worker.replicas=1")
    assert stage_costs(alone, "teacher")["step_wire_gb"] == 0


def test_hours_and_money_follow_from_the_rates_of_the_configuration():
    plain, faster, dearer = (
        stage_costs(load_preset("paper", knobs), "stage_3")
        for knobs in ((), ("planning.gpu_share=0.8",), ("planning.gpu_hour=6",))
    )
    assert faster["compute_s"] == pytest.approx(plain["compute_s"] / 2)
    assert dearer["money"] == pytest.approx(2 * plain["money"])
    assert plain["gpu_hours"] == pytest.approx(2000 * plain["step_s"] * 32 / 3600)
    assert plain["step_s"] == plain["compute_s"] + plain["wire_s"]
    wide = stage_costs(load_preset("paper", ("planning.link_gb_s=100",)), "stage_3")
    assert wide["wire_s"] == pytest.approx(plain["wire_s"] / 2)


def test_a_checkpoint_holds_weights_and_moments_of_every_role_and_the_average():
    # 12 bytes a parameter of two roles, and 4 of the average; two checkpoints are kept.
    paper = load_preset("paper")
    assert checkpoint_bytes(paper, "stage_3") == 28 * 18_876_207_360
    assert stage_costs(paper, "stage_3")["checkpoints_gb"] == pytest.approx(2 * 528.5, rel=0.001)
    assert checkpoint_bytes(paper, "stage_2") == 16 * 18_876_207_360
