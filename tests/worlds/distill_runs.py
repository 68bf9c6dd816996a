"""Runs of `distill` of a small teacher with two workers, in this process or one of their own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import yaml

from infra.runs.provenance import read_model_manifest
from infra.terminal.progress import SilentProgress
from pipelines.training.distill import distill
from tests.worlds.preprocessing import ROOT, processes


def run_here(config, clips, run):
    """Train the teacher by `config`, with Ray as it is in this process."""
    return distill(config, clips, str(run), ("teacher",), {}, SilentProgress())


def digest_in(run):
    """Of the teacher in a run folder."""
    return read_model_manifest(run / "stages" / "teacher" / "model").digest


@contextmanager
def started(config, clips, run, has_come):
    """The same command in a process of its own, once `has_come()`, and its tag; it is ended."""
    tag = f"OMNIFORCING_TEST_RUN=distill-{os.getpid()}-{time.monotonic_ns()}"
    file = run.with_name(f"{run.name}.yaml")
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "pipelines.cli", "distill", "--config", str(file)]
    process = subprocess.Popen(
        [*command, "--dataset", clips, "--out", str(run), "--stage", "teacher", "--json"],
        cwd=ROOT,
        env=os.environ | dict([tag.split("=")]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not has_come():
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.01)
        yield process, tag
    finally:
        for pid in {process.pid, *processes("", tag=tag)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def signal_all(tag, number):
    """To the driver and everything that it has started: its daemons and workers."""
    for pid in processes("", tag=tag):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
