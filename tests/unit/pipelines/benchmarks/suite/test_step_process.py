"""A step in a process of its own: what became of it, and that nothing of it stays."""

import time
from pathlib import Path

import psutil
import pytest

from infra.presets import load_preset
from pipelines.benchmarks.machine.record import record_of, write_record
from pipelines.benchmarks.suite.step_process import left_out, run_step
from pipelines.benchmarks.suite.steps import Step

COUNTS = ("bench", "model", "--config", "tiny", "--device", "meta")


def test_a_step_that_is_done_has_its_record_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    outcome = run_step(Step("counts", "Counts", COUNTS, 60), tmp_path, 60)
    assert (outcome.outcome, outcome.reason) == ("done", "")
    assert outcome.record is not None
    assert outcome.record.result["parameters"] > 0
    assert outcome.command == "omniforcing bench model --config tiny --device meta"
    assert 0 < outcome.seconds < 60


def test_a_step_whose_time_is_up_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = run_step(Step("long", "Long", (*COUNTS, "--seconds", "9"), 1), tmp_path, 0.3)
    assert (outcome.outcome, outcome.record) == ("stopped", None)
    assert "0 s" in outcome.reason
    assert time.monotonic() - began < 20
    assert not [p for p in psutil.Process().children() if str(tmp_path) in p.cmdline()]


def test_a_step_that_fails_says_the_last_it_said(tmp_path: Path) -> None:
    outcome = run_step(Step("wrong", "Wrong", ("bench", "nothing"), 60), tmp_path, 60)
    assert outcome.outcome == "failed"
    assert "nothing" in outcome.reason
    assert "status 2" in outcome.reason


def test_what_another_run_left_is_not_taken_for_this_ones_result(tmp_path: Path) -> None:
    write_record(tmp_path / "wrong.json", record_of(load_preset("tiny"), {}, {"old": 1}))
    outcome = run_step(Step("wrong", "Wrong", ("bench", "nothing"), 60), tmp_path, 60)
    assert outcome.record is None


@pytest.mark.parametrize("takes_limit", [True, False])
def test_a_step_that_can_end_early_is_asked_to_before_it_is_stopped(
    takes_limit: bool, tmp_path: Path
) -> None:
    step = Step("counts", "Counts", COUNTS, 60, takes_limit)
    assert ("--limit-s 45" in run_step(step, tmp_path, 60).command) == takes_limit


def test_a_step_left_out_keeps_its_reason_and_its_command() -> None:
    outcome = left_out(Step("counts", "Counts", COUNTS, 60), "no GPU")
    assert (outcome.outcome, outcome.reason, outcome.seconds) == ("left out", "no GPU", 0)
    assert outcome.command.startswith("omniforcing bench model")
