"""Operations, bytes on the wire, hours and files of a stage, to the digit where it can be."""

import pytest

from infra.presets import load_preset
from omniforcing_model.flop_count import VisibleKeys, pass_flops, text_flops
from omniforcing_model.per_stream import PerStream
from pipelines.planning.model_size import model_size
from pipelines.planning.other_costs import trajectory_costs
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


def test_a_longer_stream_takes_more_passes_and_gradients_of_what_is_scored_or_asked_for():
    def generator(*settings):
        own = [f"stages.stage_3.{setting}" for setting in settings]
        config = tiny("sampling.student_sigmas=[1.0]", "data.seconds=3", *own)
        return passes_of(config, "stage_3", "generator")

    # Of ten seconds the last four blocks hold a clip of three, whose first latent is no block.
    longer, fewer = (
        generator("rollout_seconds=[10, 10]", f"gradient_blocks={blocks}") for blocks in ("null", 2)
    )
    assert (longer.backward, fewer.backward) == (4, 2)
    streamed, committed_again = 11 + 10, 10
    assert longer.gathers == streamed + 3 + committed_again + 2 * 4
    assert fewer.gathers == streamed + 3 + committed_again + 2 * 2
    # Each length is drawn as often as another.
    drawn, *each = (
        generator(f"rollout_seconds=[{least}, {most}]").operations
        for least, most in ((3, 5), (3, 3), (4, 4), (5, 5))
    )
    assert drawn == pytest.approx(sum(each) / 3)


def test_bytes_on_the_wire_are_weights_by_passes_without_a_ranks_own():
    def bytes_of(zero_stage):
        on = ["cluster.distillation_worker.replicas=4", "stages.teacher.optimiser.batch=8"]
        config = tiny(*ONE, *on, f"stages.teacher.optimiser.zero_stage={zero_stage}")
        return stage_costs(config, "teacher")["step_wire_gb"] * 1e9, model_size(config.model)

    # Gathered forward and backward, and gradients summed: of two micro-batches each. Vectors are
    # whole, and gathered after the update.
    spread, size = bytes_of(3)
    of_passes = 2 * (2 * (size.total - size.vectors) + size.total)
    assert spread == pytest.approx(4 * 3 / 4 * (of_passes + size.vectors))
    # Gradients on all ranks, of both micro-batches, and the weights after the update.
    cut, _ = bytes_of(2)
    assert cut == pytest.approx(4 * 3 / 4 * (2 * 2 + 1) * size.total)
    # Whole ones stay until then.
    whole, _ = bytes_of(1)
    assert whole == pytest.approx(4 * 3 / 4 * (2 + 1) * size.total)
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


def test_a_teacher_elsewhere_takes_its_passes_along_and_its_servers_are_paid_all_the_while():
    away = ["cluster.placement.teacher=remote", "cluster.teacher_server.replicas=4"]
    here, there = load_preset("paper"), load_preset("paper", away)
    ours, theirs = (passes_of(config, "stage_1", "generator") for config in (here, there))
    # A guided score is two passes; the worker's own weights are gathered for none of them.
    assert ours.gathers == theirs.gathers + 2
    together, apart = (stage_costs(config, "stage_1") for config in (here, there))
    assert apart["step_wire_gb"] < together["step_wire_gb"]
    # Of 32 questions in every fifth step, four are answered at a time.
    score = (ours.operations - theirs.operations) / (0.4 * 989e12)
    assert apart["teacher_s"] == pytest.approx(32 / 5 / 4 * score)
    assert apart["gpu_hours"] == pytest.approx((32 + 4) * apart["hours"])
    assert stage_costs(there, "stage_2")["gpu_hours"] > stage_costs(here, "stage_2")["gpu_hours"]
    assert together["teacher_s"] == 0


def test_trajectories_cost_the_passes_of_the_teachers_guidance():
    def costs(*settings):
        return trajectory_costs(load_preset("paper", settings))

    # 40 steps of four passes: prompt, negative prompt, weakened layers, streams apart.
    is_guided = "stages.trajectories.guided=true"
    guided, plain = costs(is_guided), costs()
    assert guided["operations"] == pytest.approx(40 * plain["operations"])  # of four steps
    unweakened = costs(is_guided, "sampling.stg_video=0", "sampling.stg_audio=0")
    assert unweakened["operations"] == pytest.approx(3 / 4 * guided["operations"])
    halved = costs(is_guided, "cluster.teacher_sampler.replicas=4")
    assert halved["hours"] == pytest.approx(2 * guided["hours"])
    assert halved["money"] == pytest.approx(guided["money"])
    # Five states of 16 x 16 x 24 latents of 128 channels and 126 of 128.
    count = load_preset("paper").stages.trajectories.count
    states = 5 * (16 * 384 * 128 + 126 * 128)
    assert costs("stages.trajectories.states=float32")["gigabytes"] == 4 * count * states / 1e9


def test_a_checkpoint_holds_weights_and_moments_of_every_role_and_the_average():
    # 12 bytes a parameter of two roles, and 4 of the average; two checkpoints are kept.
    paper = load_preset("paper")
    assert checkpoint_bytes(paper, "stage_3") == 28 * 18_876_207_360
    assert stage_costs(paper, "stage_3")["checkpoints_gb"] == pytest.approx(2 * 528.5, rel=0.001)
    assert checkpoint_bytes(paper, "stage_2") == 16 * 18_876_207_360
