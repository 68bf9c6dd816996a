"""What preprocessing costs: counted operations and bytes, and hours from rates, to the digit."""

import pytest

from infra.presets import load_preset
from pipelines.planning.preprocess_costs import encoder_flops, preprocess_costs, row_bytes

TAPS = 2 * 27


def test_the_video_encoder_costs_two_operations_a_weight_and_place_of_every_convolution():
    # One picture of 64 x 64 is 16 x 16 patches, and each stride rounds time up.
    layers = [
        (16 * 16, 48 * 128),
        (16 * 16, 8 * 128 * 128 + 128 * 64),
        (8 * 8, 12 * 256 * 256 + 256 * 256),
        (8 * 8, 12 * 512 * 512 + 512 * 128),
        (4 * 4, 4 * 1024 * 1024 + 1024 * 256),
        (2 * 2, 4 * 2048 * 2048),
    ]
    assert encoder_flops(1, 64, 64) == TAPS * sum(places * weights for places, weights in layers)
    assert encoder_flops(9, 64, 96) == 178_320_310_272
    assert encoder_flops(121, 512, 768) == 139_567_344_648_192


def test_a_row_holds_float32_latents_and_text_features_of_two_streams():
    assert row_bytes(load_preset("tiny")) == 20_992


@pytest.mark.parametrize(
    ("preset", "seconds", "walls"),
    [
        (
            "paper",
            [3.0, 2.01666667, 0.35279915, 2.0, 0.08],
            [1.04166667, 1.40046296, 0.48999882, 2.77777778, 0.22222222],
        ),
        (
            "tiny",
            [3.0, 1.21666667, 0.00222878328, 0.0, 0.00143174924],
            [8.33333333, 3.37962963, 0.00619106466, 0.0, 0.00397708123],
        ),
    ],
)
def test_seconds_of_a_unit_and_hours_on_all_replicas(preset, seconds, walls):
    stages = preprocess_costs(load_preset(preset))["stages"]
    assert [stage["seconds_per_unit"] for stage in stages] == pytest.approx(seconds, rel=1e-6)
    assert [stage["wall_hours"] for stage in stages] == pytest.approx(walls, rel=1e-6)
    units = ["clip", "window", "window", "caption", "caption"]
    assert [stage["unit"] for stage in stages] == units


def test_hours_of_cores_and_gpus_add_up_and_the_slowest_stage_is_the_bottleneck():
    costs = preprocess_costs(load_preset("paper"))
    assert costs["bottleneck"] == "caption_rewriter"
    assert costs["windows"] == 20_000
    totals = [costs[name] for name in ("wall_hours", "core_hours", "gpu_hours", "money")]
    assert totals == pytest.approx([2.77777778, 38.4785138, 7.73777307, 24.7524598], rel=1e-6)
    assert "clips" not in costs["assumptions"]


def test_every_token_of_a_batch_and_every_caption_waits_for_a_pass_of_gemma():
    slow = ["planning.gemma_pass_s=1", "data.rewriter.batch=4", "data.rewriter.max_new_tokens=8"]
    costs = preprocess_costs(load_preset("paper", slow))
    seconds = {stage["stage"]: stage["seconds_per_unit"] for stage in costs["stages"]}
    assert (seconds["caption_rewriter"], seconds["text_encoder"]) == (8 * 1 / 4, 1)


def test_rewriting_takes_a_look_at_all_weights_per_token_and_encoding_two_operations_each():
    knobs = ["planning.gemma_pass_s=0", "data.rewriter.batch=4", "data.rewriter.max_new_tokens=8"]
    knobs += ["planning.gpu_bandwidth_tb_s=2", "planning.gpu_tflops=500", "planning.gpu_share=0.5"]
    config = load_preset("paper", knobs)
    seconds = {s["stage"]: s["seconds_per_unit"] for s in preprocess_costs(config)["stages"]}
    assert seconds["caption_rewriter"] == pytest.approx(8 / 4 * 24e9 / 1e12)
    tokens = config.codec.text_tokens
    assert seconds["text_encoder"] == pytest.approx(2 * 11.8e9 * tokens / 250e12)
