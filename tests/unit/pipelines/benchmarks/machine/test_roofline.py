"""What the machine reaches in plain work, and a block's shares of it."""

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.machine.roofline import (
    BlockWork,
    MachineRates,
    Rates,
    float8_product,
    roofline,
)
from pipelines.benchmarks.model.pass_work import block_work, pass_bytes
from pipelines.benchmarks.model.shape_report import report_shape

CPU = torch.device("cpu")
# A second of products, half a second of memory.
RATES = Rates(products=100.0, attention=100.0, bytes=10.0)
WORK = BlockWork(products=80, attention=20, bytes=5)


def test_shares_are_the_times_at_the_machines_rates_over_the_blocks_time() -> None:
    line = roofline(WORK, RATES, block_s=2.0)
    assert (line.products_s, line.memory_s, line.limit_s) == (1.0, 0.5, 1.0)
    assert (line.product_share, line.bandwidth_share, line.share_of_limit) == (0.5, 0.25, 0.5)
    assert (line.flops_per_byte, line.ridge) == (20.0, 10.0)
    assert line.bound == "products"


def test_a_block_above_the_ridge_is_bound_by_products_and_below_it_by_memory() -> None:
    slow_memory = RATES.model_copy(update={"bytes": 1.0})
    line = roofline(WORK, slow_memory, block_s=6.0)
    assert line.limit_s == line.memory_s == 5.0
    assert line.bound == "memory"
    assert line.flops_per_byte < line.ridge


def test_a_block_that_is_near_no_limit_is_bound_by_neither() -> None:
    assert roofline(WORK, RATES, block_s=2.01).bound == "neither"


def test_attention_counts_at_the_rate_of_its_own_type() -> None:
    fast_layers = RATES.model_copy(update={"products": 200.0})
    assert roofline(WORK, fast_layers, block_s=1.0).products_s == pytest.approx(0.4 + 0.2)


def test_rates_are_medians_of_what_was_timed() -> None:
    rates = MachineRates("float32", CPU, side=64, copied_mib=8)
    for _ in range(3):
        rates.measure()
    found = rates.rates()
    assert found.products == found.attention > 0
    slowest, fastest = max(rates._copy_s), min(rates._copy_s)
    moved = 2 * 8 * 2**20
    assert moved / slowest <= found.bytes <= moved / fastest


def test_a_blocks_work_is_its_passes_and_the_shape_reports() -> None:
    config = load_preset("paper")
    work, report = block_work(config, "bfloat16"), report_shape(config, "bfloat16")
    assert work.products + work.attention == report.block_flops_settled
    flops = work.products + work.attention
    assert flops / work.bytes == pytest.approx(report.flops_per_byte)
    assert work.bytes == 5 * pass_bytes(config, "bfloat16").total


def test_float8_halves_what_the_layers_projections_weigh_and_nothing_else() -> None:
    config = load_preset("paper")
    wide, narrow = pass_bytes(config, "bfloat16"), pass_bytes(config, "float8")
    assert 0.5 < narrow.weights / wide.weights < 0.52
    assert (narrow.caches, narrow.text) == (wide.caches, wide.text)


def test_a_float8_product_is_of_a_converted_layer() -> None:
    pytest.importorskip("torchao", reason="needs the extra float8")
    product = float8_product(64, CPU)
    assert product().shape == (64, 64)
    assert product().dtype == torch.bfloat16


def test_where_nothing_multiplies_in_float8_its_rate_is_that_of_bfloat16() -> None:
    rates = MachineRates("float8", CPU, side=64, copied_mib=4)
    rates.measure()
    assert rates.rates().products == rates.rates().attention
