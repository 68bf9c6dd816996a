"""A step as a process of its own: its result, or what went wrong, and gone in time either way."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from infra.signals import ignore_signals
from pipelines.benchmarks.machine.record import BenchRecord
from pipelines.benchmarks.suite.record import Outcome, StepRecord
from pipelines.benchmarks.suite.steps import Step

# A step that can end early is asked to, so that its last block and writing down fit in too.
OWN_SHARE = 0.75
PATIENCE_S = 3.0
# By module, so that it also works from a checkout that is not installed.
PROGRAM = (sys.executable, "-m", "pipelines.cli")
SHOWN_LINES = 2
SHOWN_CHARACTERS = 300


def run_step(
    step: Step, folder: Path, limit_s: float, program: Sequence[str] = PROGRAM
) -> StepRecord:
    """Run `step` within `limit_s` seconds; NAME.json and NAME.log of it are in `folder` then.

    At the end none of its processes is left, whatever happened. `program` is what runs
    `omniforcing`.
    """
    result, log = folder / f"{step.name}.json", folder / f"{step.name}.log"
    result.unlink(missing_ok=True)
    words = [*step.words]
    if step.takes_limit:
        words += ["--limit-s", f"{OWN_SHARE * limit_s:.0f}"]
    command = [*program, *words, "--out", str(result)]
    began = time.monotonic()
    status = _run(command, log, limit_s)
    record = _read(result)
    outcome, reason = _outcome(status, record, log, limit_s)
    return StepRecord(
        name=step.name,
        title=step.title,
        command=shlex.join(["omniforcing", *words]),
        outcome=outcome,
        reason=reason,
        limit_s=limit_s,
        seconds=time.monotonic() - began,
        record=record,
    )


def left_out(step: Step, reason: str) -> StepRecord:
    """A step that is not run."""
    return StepRecord(
        name=step.name,
        title=step.title,
        command=shlex.join(["omniforcing", *step.words]),
        outcome="left out",
        reason=reason,
        limit_s=0.0,
        seconds=0.0,
        record=None,
    )


def _run(command: list[str], log: Path, limit_s: float) -> int | None:
    """The exit status; None if the time was up."""
    with log.open("wb") as lines:
        child = subprocess.Popen(command, stdout=lines, stderr=lines, start_new_session=True)
        try:
            return child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with ignore_signals():
                _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's session: politely first, then for certain."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _read(result: Path) -> BenchRecord | None:
    try:
        return BenchRecord.model_validate_json(result.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def _outcome(
    status: int | None, record: BenchRecord | None, log: Path, limit_s: float
) -> tuple[Outcome, str]:
    if status is None:
        return "stopped", f"not done after {limit_s:.0f} s"
    if status == 0 and record is not None:
        return "done", ""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = " / ".join(lines[-SHOWN_LINES:])[-SHOWN_CHARACTERS:] or "nothing said"
    return "failed", f"status {status}: {last}"
