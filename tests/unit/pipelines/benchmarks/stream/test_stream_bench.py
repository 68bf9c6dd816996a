"""A stream with its codecs, in parts; and the real model's shape, counted without running."""

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.machine.device import DtypeName
from pipelines.benchmarks.model.shape_report import H200, report_shape
from pipelines.benchmarks.stream.stream_bench import (
    StreamBench,
    StreamOptions,
    bench_stream,
    planned_blocks,
)
from pipelines.benchmarks.stream.timed_stream import StreamEngine
from pipelines.planning.model_size import model_size

CPU = torch.device("cpu")
SECONDS = 3


def stream_of(preset: str, *overrides: str) -> StreamBench:
    config = load_preset(preset, ["model.layers=1", *overrides])
    return bench_stream(config, small_machine(), lambda: None)


def small_machine(**options: object) -> StreamOptions:
    """The machine's own rates of small work: it is not what is tested."""
    return StreamOptions(SECONDS, CPU, square_side=64, copied_mib=4)._replace(**options)


def test_all_frames_of_the_stream_are_decoded() -> None:
    bench = stream_of("tiny")
    assert bench.frames == 1 + 24 * SECONDS
    assert bench.codecs.startswith("tiny")
    assert len(bench.block_s) == len(bench.decode_s) == len(bench.held_mb) == SECONDS + 1


def test_the_first_second_is_reported_in_its_parts_cold_and_warm() -> None:
    bench = stream_of("tiny")
    for first in (bench.first_chunk_cold_s, bench.first_chunk_warm_s):
        parts = dict(first)
        total = parts.pop("sum")
        assert list(parts) == [
            "encode_text",
            "read_text",
            "open",
            "block_0",
            "decode_video",
            "decode_audio",
            "mux",
            "commit_0",
            "block_1",
            "other",
        ]
        assert total == pytest.approx(sum(parts.values()))
        assert all(seconds > 0 for seconds in parts.values())
        assert parts["other"] < 0.5 * total


def test_the_second_stream_of_a_process_is_timed_and_the_first_kept_apart() -> None:
    bench = stream_of("tiny")
    assert len(bench.block_s) == bench.blocks == SECONDS + 1
    assert len(bench.cold_block_s) == SECONDS + 1
    assert bench.block_s != bench.cold_block_s


def test_the_second_streams_prompt_is_not_the_firsts() -> None:
    engine = StreamEngine(load_preset("tiny", ["model.layers=1"]), CPU, "float32")
    other = engine.other_features()
    assert not torch.equal(engine.subject.features.video, other.video)
    assert engine.subject.features.video.shape == other.video.shape


def test_the_first_stream_ends_once_a_block_has_left_the_window() -> None:
    config = load_preset("paper")
    assert planned_blocks(config, 30) == (config.model.layout.window_blocks + 3, 31)
    assert planned_blocks(config, 2) == (3, 3)


def test_a_stream_ends_in_time_with_the_blocks_that_a_figure_needs() -> None:
    config = load_preset("tiny", ["model.layers=1"])
    bench = bench_stream(config, small_machine(limit_s=0.0, seconds=20), lambda: None)
    assert bench.blocks == len(bench.cold_block_s) == 3
    assert bench.first_chunk_warm_s["sum"] > 0
    assert bench.block_s_median > 0


def test_the_limit_in_frames_is_what_the_roofline_leaves() -> None:
    bench = stream_of("tiny")
    line = bench.roofline
    assert line.block_s == bench.block_s_median
    assert bench.frames_per_second_limit == pytest.approx(24 / line.limit_s)
    assert line.share_of_limit == pytest.approx(
        bench.frames_per_second / bench.frames_per_second_limit
    )
    assert bench.p99_over_p50 == pytest.approx(bench.block_s_p99 / bench.block_s_median)
    assert bench.p99_over_p50 >= 1


def test_a_first_block_of_a_whole_second_is_the_first_chunk() -> None:
    bench = stream_of("tiny", "model.layout.first_block={video: 4, audio: 26}")
    assert bench.frames == 1 + 24 * SECONDS
    assert "block_1" not in bench.first_chunk_warm_s


def test_decoding_costs_frames_per_second() -> None:
    bench = stream_of("tiny")
    assert bench.frames_per_second == pytest.approx(24 / bench.block_s_median)
    assert bench.frames_per_second_decoded < bench.frames_per_second


def test_a_shape_without_codecs_is_decoded_by_random_ones_of_its_channels() -> None:
    bench = stream_of("small", "data.height=64", "data.width=64")
    assert bench.codecs == "linear, random"
    assert bench.frames == 1 + 24 * SECONDS
    assert "encode_text" not in bench.first_chunk_warm_s


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_streams_and_decodes_too(dtype: DtypeName) -> None:
    config, gpu = load_preset("tiny"), torch.device("cuda")
    options = StreamOptions(SECONDS, gpu, dtype, square_side=1024, copied_mib=64)
    bench = bench_stream(config, options, lambda: None)
    assert bench.frames == 1 + 24 * SECONDS
    assert 0 < bench.block_s_median < 1
    assert 0 < bench.held_mb[-1] <= bench.peak_memory_mb


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_19b_shape_is_counted_in_a_second_and_no_memory(preset: str) -> None:
    config = load_preset(preset)
    report = report_shape(config, "bfloat16")
    assert report.parameters == model_size(config.model).total
    assert report.parameters / 1e9 == pytest.approx(18.876, abs=0.001)
    assert report.weights_gb == pytest.approx(37.75, abs=0.01)
    # A pass with a full window; 884 operations a byte was worked out by hand for 7 frames less.
    assert report.flops_per_byte == pytest.approx(880, rel=0.02)


def test_floors_are_operations_at_the_full_rate_and_no_pass_is_faster() -> None:
    report = report_shape(load_preset("released"), "bfloat16")
    steady = report.pass_flops_settled["total"]
    assert report.floor_pass_s == pytest.approx(steady / H200.flops_per_second)
    assert report.floor_block_s == pytest.approx(5 * report.floor_pass_s)
    # The first block is a whole second here: text, and four passes before it can be decoded.
    first = 4 * report.pass_flops_first_block["total"] + report.text_flops
    assert report.floor_first_chunk_s == pytest.approx(first / H200.flops_per_second)


def test_a_model_too_small_to_compute_for_long_is_bound_by_memory() -> None:
    report = report_shape(load_preset("tiny"), "float32")
    steady = report.pass_flops_settled["total"]
    assert report.flops_per_byte < H200.flops_per_second / H200.bytes_per_second
    assert report.floor_pass_s > steady / H200.flops_per_second
