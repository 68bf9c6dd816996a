"""The figures we promise of `small` on a CPU; give it a quiet machine."""

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from actors.streaming.machine_kernels import machine_store
from infra.presets import load_preset
from pipelines.benchmarks.model.against import OURS, bench_against
from pipelines.benchmarks.model.model_bench import BenchOptions, measure_model
from pipelines.benchmarks.model.model_summary import ModelBench, bench_summary

pytestmark = [pytest.mark.quiet, pytest.mark.timeout(1800)]
# Aims that are measured and not reached yet, with what README.md says of them.
NOT_YET_BFLOAT16 = pytest.mark.xfail(strict=False, reason="1.5 times as fast")
# Before attention and regions were compiled for the processor.
EARLIER = "9a41726d20"


def small_for(seconds: int, **options: object) -> ModelBench:
    config = load_preset("small")
    chosen = BenchOptions(seconds, torch.device("cpu"), **options)  # type: ignore[arg-type]
    return bench_summary(config, chosen, measure_model(config, chosen, lambda: None))


@pytest.fixture(autouse=True, scope="module")
def measured_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This machine's own; other tests have the same ones everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        machine_store.cache_clear()
        yield
        machine_store().release()
    machine_store.cache_clear()


@pytest.fixture(scope="module")
def ten_seconds() -> ModelBench:
    return small_for(10, compared="bfloat16", baselines=("recompute", "static"))


def test_at_ten_seconds_a_block_takes_a_third_of_recomputing_it(ten_seconds: ModelBench) -> None:
    assert ten_seconds.faster_than_recompute is not None
    assert ten_seconds.faster_than_recompute >= 3


def test_at_ten_seconds_the_static_cache_is_slower(ten_seconds: ModelBench) -> None:
    assert ten_seconds.faster_than_static_cache is not None
    assert ten_seconds.faster_than_static_cache >= 1.3


def test_blocks_run_near_the_rate_of_plain_matrix_products(ten_seconds: ModelBench) -> None:
    assert ten_seconds.achieved_share >= 0.65


@NOT_YET_BFLOAT16
def test_bfloat16_is_faster_again_where_the_cpu_has_it(ten_seconds: ModelBench) -> None:
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this CPU has no bfloat16 products")
    assert ten_seconds.compared is not None
    assert ten_seconds.compared.speed_up >= 1.6
    assert ten_seconds.compared.latent_error_video < 0.02


def test_at_thirty_seconds_the_static_cache_is_twice_as_slow_and_we_are_as_fast() -> None:
    bench = small_for(30, baselines=("static",))
    assert bench.faster_than_static_cache is not None
    assert bench.faster_than_static_cache >= 2
    assert bench.growth.late_block_s_median is not None
    assert bench.growth.early_block_s_median is not None
    assert bench.growth.late_block_s_median <= 1.15 * bench.growth.early_block_s_median


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The sources as they were, from the history of this checkout."""
    archive, folder = tmp_path / "earlier.tar", tmp_path / "earlier"
    command = ["git", "-C", str(OURS), "archive", "-o", str(archive), EARLIER]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"this checkout's history has no {EARLIER}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_blocks_are_faster_than_before_in_either_dtype_on_one_thread_and_two(
    earlier: Path,
) -> None:
    result = bench_against(load_preset("small"), earlier, [10, 30], [1, 2], lambda: None)
    has_tiles = torch.cpu._is_amx_tile_supported()
    least = {"float32": 1.15, "bfloat16": 1.35} if has_tiles else {"float32": 1.1, "bfloat16": 1.15}
    slow = [row for row in result.rows if row.faster < least[row.dtype]]
    assert not slow
