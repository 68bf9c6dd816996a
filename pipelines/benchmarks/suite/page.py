"""A run's record as report.json and as one HTML page that needs nothing else."""

from pathlib import Path

from infra.runs.checkpoint_store import write_text_at_once
from pipelines.benchmarks.suite.record import SuiteRecord
from pipelines.benchmarks.suite.sections import suite_page
from pipelines.reports.rendering import render_page

JSON_FILE = "report.json"
HTML_FILE = "report.html"
TEMPLATE = "benchmarks/suite/page.html"


def write_report(folder: Path, record: SuiteRecord) -> Path:
    """Write report.json and report.html into `folder`; returns the page's path."""
    page = render_page(TEMPLATE, page=suite_page(record))
    write_text_at_once(folder / JSON_FILE, record.model_dump_json(indent=2))
    write_text_at_once(folder / HTML_FILE, page)
    return folder / HTML_FILE
