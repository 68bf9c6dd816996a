"""A benchmark of three seconds on `tiny`: what it reports, and that it measures what it says."""

import json
import math
from dataclasses import FrozenInstanceError
from functools import partial
from itertools import pairwise

import pytest
import torch

from infra.config import RunConfig
from infra.presets import load_preset
from omniforcing_model.flop_count import block_flops
from omniforcing_model.kernels.packed_weights import can_pack
from pipelines.benchmarks.model.model_bench import (
    BenchOptions,
    Measured,
    evenly_spread,
    measure_model,
    product_shapes,
)
from pipelines.benchmarks.model.model_summary import ModelBench, bench_summary
from pipelines.benchmarks.model.steady import SteadyBlocks, percentile

CPU = torch.device("cpu")
SECONDS = 3
BLOCKS = 4  # the prefix and a block per second
NOT_DIFFUSERS = ("recompute", "static", "static-packed")
FIXED_KEYS = {
    "block_s",
    "block_s_median",
    "recompute_block_s_median",
    "static_cache_block_s_median",
    "diffusers_pass_s_median",
    "gemm_flops",
    "achieved_share",
    "memory_mb",
}


def small_run(**options: object) -> tuple[RunConfig, BenchOptions, Measured]:
    config = load_preset("tiny", ["model.layers=1"])
    chosen = BenchOptions(SECONDS, CPU, square_side=64, **options)  # type: ignore[arg-type]
    return config, chosen, measure_model(config, chosen, lambda: None)


@pytest.fixture(scope="module")
def bench() -> ModelBench:
    return bench_summary(*small_run(compared="bfloat16", baselines=NOT_DIFFUSERS))


def test_the_promised_keys_are_there_and_are_json(bench: ModelBench) -> None:
    values = json.loads(bench.model_dump_json())
    assert values.keys() >= FIXED_KEYS


def test_every_block_of_every_contestant_is_timed(bench: ModelBench) -> None:
    assert len(bench.block_s) == len(bench.static_cache_block_s) == BLOCKS
    assert sorted(bench.recompute_block_s) == list(range(BLOCKS))
    times = [*bench.block_s, *bench.static_cache_block_s, *bench.recompute_block_s.values()]
    assert all(seconds > 0 for seconds in times)


def test_a_block_is_as_long_as_its_passes(bench: ModelBench) -> None:
    assert bench.passes_per_block == 5
    assert bench.pass_s_median == pytest.approx(bench.denoise_s_median / 4)
    assert bench.pass_s_p99 >= bench.pass_s_median


def test_the_achieved_share_is_counted_operations_over_measured_ones(bench: ModelBench) -> None:
    config = load_preset("tiny", ["model.layers=1"])
    flops = [5 * block_flops(config.model, k, (2, 2), 24).total for k in range(BLOCKS)]
    rates = [count / s for count, s in zip(flops[2:], bench.block_s[2:], strict=True)]
    assert bench.achieved_share == pytest.approx(sum(rates) / 2 / bench.gemm_flops)
    assert bench.block_flops == flops[-1]


def test_bfloat16_beside_it_is_near_and_not_the_same(bench: ModelBench) -> None:
    assert bench.compared is not None
    assert 1e-5 < bench.compared.latent_error_video < 0.1
    assert 1e-5 < bench.compared.latent_error_audio < 0.1
    assert bench.compared.speed_up == pytest.approx(
        bench.block_s_median / bench.compared.block_s_median
    )


def test_memory_is_what_a_stream_holds(bench: ModelBench) -> None:
    assert bench.weights_mb == pytest.approx(4 * bench.parameters / 2**20)
    assert bench.memory_mb == pytest.approx(bench.weights_mb + bench.text_mb + bench.cache_mb)
    assert bench.growth.cache_mb_end == bench.growth.cache_mb_full


def test_the_static_cache_is_compared_with_either_library_in_both_types(bench: ModelBench) -> None:
    assert bench.compared is not None
    for static, ours_s in (
        (bench.static_cache, bench.block_s_median),
        (bench.compared.static_cache, bench.compared.block_s_median),
    ):
        assert static.block_s_median is not None
        assert static.packed_block_s_median is not None
        assert static.ratio == pytest.approx(static.block_s_median / ours_s)
        assert static.packed_ratio == pytest.approx(static.packed_block_s_median / ours_s)
    assert bench.static_cache.ratio == bench.faster_than_static_cache
    if can_pack(torch.ones(2, 2)):
        assert bench.static_cache.packed_block_s_median != bench.static_cache.block_s_median


def test_where_nothing_is_packed_both_libraries_are_one_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    bench = bench_summary(*small_run(baselines=("static", "static-packed")))
    assert bench.static_cache.block_s_median is not None
    assert bench.static_cache.packed_block_s_median == bench.static_cache.block_s_median


def test_a_run_ends_in_time_with_three_blocks_of_everything() -> None:
    bench = bench_summary(*small_run(limit_s=0.0, compared="bfloat16", baselines=("static",)))
    assert len(bench.block_s) == len(bench.static_cache_block_s) == 3
    assert bench.compared is not None


def test_what_is_left_out_is_not_run_and_reported_as_absent() -> None:
    bench = bench_summary(*small_run(baselines=()))
    assert bench.recompute_block_s_median is None
    assert bench.static_cache_block_s_median is bench.static_cache_mb is None
    assert bench.static_cache.ratio is bench.static_cache.packed_ratio is None
    assert bench.diffusers_pass_s_median is None
    assert bench.compared is None


def test_bfloat16_alone_is_compared_with_float32() -> None:
    bench = bench_summary(*small_run(dtype="bfloat16", compared="float32", baselines=()))
    assert bench.compared is not None
    assert bench.weights_mb == pytest.approx(2 * bench.parameters / 2**20)
    assert bench.compared.speed_up == pytest.approx(
        bench.compared.block_s_median / bench.block_s_median
    )
    assert 1e-5 < bench.compared.latent_error_video < 0.1


@pytest.mark.parity
def test_diffusers_computes_the_same_tokens_beside_it() -> None:
    pytest.importorskip("diffusers", reason="needs the extra ltx2")
    bench = bench_summary(*small_run(baselines=("diffusers",)))
    assert bench.diffusers_pass_s_median is not None
    assert bench.diffusers_pass_s_median > 0


@pytest.mark.quiet
def test_a_block_that_takes_longer_is_reported_longer() -> None:
    tiny = bench_summary(*small_run(baselines=()))
    config = load_preset("tiny", ["model.layers=8"])
    options = BenchOptions(SECONDS, CPU, square_side=64, baselines=())
    deep = bench_summary(config, options, measure_model(config, options, lambda: None))
    assert deep.block_s_median > 2 * tiny.block_s_median


def test_the_options_of_a_run_do_not_change_under_it() -> None:
    options = BenchOptions(SECONDS, CPU)
    with pytest.raises(FrozenInstanceError):
        options.seconds = SECONDS + 1  # type: ignore[misc]


def test_progress_counts_every_block() -> None:
    steps: list[int] = []
    config = load_preset("tiny", ["model.layers=1"])
    options = BenchOptions(SECONDS, CPU, square_side=64, baselines=())
    measured = measure_model(config, options, partial(steps.append, 1))
    assert len(steps) == BLOCKS
    assert product_shapes(measured.main.subject)[0].columns == 3 * config.model.video.width


@pytest.mark.parametrize(("blocks", "most"), [(3, 12), (12, 12), (31, 12), (100, 12)])
def test_recomputed_blocks_are_few_and_reach_from_first_to_last(blocks: int, most: int) -> None:
    chosen = sorted(evenly_spread(blocks, most))
    assert len(chosen) == min(blocks, most)
    assert (chosen[0], chosen[-1]) == (0, blocks - 1)
    gaps = [b - a for a, b in pairwise(chosen)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("blocks", "full", "first"),
    [(11, 4, 4), (7, 4, 4), (6, 4, 2), (31, 5, 5), (2, 4, 1), (1, 4, 0)],
)
def test_medians_are_over_blocks_with_a_full_window_where_there_are_three(
    blocks: int, full: int, first: int
) -> None:
    steady = SteadyBlocks(blocks, full)
    times = [float(k) for k in range(blocks)]
    assert steady.of(times) == times[first:]
    assert steady.median(times) == pytest.approx((first + blocks - 1) / 2)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_reached_by_its_share(share: float, expected: float) -> None:
    times = [float(k) for k in range(100, 0, -1)]
    value = percentile(times, share)
    assert value == expected
    assert sum(t <= value for t in times) >= math.floor(share * 100)
