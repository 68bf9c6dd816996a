"""All benchmarks of the engine in one run."""

from pathlib import Path

from pipelines.benchmarks.suite.record import SuiteRecord
from pipelines.benchmarks.tables.screen import page_of, table_of


def suite_table(record: SuiteRecord, file: Path) -> str:
    """What became of each step, the figures that are asked for, and where the page is."""
    steps = [
        (step.title, f"{step.outcome}{f': {step.reason}' if step.reason else ''}",
         f"{step.seconds:.0f}")
        for step in record.steps.values()
    ]  # fmt: skip
    asked = [
        (verdict.name, "-" if verdict.figure is None else f"{verdict.figure:,.3g} {verdict.unit}",
         verdict.note or {True: "met", False: "not met", None: "not measured"}[verdict.is_met])
        for verdict in record.verdicts
    ]  # fmt: skip
    where = "on a GPU" if record.on_gpu else "on a CPU: nothing was measured on a GPU"
    return page_of(
        f"{record.config}, {where}; {file} shows all of it",
        table_of(("step", "outcome", "seconds"), steps),
        table_of(("asked", "measured", ""), asked),
    )
