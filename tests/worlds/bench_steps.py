"""A program that stands where `omniforcing` does in a step: done, failed or slow, as it is told."""

import sys
from pathlib import Path

from infra.presets import load_preset
from pipelines.benchmarks.machine.record import record_of

SCRIPT = """
import pathlib, sys, time
what, out = sys.argv[1], pathlib.Path(sys.argv[-1])
print("began", flush=True)
if what == "sleeps":
    time.sleep(60)
if what == "fails":
    print("error: expected a disk, got none", file=sys.stderr)
    sys.exit(2)
out.write_text(pathlib.Path({record!r}).read_text())
"""


def step_program(folder: Path) -> tuple[str, ...]:
    """Run with `writes`, it leaves a record at its last argument; with `fails` or `sleeps` none."""
    record, script = folder / "record.json", folder / "step.py"
    values = record_of(load_preset("tiny"), {}, {"answer": 42})
    record.write_text(values.model_dump_json(), encoding="utf-8")
    script.write_text(SCRIPT.format(record=str(record)), encoding="utf-8")
    return (sys.executable, "-S", str(script))
