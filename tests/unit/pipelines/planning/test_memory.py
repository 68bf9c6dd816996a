"""The memory of training, against what the paper's run is known to need and what knobs change."""

import pytest
import torch

from infra.machine import GIB
from infra.presets import load_preset
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.planning.memory import cache_bytes, pass_shape, stage_memory, stage_roles

SHAPES = [
    (),
    ("model.layers=2", "model.text_width=48", "model.layout.sinks=3"),
    ("model.video.heads=2", "model.audio.head_dim=24", "model.video.latent_channels=5"),
]
OTHER_LAYOUTS = [
    ("model.layout.window_blocks=3",),
    ("model.layout.pinned_blocks=3", "model.layout.first_block={video: 1, audio: 2}"),
    ("model.layout.anchor=stays",),
    ("model.layout.cross_view=own", "model.layout.pinned_blocks=2"),
]
BILLION = 1e9


@pytest.mark.parametrize("overrides", [*SHAPES, *OTHER_LAYOUTS])
def test_the_planned_cache_is_what_a_long_stream_fills(overrides):
    config = load_preset("tiny", ["model.layers=1", *overrides]).model
    model = DualStreamTransformer(config).requires_grad_(False)
    features = torch.zeros(1, 2, config.text_width)
    text = model.read_text(PerStream(features, features))
    rollout = Rollout(model, text, (2, 3), (1.0,), seeded_noise(0))
    for _ in range(config.layout.window_blocks + 4):
        rollout.next_block()
    assert cache_bytes(config, (2, 3)) == rollout.cache.nbytes()


def test_the_largest_of_several_sizes_is_planned_for():
    for buckets, grid in (
        ("[]", (2, 2)),
        ("[{height: 32, width: 64}, {height: 96, width: 64}]", (3, 2)),
    ):
        config = load_preset("tiny", [f"data.buckets={buckets}"])
        assert pass_shape(config, "stage_1").grid == grid


def kept(*overrides, stage="stage_3"):
    return stage_roles(load_preset("paper", overrides), stage).kept


def test_two_roles_that_learn_take_eighteen_bytes_a_parameter_each_beside_teacher_and_average():
    # Weights in bfloat16, gradients, masters and two moments in float32; the average in float32.
    ranks = load_preset("paper").cluster.distillation_worker.replicas
    own = 18.876e9 / ranks
    held = kept()
    assert held["masters"] == pytest.approx(2 * 4 * own, rel=0.001)
    assert held["moments"] == pytest.approx(2 * 8 * own, rel=0.001)
    assert held["gradients"] == pytest.approx(2 * 4 * own, rel=0.001)
    assert held["average"] == pytest.approx(4 * own, rel=0.001)
    # Norms, biases and tables are whole on every rank besides.
    assert 2 * 2 * own < held["weights"] < 2 * 2 * own * 1.1
    assert 2 * own < held["frozen"] < 2 * own * 1.1


def test_float32_takes_twice_the_weights_and_nothing_else():
    half, whole = kept(), kept("stages.stage_3.optimiser.precision=float32")
    doubled = {name for name in half if whole[name] != half[name]}
    assert doubled == {"weights", "frozen", "buffers"}
    assert all(whole[name] == 2 * half[name] for name in doubled)


def test_a_higher_zero_stage_keeps_less_on_a_rank():
    totals = [sum(kept(f"stages.stage_3.optimiser.zero_stage={z}").values()) for z in (1, 2, 3)]
    assert totals[0] > totals[1] > 4 * totals[2]


def test_whole_gradients_stay_in_float32_where_zero_1_trains_in_bfloat16():
    def gradients(zero_stage, precision):
        settings = (f"zero_stage={zero_stage}", f"precision={precision}")
        return kept(*(f"stages.stage_3.optimiser.{own}" for own in settings))["gradients"]

    assert gradients(1, "bfloat16") == pytest.approx(2 * 4 * 18.876e9, rel=0.001)
    assert gradients(1, "float32") == gradients(2, "bfloat16") == 0


def test_a_stage_without_a_critic_holds_one_role_that_learns():
    one, two = (kept(stage=stage) for stage in ("stage_2", "stage_3"))
    assert one["moments"] == pytest.approx(two["moments"] / 2, rel=0.001)
    assert "frozen" not in one


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_recomputed_layers_and_smaller_batches_keep_fewer_activations():
    def activations(*settings):
        overrides = [f"stages.stage_1.optimiser.{setting}" for setting in settings]
        memory = stage_memory(load_preset("tiny", overrides), "stage_1")
        return memory.phases["generator"]["activations"]

    kept_all = activations("micro_batch=2", "recomputes=false")
    assert activations("micro_batch=2", "recomputes=true") < kept_all / 2
    assert activations("micro_batch=1", "recomputes=false") == pytest.approx(kept_all / 2, rel=0.05)


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_stage_three_streams_scores_and_takes_gradients_of_a_block_at_a_time():
    paper = load_preset("paper")
    memory = stage_memory(paper, "stage_3")
    assert list(memory.phases) == [
        "construction",
        "rollout",
        "critic",
        "scores",
        "generator",
        "update",
        "save",
        "publish",
    ]
    cache = cache_bytes(paper.model, (16, 24)) / 2  # of bfloat16
    assert cache < memory.phases["rollout"]["activations"] < 2 * cache
    assert cache < memory.phases["generator"]["activations"] < cache + 10 * GIB


def test_a_whole_copy_for_rollouts_is_held_beside_the_spread_weights():
    more = kept("stages.stage_3.rollout_weights=whole")["frozen"] - kept()["frozen"]
    assert more == 2 * 18_876_207_360


def test_a_teacher_elsewhere_is_not_held_by_the_workers():
    here, there = kept(), kept("cluster.placement.teacher=remote")
    assert here["frozen"] > 0
    assert there.get("frozen", 0) == 0
    assert {k: v for k, v in here.items() if k != "frozen"} == there


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_the_longest_stream_is_what_a_rank_has_room_for():
    def held(*settings):
        overrides = [f"stages.stage_3.{setting}" for setting in settings]
        phases = stage_memory(load_preset("tiny", overrides), "stage_3").phases
        return [phases[name]["activations"] for name in ("rollout", "generator", "critic")]

    plain, longer, longest = (
        held(f"rollout_seconds={lengths}") for lengths in ("null", "[3, 20]", "[3, 60]")
    )
    # Past its window a stream holds its own latents and no more; scored is as much as ever.
    per_second = (longest[0] - longer[0]) / 40
    assert 0 < 40 * per_second < longer[0]
    assert longer[0] >= plain[0] and longest[1] > longer[1] >= plain[1]
    assert plain[2] == longer[2] == longest[2]
