"""All steps in turn, the report written anew after each; and the page of it."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.presets import load_preset
from pipelines.benchmarks.suite.page import HTML_FILE, JSON_FILE
from pipelines.benchmarks.suite.record import SuiteRecord
from pipelines.benchmarks.suite.steps import Extent, Machine, Step
from pipelines.benchmarks.suite.suite import Suite, prepare, run_suite
from pipelines.benchmarks.suite.verdicts import BOUNDS, verdicts_of
from pipelines.cli import main
from tests.worlds.bench_steps import step_program

CPU_ONLY = Machine(has_gpu=False, has_float8=False)
DONE = Step("counts", "Counts", ("writes",), 30)
FAILS = Step("wrong", "Wrong", ("fails",), 30)
LEFT_OUT = Step("float8", "Float8", ("writes",), 0, left_out="needs a GPU")


def suite_in(folder: Path, limit_s: float = 100) -> Suite:
    suite = Suite(folder, load_preset("tiny"), CPU_ONLY, Extent(4, limit_s), step_program(folder))
    prepare(suite)
    return suite


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def test_a_step_that_fails_or_is_left_out_leaves_the_others(tmp_path: Path) -> None:
    over: list[str] = []
    record = run_suite(suite_in(tmp_path), [FAILS, LEFT_OUT, DONE], over.append)
    assert over == list(record.steps) == ["wrong", "float8", "counts"]
    assert [step.outcome for step in record.steps.values()] == ["failed", "left out", "done"]
    assert record.is_complete
    written = SuiteRecord.model_validate_json((tmp_path / JSON_FILE).read_text(encoding="utf-8"))
    assert written == record


def test_a_run_that_is_killed_leaves_the_steps_that_are_over(tmp_path: Path) -> None:
    def kill(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite_in(tmp_path), [FAILS, DONE], kill)
    written = SuiteRecord.model_validate_json((tmp_path / JSON_FILE).read_text(encoding="utf-8"))
    assert list(written.steps) == ["wrong"]
    assert not written.is_complete
    assert "not all steps are done" in (tmp_path / HTML_FILE).read_text(encoding="utf-8")


def test_a_slow_step_cannot_take_the_time_of_those_after_it(tmp_path: Path) -> None:
    record = run_suite(suite_in(tmp_path, limit_s=70), [FAILS, DONE], lambda name: None)
    assert record.steps["wrong"].limit_s == pytest.approx(40, abs=1)
    assert record.steps["counts"].limit_s > 40


def test_for_a_step_without_time_no_process_is_started(tmp_path: Path) -> None:
    record = run_suite(suite_in(tmp_path, limit_s=1), [DONE], lambda name: None)
    assert record.steps["counts"].outcome == "left out"
    assert "no time" in record.steps["counts"].reason


def test_a_bound_is_judged_on_its_own_machine_alone() -> None:
    elsewhere = verdicts_of("tiny", False, {})
    assert len(elsewhere) == len(BOUNDS)
    assert all(verdict.note or "counted" in verdict.name for verdict in elsewhere)
    at_home = verdicts_of("paper", True, {})
    assert any(not verdict.note for verdict in at_home)
    assert all(verdict.is_met is None for verdict in (*at_home, *elsewhere))  # nothing measured


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_whole_run_on_tiny_measures_every_step_and_its_page_holds_every_figure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    words = [
        "bench",
        "all",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--seconds",
        "3",
        "--limit-s",
        "800",
    ]
    status = main([*words, "--set", "model.layers=1", "--json"])
    record = json.loads(capfd.readouterr().out)
    outcomes = {name: step["outcome"] for name, step in record["steps"].items()}
    assert outcomes.pop("profile") == "left out"
    assert set(outcomes.values()) == {"done"}, record["steps"]
    assert status == 0
    assert outcomes.keys() >= {"kernels", "stream-bfloat16", "stream-float32", "graphs", "model"}
    page = (out / HTML_FILE).read_text(encoding="utf-8")
    shown = html.unescape(page)
    missing = [leaf for leaf in leaves(record) if json.dumps(leaf) not in shown]
    assert not missing
    assert "Nothing on this page was measured on a GPU" in page
    assert page.count('<svg class="chart"') == 3 * 2 + 1 + 1  # streams, graphs, kernels
    assert not re.search(r"(?:src|href)=|https?://", page)
    assert record["verdicts"]
    judged = {verdict["name"] for verdict in record["verdicts"] if verdict["is_met"] is not None}
    assert judged
    assert all("counted" in name for name in judged)
