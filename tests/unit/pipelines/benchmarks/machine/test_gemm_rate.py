"""The machine's own rate, and the clock and memory it is measured with."""

import mmap
import statistics
import time

import pytest
import torch

from infra.errors import ConfigError
from infra.presets import load_preset
from pipelines.benchmarks.machine import device
from pipelines.benchmarks.machine.gemm_rate import GemmRate, ProductShape, square
from pipelines.benchmarks.stand_ins.subject import random_model

CPU = torch.device("cpu")


def test_a_rate_is_operations_over_the_median_time() -> None:
    shapes = (square(32), ProductShape(8, 16, 4))
    rate = GemmRate(shapes, torch.float32, CPU)
    for _ in range(5):
        rate.measure()
    assert square(32).flops == 2 * 32**3
    for shape in shapes:
        assert all(len(seconds) == 5 for seconds in rate._seconds[shape])
        plain, *others = (statistics.median(seconds) for seconds in rate._seconds[shape])
        assert rate.plain_per_second(shape) == pytest.approx(shape.flops / plain)
        assert rate.per_second(shape) == pytest.approx(shape.flops / min(plain, *others, plain))


def test_a_large_product_is_faster_per_operation_than_a_tiny_one() -> None:
    large, tiny = square(512), square(4)
    rate = GemmRate((large, tiny), torch.float32, CPU)
    for _ in range(5):
        rate.measure()
    assert rate.per_second(large) > 10 * rate.per_second(tiny)


def test_the_stopwatch_of_a_cpu_tells_seconds() -> None:
    watch = device.stopwatch_of(CPU)
    assert 0.02 <= device.seconds_of(watch, lambda: time.sleep(0.02)) < 2


def test_auto_is_a_device_that_is_there_and_a_missing_one_is_refused() -> None:
    assert device.chosen_device("auto").type in ("cpu", "cuda")
    assert device.chosen_device("meta").type == "meta"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cpu"):
            device.chosen_device("cuda")


def test_memory_that_is_held_counts_and_is_below_the_peak() -> None:
    before = device.held_memory_mb(CPU)
    with mmap.mmap(-1, 64 * 2**20) as held:  # an allocator may have as much left over
        held.write(b"x" * len(held))
        during = device.held_memory_mb(CPU)
    assert during - before > 40
    assert device.peak_memory_mb(CPU) >= during * 0.99


def test_a_model_that_does_not_fit_is_refused_before_anything_is_allocated() -> None:
    tiny = load_preset("tiny").model
    wide = tiny.model_copy(update={"video": tiny.video.model_copy(update={"heads": 2**15})})
    with pytest.raises(ConfigError, match="--device meta"):
        random_model(wide, torch.float32, CPU)
