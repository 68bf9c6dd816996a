"""A stream as graphs beside the same stream pass by pass."""

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.stream.graph_bench import bench_graphs, graph_blocks

TINY = ["model.layers=1", "model.layout.window_blocks=1"]


@pytest.mark.thorough
def test_on_a_cpu_whole_compiled_passes_give_the_same_latents_bit_for_bit() -> None:
    torch._dynamo.reset()  # what other tests of this process compiled counts against its limit
    config = load_preset("tiny", TINY)
    over: list[None] = []
    bench = bench_graphs(config, torch.device("cpu"), "float32", None, lambda: over.append(None))
    assert bench.is_equal
    assert bench.largest_difference == 0
    assert len(over) == bench.blocks == graph_blocks(config)
    assert len(bench.graph_block_s) == len(bench.plain_block_s) == bench.blocks
    assert bench.faster == pytest.approx(bench.plain_block_s_median / bench.graph_block_s_median)


@pytest.mark.gpu
def test_on_a_gpu_captured_passes_give_the_same_latents() -> None:
    config = load_preset("tiny", TINY)
    bench = bench_graphs(config, torch.device("cuda"), "bfloat16", None, lambda: None)
    assert bench.way == "captured"
    assert bench.largest_difference < 1e-2


def test_blocks_reach_beyond_a_full_window() -> None:
    config = load_preset("paper")
    assert graph_blocks(config) > 2 * (config.model.layout.window_blocks + 1)
