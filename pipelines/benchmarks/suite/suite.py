"""Runs all benchmarks of a shape one after the other, and keeps what there is after each."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from infra.config import RunConfig
from infra.runs.checkpoint_store import write_text_at_once
from pipelines.benchmarks.machine.record import Measured, measured_here
from pipelines.benchmarks.suite.page import write_report
from pipelines.benchmarks.suite.record import StepRecord, SuiteRecord
from pipelines.benchmarks.suite.step_process import PROGRAM, left_out, run_step
from pipelines.benchmarks.suite.steps import Extent, Machine, Step, planned_steps
from pipelines.benchmarks.suite.verdicts import verdicts_of

CONFIG_FILE = "config.yaml"
STEPS_FOLDER = "steps"
# Less than this is no time: a process is not even started then.
LEAST_S = 3.0


class Suite(NamedTuple):
    """Where a run writes, what it measures and how much of it, and what runs a step."""

    folder: Path
    config: RunConfig
    machine: Machine
    extent: Extent
    program: Sequence[str] = PROGRAM


def prepare(suite: Suite) -> list[Step]:
    """Make the folder, with the configuration that every step reads; returns the steps."""
    (suite.folder / STEPS_FOLDER).mkdir(parents=True, exist_ok=True)
    file = suite.folder / CONFIG_FILE
    write_text_at_once(file, yaml.safe_dump(suite.config.model_dump(mode="json")))
    return planned_steps(suite.config, file, suite.machine, suite.extent)


def run_suite(suite: Suite, steps: Sequence[Step], advance: Callable[[str], None]) -> SuiteRecord:
    """Run `steps`; the report is written anew after each, so that a killed run leaves what it has.

    A step gets what is left beyond the limits of those after it. `advance` is called with the name
    of each once it is over.
    """
    began = time.monotonic()
    measured = measured_here()
    done: dict[str, StepRecord] = {}
    record = _record(suite, measured, done, 0.0, is_complete=False)
    for number, step in enumerate(steps):
        later_s = sum(other.limit_s for other in steps[number + 1 :])
        allowed_s = suite.extent.limit_s - (time.monotonic() - began) - later_s
        done[step.name] = _run_or_leave_out(step, suite, allowed_s)
        is_last = number + 1 == len(steps)
        record = _record(suite, measured, done, time.monotonic() - began, is_complete=is_last)
        write_report(suite.folder, record)
        advance(step.name)
    return record


def _run_or_leave_out(step: Step, suite: Suite, allowed_s: float) -> StepRecord:
    if step.left_out:
        return left_out(step, step.left_out)
    if allowed_s < LEAST_S:
        return left_out(step, "no time was left for it")
    return run_step(step, suite.folder / STEPS_FOLDER, allowed_s, suite.program)


def _record(
    suite: Suite,
    measured: Measured,
    steps: dict[str, StepRecord],
    seconds: float,
    is_complete: bool,
) -> SuiteRecord:
    return SuiteRecord(
        config=suite.config.name,
        on_gpu=suite.machine.has_gpu,
        limit_s=suite.extent.limit_s,
        seconds=seconds,
        is_complete=is_complete,
        settings=suite.config.model_dump(mode="json"),
        steps=dict(steps),
        verdicts=verdicts_of(suite.config.name, suite.machine.has_gpu, steps),
        **measured.model_dump(),
    )
