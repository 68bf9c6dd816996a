"""What a run of all benchmarks found, as it is kept in report.json."""

from typing import Any, Literal

from infra.records import Record
from pipelines.benchmarks.machine.record import BenchRecord, Measured

Outcome = Literal["done", "stopped", "failed", "left out"]
SHARE = "share"  # the unit of what is shown in percent


class StepRecord(Record):
    """One step.

    `command`: repeats it. `limit_s`: what it could take. `outcome`: stopped is one whose time was
    up, left out one that does not run on this machine, or for which no time was left. `reason`: of
    an outcome other than done, in words. `record`: its own, if it got so far.
    """

    name: str
    title: str
    command: str
    outcome: Outcome
    reason: str
    limit_s: float
    seconds: float
    record: BenchRecord | None


class Verdict(Record):
    """A figure beside what is asked of it.

    `figure`: None if no step gave it. `required`, `aimed`: bounds, upper ones where `is_most`, else
    lower ones. `is_met`: None where the figure is not judged: there is none, or the bound is one of
    another machine; `note` says which then.
    """

    name: str
    unit: str
    figure: float | None
    required: float | None
    aimed: float | None
    is_most: bool
    is_met: bool | None
    note: str


class SuiteRecord(Measured):
    """All steps of one run, in their order, those that are still to come left out.

    `on_gpu`: whether anything was measured on one. `limit_s`: of all together. `settings`: the
    whole configuration whose shape was measured.
    """

    config: str
    on_gpu: bool
    limit_s: float
    seconds: float
    is_complete: bool
    settings: dict[str, Any]
    steps: dict[str, StepRecord]
    verdicts: tuple[Verdict, ...]
