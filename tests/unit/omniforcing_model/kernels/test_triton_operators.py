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


def test_in_float32_a_kernel_is_the_plain_form(cases):
    apart = {name: case["kernel"][0] for name, case in cases.items() if "float32" in name}
    assert len(apart) > 50
    assert max(apart.values()) < 1e-5, max(apart, key=apart.get)


def test_in_bfloat16_a_kernel_rounds_no_more_than_the_plain_form(cases):
    worse = {
        name: case
        for name, case in cases.items()
        if case["kernel"][0] > 1.5e-2 or case["kernel"][1] > 1.02 * case["plain"][1]
    }
    assert {name: case for name, case in worse.items() if "bfloat16" in name} == {}


def test_a_kernel_returns_what_the_plain_form_does_in_the_same_order_of_memory(cases):
    assert [name for name, case in cases.items() if not case["strides"]] == []
