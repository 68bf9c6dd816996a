"""A step in a process of its own: what became of it, and that nothing of it stays."""

import time
from pathlib import Path

import psutil
import pytest

from pipelines.benchmarks.suite.step_process import left_out, run_step
from pipelines.benchmarks.suite.steps import Step
from tests.worlds.bench_steps import step_program

WRITES = Step("counts", "Counts", ("writes",), 60)
FAILS = Step("wrong", "Wrong", ("fails",), 60)
SLEEPS = Step("long", "Long", ("sleeps",), 60)


@pytest.fixture
def program(tmp_path: Path) -> tuple[str, ...]:
    return step_program(tmp_path)


def test_a_step_that_is_done_has_its_record_and_says_how_to_repeat_it(
    program: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = run_step(WRITES, tmp_path, 60, program)
    assert (outcome.outcome, outcome.reason) == ("done", "")
    assert outcome.record is not None
    assert outcome.record.result == {"answer": 42}
    assert outcome.command == "omniforcing writes"
    assert 0 < outcome.seconds < 60


def test_a_step_whose_time_is_up_is_stopped_and_gone(
    program: tuple[str, ...], tmp_path: Path
) -> None:
    began = time.monotonic()
    outcome = run_step(SLEEPS, tmp_path, 1, program)
    assert (outcome.outcome, outcome.record) == ("stopped", None)
    assert outcome.reason == "not done after 1 s"
    assert time.monotonic() - began < 30
    assert not [p for p in psutil.Process().children() if "sleeps" in p.cmdline()]


def test_a_step_that_fails_says_the_last_it_said(program: tuple[str, ...], tmp_path: Path) -> None:
    outcome = run_step(FAILS, tmp_path, 60, program)
    assert outcome.outcome == "failed"
    assert outcome.reason == "status 2: began / error: expected a disk, got none"


def test_what_another_run_left_is_not_taken_for_this_ones_result(
    program: tuple[str, ...], tmp_path: Path
) -> None:
    assert run_step(FAILS._replace(words=("writes",)), tmp_path, 60, program).record is not None
    assert run_step(FAILS, tmp_path, 60, program).record is None


def test_a_step_that_says_it_is_done_and_left_nothing_has_failed(
    program: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    assert run_step(WRITES, tmp_path, 60, program).outcome == "failed"


@pytest.mark.parametrize("takes_limit", [True, False])
def test_a_step_that_can_end_early_is_asked_to_before_it_is_stopped(
    takes_limit: bool, program: tuple[str, ...], tmp_path: Path
) -> None:
    step = WRITES._replace(takes_limit=takes_limit)
    assert ("--limit-s 45" in run_step(step, tmp_path, 60, program).command) == takes_limit


def test_a_step_left_out_keeps_its_reason_and_its_command() -> None:
    outcome = left_out(WRITES, "no GPU")
    assert (outcome.outcome, outcome.reason, outcome.seconds) == ("left out", "no GPU", 0)
    assert outcome.command == "omniforcing writes"
