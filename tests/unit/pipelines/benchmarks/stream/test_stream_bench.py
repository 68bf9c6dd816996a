"""A stream with its codecs, in parts; and the real model's shape, counted without running."""

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.machine.device import DtypeName
from pipelines.benchmarks.model.shape_report import H200, report_shape
from pipelines.benchmarks.stream.stream_bench import StreamBench, bench_stream
from pipelines.planning.memory import parameter_counts

CPU = torch.device("cpu")
SECONDS = 3


def stream_of(preset: str, *overrides: str) -> StreamBench:
    config = load_preset(preset, ["model.layers=1", *overrides])
    return bench_stream(config, SECONDS, CPU, "float32", lambda: None)


def test_all_frames_of_the_stream_are_decoded() -> None:
    bench = stream_of("tiny")
    assert bench.frames == 1 + 24 * SECONDS
    assert bench.codecs.startswith("tiny")
    assert len(bench.block_s) == len(bench.decode_s) == len(bench.held_mb) == SECONDS + 1


def test_the_first_second_is_reported_in_its_parts() -> None:
    bench = stream_of("tiny")
    parts = dict(bench.first_chunk_s)
    total = parts.pop("sum")
    assert list(parts) == [
        "encode_text",
        "read_text",
        "block_0",
        "commit_0",
        "block_1",
        "decode_video",
        "decode_audio",
    ]
    assert total == pytest.approx(sum(parts.values()))


def test_a_first_block_of_a_whole_second_is_the_first_chunk() -> None:
    bench = stream_of("tiny", "model.layout.kind=released")
    assert bench.frames == 1 + 24 * SECONDS
    assert "block_1" not in bench.first_chunk_s


def test_decoding_costs_frames_per_second() -> None:
    bench = stream_of("tiny")
    assert bench.frames_per_second == pytest.approx(24 / bench.block_s_median)
    assert bench.frames_per_second_decoded < bench.frames_per_second


def test_a_shape_without_codecs_is_decoded_by_random_ones_of_its_channels() -> None:
    bench = stream_of("small", "data.height=64", "data.width=64")
    assert bench.codecs == "linear, random"
    assert bench.frames == 1 + 24 * SECONDS
    assert "encode_text" not in bench.first_chunk_s


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_streams_and_decodes_too(dtype: DtypeName) -> None:
    config, gpu = load_preset("tiny"), torch.device("cuda")
    bench = bench_stream(config, SECONDS, gpu, dtype, lambda: None)
    assert bench.frames == 1 + 24 * SECONDS
    assert 0 < bench.block_s_median < 1
    assert 0 < bench.held_mb[-1] <= bench.peak_memory_mb


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_19b_shape_is_counted_in_a_second_and_no_memory(preset: str) -> None:
    config = load_preset(preset)
    report = report_shape(config, "bfloat16")
    assert report.parameters == sum(parameter_counts(config.model))
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
