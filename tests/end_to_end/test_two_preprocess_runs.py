"""Two runs into one dataset: one makes it, the other says who does; a dead one is replaced."""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from infra.errors import OwnershipError
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.preprocessing import (
    ROOT,
    SETTINGS,
    command,
    content,
    processes,
    run_to_the_end,
    write_corpus,
)
from tests.worlds.s3_server import credentials, make_bucket, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
SHORT_LEASE_S = 3
AT_ONCE_S = 10
# What a run has written at a moment: its lease, some results, the outcomes right before the
# manifest.
MOMENTS = {"start": ".owner", "middle": "latents", "commit": "rows"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "clips", clips=4)


@pytest.fixture(scope="module")
def straight(clips, tmp_path_factory, ray_local):
    out = tmp_path_factory.mktemp("straight") / "dataset"
    run_here(clips, out)
    return content(out)


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url, pytest.MonkeyPatch.context() as environment:
        credentials(environment, url)
        yield make_bucket(url, "two-runs")


def cases(often):
    """Every moment, local and S3; those of `often` in every run of the suite."""
    return [
        pytest.param(
            place,
            moment,
            marks=() if (place, moment) in often else pytest.mark.kills,
            id=f"{place}-{moment}",
        )
        for place in ("local", "s3")
        for moment in MOMENTS
    ]


@pytest.fixture
def out(place, request, tmp_path):
    if place == "local":
        return str(tmp_path / "dataset")
    bucket = request.getfixturevalue("bucket")
    return f"{bucket}/{request.node.name.replace('[', '/').strip(']')}"


def run_here(clips, out):
    preprocess(load_preset("tiny", SETTINGS), str(clips), str(out), SilentProgress())


def run_again(clips, out):
    """A run to the end; the processes of the shared cluster know of no bucket."""
    if out.startswith("s3://"):
        run_to_the_end(clips, out)
    else:
        run_here(clips, out)


@contextlib.contextmanager
def started(clips, out, moment, *more):
    """A run in a process of its own that has come to a moment; all of it is ended at the end."""
    tag = f"OMNIFORCING_TEST_RUN=two-{os.getpid()}-{time.monotonic_ns()}"
    run = subprocess.Popen(
        command(clips, out, *more),
        cwd=ROOT,
        env=os.environ | dict([tag.split("=")]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        store = ObjectStore(out)
        while not store.list(MOMENTS[moment]):
            assert run.poll() is None, run.communicate()[1][-3000:]
            time.sleep(0.02)
        yield run
    finally:
        run.kill()
        run.communicate()
        for pid in processes("", tag=tag):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("place", "moment"), cases({("s3", "commit")}))
def test_the_second_is_told_at_once_and_the_first_loses_nothing(clips, straight, out, moment):
    with started(clips, out, moment) as run:
        run.send_signal(signal.SIGSTOP)  # the moment lasts
        began = time.monotonic()
        with pytest.raises(OwnershipError) as refused:
            run_here(clips, out)
        assert time.monotonic() - began < AT_ONCE_S
        run.send_signal(signal.SIGCONT)
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors[-3000:]
    line = str(refused.value)
    assert f"expected no other run on {ObjectStore(out).uri}, got preprocess by " in line
    assert f"(process {run.pid}) since " in line
    assert content(out) == straight


@pytest.mark.parametrize(("place", "moment"), cases({("local", "middle")}))
def test_a_killed_run_is_replaced_at_once(clips, straight, out, moment):
    with started(clips, out, moment) as run:
        run.send_signal(signal.SIGKILL)
        run.wait()
        run_again(clips, out)
        assert content(out) == straight


@pytest.mark.kills
@pytest.mark.parametrize(("place", "moment"), cases({}))
def test_a_stopped_run_is_replaced_and_destroys_nothing_when_it_wakes_up(
    clips, straight, out, moment
):
    with started(clips, out, moment, "--set", f"output.lease_s={SHORT_LEASE_S}") as run:
        run.send_signal(signal.SIGSTOP)
        time.sleep(2 * SHORT_LEASE_S)
        run_again(clips, out)
        before = files_of(out)
        run.send_signal(signal.SIGCONT)
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 1
        assert f"expected attempt 1 to own {ObjectStore(out).uri}, got that attempt 2" in errors
        assert before <= files_of(out)
        assert content(out) == straight


def files_of(out):
    """The files of a dataset, and when each was written."""
    files = ObjectStore(out).list(recursive=True)
    return {file for file in files if file.name != "log.jsonl"}
