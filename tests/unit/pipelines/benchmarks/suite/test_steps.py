"""Which steps a machine gets, and how the time is shared out."""

from pathlib import Path

import pytest

from infra.presets import load_preset
from pipelines.benchmarks.suite.steps import Extent, Machine, planned_steps

FILE = Path("config.yaml")


@pytest.mark.parametrize(
    "machine", [Machine(False, False), Machine(True, False), Machine(True, True)]
)
def test_all_steps_together_may_take_the_whole_time(machine: Machine) -> None:
    steps = planned_steps(load_preset("paper"), FILE, machine, Extent(30, 360))
    assert sum(step.limit_s for step in steps) == pytest.approx(360)
    assert all(step.limit_s > 20 for step in steps if not step.left_out)
    assert len({step.name for step in steps}) == len(steps)


def test_the_19b_model_is_streamed_whole_and_compared_in_a_slice() -> None:
    steps = {
        s.name: s
        for s in planned_steps(load_preset("paper"), FILE, Machine(True, True), Extent(30, 360))
    }
    assert "model.layers=12" in steps["model"].words
    assert "12 of 48 layers" in steps["model"].title
    assert not any("layers" in word for word in steps["stream-bfloat16"].words)
    assert {step.name for step in steps.values() if "cuda" not in step.words} == {"kernels"}


def test_a_small_model_is_compared_whole() -> None:
    steps = {
        s.name: s
        for s in planned_steps(load_preset("tiny"), FILE, Machine(False, False), Extent(30, 60))
    }
    assert "model.layers=4" in steps["model"].words


def test_float8_is_left_out_where_nothing_multiplies_in_it() -> None:
    plan = planned_steps(load_preset("paper"), FILE, Machine(True, False), Extent(30, 360))
    (step,) = (step for step in plan if step.name == "stream-float8")
    assert "torchao" in step.left_out
    assert step.limit_s == 0


def test_without_a_gpu_both_types_of_a_cpu_are_measured() -> None:
    plan = planned_steps(load_preset("small"), FILE, Machine(False, False), Extent(30, 360))
    assert [s.name for s in plan if s.name.startswith("stream")] == [
        "stream-bfloat16",
        "stream-float32",
    ]
    assert {step.name for step in plan if "cpu" not in step.words} == {"kernels"}
    assert {step.name: step.left_out for step in plan if step.left_out} == {
        "profile": "needs a GPU"
    }


def test_kernels_are_counted_of_the_19b_model_wherever_that_is() -> None:
    for machine in (Machine(False, False), Machine(True, True)):
        plan = planned_steps(load_preset("tiny"), FILE, machine, Extent(30, 60))
        (step,) = (step for step in plan if step.name == "kernels")
        assert step.words[2:4] == ("--preset", "paper")
        assert "meta" in step.words
