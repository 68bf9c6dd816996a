"""A steady block of a whole model, counted."""

from typing import Literal

import pytest
import torch

from infra.presets import load_preset
from omniforcing_model.kernels.region_list import REGIONS
from pipelines.benchmarks.kernels.kernels_bench import KernelsBench, bench_kernels, count_kernels

PASSES = 5
KERNELS_OF_A_LAYER = (
    39  # in a pass: 18 products, 6 attentions, 14 regions between them; and the ends
)


def counted(preset: str, *overrides: str) -> KernelsBench:
    return count_kernels(load_preset(preset, overrides), "bfloat16")


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_has_as_many_kernels_in_every_preset_and_type(
    preset: str, dtype: Literal["float32", "bfloat16"]
) -> None:
    one, two = (count_kernels(load_preset(preset, [f"model.layers={n}"]), dtype) for n in (1, 2))
    assert two.kernels_per_block - one.kernels_per_block <= PASSES * KERNELS_OF_A_LAYER
    assert two.host_syncs == 0


def test_every_kernel_has_a_kind_and_a_place() -> None:
    bench = counted("tiny")
    assert sum(bench.by_kind.values()) == sum(bench.by_place.values()) == bench.kernels_per_block
    assert "elsewhere" not in bench.by_place
    assert not bench.unknown


def test_the_19b_model_keeps_to_its_kernels() -> None:
    config = load_preset("paper")
    assert (config.model.layers, config.data.height, config.data.width) == (48, 512, 768)
    bench = count_kernels(config, "bfloat16")
    assert bench.kernels_per_block <= 12_000
    assert bench.view_and_anchor_kernels <= 400
    assert bench.host_syncs == bench.downloads == 0
    assert bench.kernels_per_layer_and_pass <= KERNELS_OF_A_LAYER
    assert not bench.unknown
    listed = {f"region {name}" for region in REGIONS for name in region.operators}
    fused = {kind for kind in bench.by_kind if kind.startswith("region ")}
    assert fused
    assert fused <= listed


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_the_host_never_waits(architecture: str) -> None:
    bench = counted("tiny", f"model.architecture={architecture}", "model.layers=2")
    assert bench.host_syncs == 0
    assert bench.downloads == 0


def test_layers_cost_the_same_each() -> None:
    one, two, three = (counted("tiny", f"model.layers={n}") for n in (1, 2, 3))
    for field in ("kernels_per_block", "view_and_anchor_kernels", "calls_per_block"):
        a, b, c = (getattr(bench, field) for bench in (one, two, three))
        assert c - b == b - a


def test_captured_passes_leave_few_calls_to_the_host() -> None:
    one, two = (counted("tiny", f"model.layers={n}") for n in (1, 2))
    of_a_layer = two.calls_per_block - one.calls_per_block
    assert two.calls_beside_graphs - one.calls_beside_graphs <= of_a_layer / 20


def test_products_and_attentions_are_those_of_the_model() -> None:
    one, two = (counted("tiny", f"model.layers={n}") for n in (1, 2))
    # 9 products and 3 attentions of each stream in each layer and pass.
    assert two.by_kind["product"] - one.by_kind["product"] == PASSES * 18
    assert two.by_kind["attention"] - one.by_kind["attention"] == PASSES * 6


def test_bytes_grow_with_the_picture_and_kernels_do_not() -> None:
    small = counted("tiny", "model.layers=1")
    large = counted("tiny", "model.layers=1", "data.height=128")
    assert large.bytes_read > small.bytes_read
    assert large.bytes_written > small.bytes_written
    assert large.block_flops > small.block_flops
    assert large.by_kind == small.by_kind


@pytest.mark.gpu
def test_a_gpu_runs_as_many_kernels_as_are_counted() -> None:
    bench = bench_kernels(
        load_preset("paper", ["model.layers=4"]), "bfloat16", torch.device("cuda")
    )
    assert bench.profile is not None
    assert abs(bench.profile.difference) <= 0.05
    assert bench.profile.host_syncs == bench.profile.downloads == 0
