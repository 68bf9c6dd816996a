"""The Triton kernels are the plain forms, and one kernel a region: without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omniforcing_model.kernels.region_list import REGIONS

pytest.importorskip("triton")
pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[4]


def reported(module, **environment):
    """What a program of tests/worlds prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.worlds.{module}"],
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cases():
    """Every case in Triton's interpreter."""
    return reported("interpreted_kernels", TRITON_INTERPRET="1")


def test_every_region_runs_in_the_interpreter_as_one_kernel(cases):
    assert {name.split()[0] for name in cases} == {region.function for region in REGIONS}
    assert {name: case["launches"] for name, case in cases.items() if case["launches"] != 1} == {}


def of(cases, kind):
    """The cases of one type."""
    return {name: case for name, case in cases.items() if name.endswith(f", {kind}")}


def test_in_float32_a_kernel_is_the_plain_form(cases):
    apart = {name: case["kernel"][0] for name, case in of(cases, "float32").items()}
    assert len(apart) > 50
    assert max(apart.values()) < 1e-5, max(apart, key=apart.get)


def test_in_bfloat16_a_kernel_is_within_two_roundings(cases):
    apart = {name: case["kernel"][0] for name, case in of(cases, "bfloat16").items()}
    assert max(apart.values()) < 2**-6, max(apart, key=apart.get)


def test_a_kernel_rounds_no_more_than_the_plain_form(cases):
    worse = {
        name: case
        for name, case in of(cases, "float16").items()
        if case["kernel"][0] > 2**-9 or case["kernel"][1] > 1.02 * case["plain"][1]
    }
    assert worse == {}


def test_a_kernel_returns_what_the_plain_form_does_in_the_same_order_of_memory(cases):
    assert [name for name, case in cases.items() if not case["strides"]] == []


@pytest.fixture(scope="module")
def compiled():
    """Every operator's launch, compiled for a GPU."""
    return reported("compiled_kernels")


def test_every_operator_is_compiled_to_the_one_kernel_that_is_listed(compiled):
    listed = {
        name: {source.partition(":")[2] for source in region.sources}
        for region in REGIONS
        for name in region.operators
    }
    launched = {}
    for made in compiled:
        assert len(made["kernels"]) == 1, made
        assert made["binary"], made
        launched.setdefault(made["operator"], set()).update(made["kernels"])
    assert launched == listed


def test_a_kernel_calls_nothing_and_holds_its_token_in_registers(compiled):
    assert [made for made in compiled if made["functions"] or made["stack"]] == []


def test_a_kernel_reads_and_writes_memory_16_bytes_at_a_time(compiled):
    """At the 19 B shape, but for one place, or one gate, of a token."""
    real = [made for made in compiled if made["shape"] in ("video", "audio")]
    assert len(real) > 20
    for made in real:
        narrow = [access for access in made["accesses"] if not access.endswith(".v4.b32")]
        assert len(narrow) <= 1, made
        assert len(made["accesses"]) >= 4, made
