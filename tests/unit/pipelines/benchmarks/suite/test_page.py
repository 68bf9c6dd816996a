"""The page of a run: every figure of the JSON, and in words what it is."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmarks.suite.page import HTML_FILE, JSON_FILE, write_report
from pipelines.benchmarks.suite.record import StepRecord, SuiteRecord
from pipelines.benchmarks.suite.sections import suite_page
from pipelines.benchmarks.suite.verdicts import verdicts_of
from tests.worlds.bench_results import graph_bench, step_record, stream_bench


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def record_with(*steps: StepRecord, on_gpu: bool = True, **changes: Any) -> SuiteRecord:
    by_name = {step.name: step for step in steps}
    values: dict[str, Any] = {
        "config": "paper",
        "on_gpu": on_gpu,
        "limit_s": 360.0,
        "seconds": 123.0,
        "is_complete": True,
        "commit": "0123456789abcdef",
        "is_dirty": False,
        "settings": {"model": {"layers": 48}},
        "torch": {"gpu": "a GPU of 2030", "threads": "16"},
        "machine": {"processor": "a <processor> & more"},
        "versions": {"torch": "2.11.0"},
        "steps": by_name,
        "verdicts": verdicts_of("paper", on_gpu, by_name),
    }
    return SuiteRecord(**(values | changes))


def page_of(record: SuiteRecord, folder: Path) -> str:
    write_report(folder, record)
    return (folder / HTML_FILE).read_text(encoding="utf-8")


@pytest.fixture
def whole() -> SuiteRecord:
    return record_with(
        step_record("stream-bfloat16", stream_bench()),
        step_record("stream-float8", stream_bench("float8", block_s=0.21)),
        step_record("graphs", graph_bench(2e-3)),
    )


def test_every_figure_of_the_json_is_on_the_page(whole: SuiteRecord, tmp_path: Path) -> None:
    shown = html.unescape(page_of(whole, tmp_path))
    written = json.loads((tmp_path / JSON_FILE).read_text(encoding="utf-8"))
    assert written == whole.model_dump(mode="json")
    assert len(leaves(written)) > 150
    assert not [leaf for leaf in leaves(written) if json.dumps(leaf) not in shown]


def test_the_page_needs_nothing_else_and_escapes_what_it_is_given(
    whole: SuiteRecord, tmp_path: Path
) -> None:
    page = page_of(whole, tmp_path)
    assert not re.search(r"(?:src|href)=|https?://|<script", page)
    assert "<processor>" not in page
    assert "a &lt;processor&gt; &amp; more" in page


def test_a_page_of_a_gpu_names_it_and_has_no_notice(whole: SuiteRecord, tmp_path: Path) -> None:
    page = page_of(whole, tmp_path)
    assert "on a GPU of 2030; commit 0123456789" in page
    assert "measured on a GPU." not in page


def test_a_page_of_a_cpu_says_that_nothing_was_measured_on_a_gpu(tmp_path: Path) -> None:
    page = page_of(record_with(on_gpu=False), tmp_path)
    assert "Nothing on this page was measured on a GPU." in page
    assert "on a &lt;processor&gt;" in page


def test_a_run_that_is_not_over_or_of_changed_files_says_so() -> None:
    lead = suite_page(record_with(is_complete=False, is_dirty=True)).lead
    assert "not all steps are done" in lead
    assert "with changed files" in lead


def test_tiles_are_of_the_first_stream(whole: SuiteRecord) -> None:
    tiles = {tile.name: tile.number for tile in suite_page(whole).tiles}
    assert tiles["Frames/s, with codecs"] == "76.8"
    assert tiles["Block p50"] == "250"
    assert tiles["First second, warm"] == "261"
    assert tiles["Share of the limit"] == "80%"


def test_a_met_bound_a_missed_one_and_one_without_a_figure_are_told_apart(
    whole: SuiteRecord,
) -> None:
    rows = {row.name: row for row in suite_page(whole).verdicts}
    decoded = rows["With codecs, bfloat16"]
    assert (decoded.figure, decoded.state) == ("76.8 frames/s", "ok")
    assert decoded.bounds == "at least 60, aim 70"
    graphs = rows["Graphs against passes one by one, largest difference"]
    assert (graphs.state, graphs.bounds) == ("missed", "at most 0")
    kernels = rows["Kernels a block, counted"]
    assert kernels.bounds == "at most 12,000, aim 9,500"
    assert rows["Kernels in a profile more than counted"].bounds == "at most 5.0%"
    assert (kernels.figure, kernels.state, kernels.note) == ("-", "open", "not measured")


def test_the_bound_of_a_block_is_said_in_words(whole: SuiteRecord) -> None:
    near, nearer = suite_page(whole).streams
    assert "waits for its products" in near.bound
    assert "20 operations a byte" in near.bound
    assert near.limits[0][-1] == "80.0%"
    assert nearer.limits[0][-1] == "95.2%"


def test_differing_graphs_say_by_how_much(whole: SuiteRecord) -> None:
    (graphs,) = suite_page(whole).graphs
    assert "within 2.0e-03" in graphs.what
    (equal,) = suite_page(record_with(step_record("graphs", graph_bench()))).graphs
    assert "bit for bit" in equal.what
