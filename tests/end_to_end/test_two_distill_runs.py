"""Two runs into one run folder: one trains, the other says who does; a dead one is replaced, and
whoever wakes up after that harms nothing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest
import yaml

from infra.errors import OwnershipError
from infra.runs.provenance import read_model_manifest
from infra.terminal.progress import SilentProgress
from pipelines.training.distill import distill
from tests.worlds.preprocessing import ROOT, processes
from tests.worlds.training import small_run, write_clips

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
STEPS = 12
SHORT_LEASE_S = 3
AT_ONCE_S = 10
# What a run has written at a moment.
MOMENTS = {
    "start": ".owner/000001.json",
    "mid-stage": "stages/teacher/curve.jsonl",
    "checkpoint": "stages/teacher/checkpoints/step_000002/manifest.json",
}
moments = pytest.mark.parametrize(
    "moment",
    [pytest.param(m, marks=() if m == "checkpoint" else pytest.mark.kills) for m in MOMENTS],
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(small_run(), tmp_path_factory.mktemp("distill") / "clips")


@pytest.fixture(scope="module")
def straight(ray_local, clips, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight") / "run"
    run_here(clips, run)
    return digest_in(run)


def run_here(clips, run):
    return distill(small_run(steps=STEPS), clips, str(run), ("teacher",), {}, SilentProgress())


def digest_in(run):
    return read_model_manifest(run / "stages" / "teacher" / "model").digest


@contextmanager
def started(clips, run, moment, lease_s=180.0):
    """A run in a process of its own that has come to a moment, and its tag; it is ended."""
    tag = f"OMNIFORCING_TEST_RUN=two-{os.getpid()}-{time.monotonic_ns()}"
    config = run.with_name(f"{run.name}.yaml")
    values = small_run(f"output.lease_s={lease_s}", steps=STEPS).model_dump(mode="json")
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "pipelines.cli", "distill", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--dataset", clips, "--out", str(run), "--stage", "teacher", "--json"],
        cwd=ROOT,
        env=os.environ | dict([tag.split("=")]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (run / MOMENTS[moment]).exists():
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


@moments
def test_the_second_is_told_at_once_and_the_first_loses_nothing(clips, straight, tmp_path, moment):
    run = tmp_path / "run"
    with started(clips, run, moment) as (first, tag):
        signal_all(tag, signal.SIGSTOP)  # the moment lasts
        began = time.monotonic()
        with pytest.raises(
            OwnershipError, match=rf"got distill by .*\(process {first.pid}\) since"
        ):
            run_here(clips, run)
        assert time.monotonic() - began < AT_ONCE_S
        signal_all(tag, signal.SIGCONT)
        _, errors = first.communicate(timeout=240)
        assert first.returncode == 0, errors[-3000:]
    assert digest_in(run) == straight
    assert not run_here(clips, run).stages[0].made_now


@pytest.mark.kills
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_driver_is_replaced_at_once_and_its_workers_harm_nothing(
    clips, straight, tmp_path, moment
):
    run = tmp_path / "run"
    with started(clips, run, moment) as (first, _):
        first.kill()
        first.wait()
        run_here(clips, run)  # while workers of the first one may still be there
        assert digest_in(run) == straight


@pytest.mark.kills
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_is_replaced_and_destroys_nothing_when_it_wakes_up(
    clips, straight, tmp_path, moment
):
    run = tmp_path / "run"
    with started(clips, run, moment, SHORT_LEASE_S) as (first, tag):
        signal_all(tag, signal.SIGSTOP)
        time.sleep(2 * SHORT_LEASE_S)
        run_here(clips, run)
        before = kept(run)
        signal_all(tag, signal.SIGCONT)
        _, errors = first.communicate(timeout=240)
        assert first.returncode == 1
        assert "attempt 2 has taken it over: distill by" in errors
        assert kept(run) == before
        assert digest_in(run) == straight


def kept(run):
    """Checkpoints, curve and model, and when each was written."""
    files = [path for path in (run / "stages").rglob("*") if path.is_file()]
    return {(str(path), path.stat().st_mtime_ns) for path in files}
