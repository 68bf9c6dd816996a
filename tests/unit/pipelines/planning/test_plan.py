"""What `omniforcing plan` shows before anything is started."""

import subprocess
import sys
from typing import Any

import pytest

from infra.presets import load_preset
from pipelines.planning.plan import plan
from pipelines.planning.preprocess_costs import encoder_flops


def test_the_plan_names_every_stage_with_its_claim_and_steps() -> None:
    planned = plan(load_preset("tiny", ["cluster.distillation_worker.replicas=3"]))
    distill = {stage["stage"]: stage for stage in planned["jobs"]["distill"]}
    assert list(distill) == ["teacher", "stage_1", "trajectories", "stage_2", "stage_3"]
    assert distill["stage_2"]["replicas"] == 3
    assert planned["jobs"]["preprocess"][-1]["stage"] == "shards"


def test_a_stage_takes_the_rows_that_it_reads_and_the_models_that_it_starts_from() -> None:
    overrides = ["stages.trajectories.count=10", "stages.trajectories.batch=4"]
    planned = plan(load_preset("tiny", overrides), ("distill",))["jobs"]["distill"]
    assert [(stage["takes"], stage["gives"]) for stage in planned] == [
        ("dataset", "bidirectional, many guided steps"),
        ("dataset, teacher", "bidirectional, few steps"),
        ("dataset, stage_1", "the stage I model's ODE, from noise to clean"),
        ("trajectories, stage_1", "causal, regressed on trajectories, streamed"),
        ("dataset, stage_2, teacher", "causal, self-forced, streamed"),
    ]
    trajectories = planned[2]
    assert (trajectories["steps"], trajectories["batch"]) == (3, 4)
    assert "generator_steps" not in planned[0]


def test_generator_steps_follow_from_the_critic_ratio() -> None:
    overrides = ["stages.stage_3.optimiser.steps=100", "stages.stage_3.critic_ratio=4"]
    planned = plan(load_preset("tiny", overrides), ("distill",))
    stage_3 = planned["jobs"]["distill"][-1]
    assert (stage_3["steps"], stage_3["generator_steps"]) == (100, 25)
    assert set(planned["jobs"]) == {"distill"}


def test_a_colocated_server_needs_one_kind_of_replica() -> None:
    stages = plan(load_preset("tiny", ["serve.layout=colocated"]), ("serve",))["jobs"]["serve"]
    assert [stage["stage"] for stage in stages].count("video_stream") == 1
    assert "audio_stream" not in [stage["stage"] for stage in stages]


def test_as_many_streams_are_planned_as_the_server_has_pairs() -> None:
    stages = plan(load_preset("tiny", ["serve.pairs=4"]), ("serve",))["jobs"]["serve"]
    replicas = {stage["stage"]: stage["replicas"] for stage in stages}
    assert replicas == {"gateway": 1, "prompt_encoder": 1, "video_stream": 4, "audio_stream": 4}


def test_a_stage_in_the_actors_of_the_one_before_has_as_many_as_that() -> None:
    overrides = [
        "cluster.clip_decoder.replicas=5",
        "cluster.clip_decoder.min_replicas=2",
        "cluster.caption_rewriter.with_previous=false",
        "cluster.caption_rewriter.replicas=7",
    ]
    stages = plan(load_preset("tiny", overrides), ("preprocess",))["jobs"]["preprocess"]
    assert [stage["replicas"] for stage in stages] == [1, 5, 5, 7, 7, 1]
    assert [stage.get("min_replicas") for stage in stages] == [1, 2, 2, 1, 1, None]


def test_planning_starts_nothing_and_counts_with_torch_alone() -> None:
    program = (
        "import sys; from pipelines.cli import main; status = main(['plan', '--json']);"
        "heavy = {'ray', 'mlflow', 'deepspeed'} & set(sys.modules);"
        "sys.exit(status or (3 if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sizes_are_told_with_what_is_trained_or_served() -> None:
    paper = load_preset("paper")
    sizes = plan(paper, ("serve",))["memory"]["parameters"]
    assert sizes["total"] == sizes["video"] + sizes["audio"] == 18_876_207_360
    assert sizes["video"] == 48 * sizes["layer"]["video"] + sizes["ends"]["video"]
    assert "memory" not in plan(paper, ("preprocess",))


def test_the_costs_of_preprocessing_stand_with_their_assumptions() -> None:
    costs = plan(load_preset("paper"), ("preprocess",))["preprocess_costs"]
    stages = {stage["stage"]: stage for stage in costs["stages"]}
    assert list(stages) == [
        "clip_surveyor",
        "clip_decoder",
        "latent_encoder",
        "caption_rewriter",
        "text_encoder",
    ]
    assert costs["clips"] == 10_000
    assert costs["bottleneck"] in stages
    assert costs["wall_hours"] == max(stage["wall_hours"] for stage in stages.values())
    assert costs["assumptions"]["gpu_hour"] > 0
    # 16 x 16 x 24 latents of 128 channels, 126 of 128, and two streams of 1024 tokens of 3840.
    assert costs["gigabytes"] == 20_000 * 4 * (16 * 384 * 128 + 126 * 128 + 2 * 1024 * 3840) / 1e9


def test_more_replicas_end_sooner_and_cost_the_same() -> None:
    few, many = (
        plan(load_preset("paper", [f"cluster.clip_surveyor.replicas={n}"]), ("preprocess",))
        for n in (1, 10)
    )
    walls = [costs["preprocess_costs"]["stages"][0]["wall_hours"] for costs in (few, many)]
    assert walls[0] == 10 * walls[1]
    assert few["preprocess_costs"]["money"] == many["preprocess_costs"]["money"]


def costs_of(*overrides: str) -> dict[str, Any]:
    costs: dict[str, Any] = plan(load_preset("paper", overrides), ("preprocess",))[
        "preprocess_costs"
    ]
    return costs


def test_prices_are_the_configurations() -> None:
    costs = costs_of("planning.gpu_hour=2", "planning.core_hour=0.5")
    assert costs["money"] == pytest.approx(2 * costs["gpu_hours"] + 0.5 * costs["core_hours"])
    assert costs["gpu_hours"] > 0 and costs["core_hours"] > 0


@pytest.mark.parametrize(
    ("knob", "stages"),
    [
        ("windows_per_clip=4", {"clip_decoder", "latent_encoder"}),
        ("source_seconds=40", {"clip_surveyor"}),
        ("survey_s_per_second=0.3", {"clip_surveyor"}),
        ("decode_s_per_second=0.8", {"clip_decoder"}),
        ("gemma_pass_s=0.16", {"caption_rewriter", "text_encoder"}),
        (
            "clips=20000",
            {
                "clip_surveyor",
                "clip_decoder",
                "latent_encoder",
                "caption_rewriter",
                "text_encoder",
            },
        ),
    ],
)
def test_twice_an_assumption_is_twice_the_hours_of_its_stages(knob: str, stages: set[str]) -> None:
    before, after = (
        {stage["stage"]: stage["wall_hours"] for stage in costs["stages"]}
        for costs in (costs_of("planning.gemma_pass_s=0.08"), costs_of(f"planning.{knob}"))
    )
    ratios = {stage: after[stage] / before[stage] for stage in before}
    assert ratios == pytest.approx({stage: 2 if stage in stages else 1 for stage in before})


def test_a_faster_gpu_encodes_and_writes_sooner() -> None:
    slow = ("planning.gemma_pass_s=0", "planning.gpu_share=0.2")
    seconds = {
        knobs: [stage["seconds_per_unit"] for stage in costs_of(*slow, *knobs)["stages"]]
        for knobs in ((), ("planning.gpu_tflops=1978",), ("planning.gpu_bandwidth_tb_s=6.7",))
    }
    plain, tflops, bandwidth = seconds.values()
    assert [a / b for a, b in zip(plain, tflops, strict=True)] == pytest.approx([1, 1, 2, 1, 2])
    assert [a / b for a, b in zip(plain, bandwidth, strict=True)] == pytest.approx([1, 1, 1, 2, 1])
    full = [
        stage["seconds_per_unit"]
        for stage in costs_of("planning.gemma_pass_s=0", "planning.gpu_share=0.4")["stages"]
    ]
    assert [a / b for a, b in zip(plain, full, strict=True)] == pytest.approx([1, 1, 2, 2, 2])


def test_the_video_encoders_operations_are_those_of_its_layers() -> None:
    # By hand: convolutions of 27 taps on 4 x 4 patches of 121 pictures of 512 x 768.
    first = 2 * 27 * 121 * 128 * 192 * (48 * 128 + 8 * 128 * 128 + 128 * 64)
    assert first < encoder_flops(121, 512, 768) < 2e14
    assert encoder_flops(121, 512, 768) > 1e14
    assert encoder_flops(1, 512, 768) < encoder_flops(121, 512, 768) / 50
