"""What a profiler names, beside a count."""

import pytest

from pipelines.benchmarks.kernels.profiled_block import compared

NAMES = [
    *["nvjet_tst_128x256"] * 90,
    *["void cublasLt::splitKreduce_kernel<32>"] * 4,
    *["void pytorch_flash::flash_fwd_splitkv_combine_kernel"] * 3,
    *["Memcpy DtoD (Device -> Device)"] * 5,
    *["Memset (Device)"] * 3,
    *["Memcpy HtoD (Pinned -> Device)"] * 7,
    "Memcpy DtoH (Device -> Pageable)",
]


def test_copies_from_and_to_the_host_are_no_kernels() -> None:
    block = compared(NAMES, counted=100, host_syncs=0)
    assert (block.kernels, block.uploads, block.downloads) == (105, 7, 1)
    assert block.difference == pytest.approx(0.05)
    assert block.sums_of_parts == 7
    assert next(iter(block.by_name)) == "nvjet_tst_128x256"


def test_fewer_kernels_than_counted_are_a_negative_difference() -> None:
    assert compared(["kernel"] * 95, counted=100, host_syncs=0).difference == pytest.approx(-0.05)
