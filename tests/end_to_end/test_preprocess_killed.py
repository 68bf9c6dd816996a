"""Whatever is killed whenever: the resumed dataset is that of a run that nobody stopped."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from infra.errors import OmniForcingError
from infra.presets import load_preset
from infra.terminal.progress import SilentProgress
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.preprocessing import (
    ROOT,
    SETTINGS,
    command,
    content,
    keys_done,
    kill_one,
    processes,
    run_to_the_end,
    write_corpus,
)

STAGES = ("ClipSurveyor", "ClipDecoder", "LatentEncoder", "RewriteCaptions", "CaptionEncoder")
MOMENTS = range(10)
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "clips")


@pytest.fixture(scope="module")
def straight(clips, tmp_path_factory, ray_local):
    """The content of the dataset of a run that nobody stopped, and how many files it wrote."""
    out = tmp_path_factory.mktemp("straight") / "dataset"
    run_here(clips, out)
    return content(out), files_in(out)


def run_here(clips, out):
    preprocess(load_preset("tiny", SETTINGS), str(clips), str(out), SilentProgress())


def files_in(out):
    """Results and log entries that a run has written so far."""
    return len([*out.glob("latents/*"), *out.glob("text/*"), *out.glob("log/*/*")])


def wait_for_a_moment(chance, out, files, still_runs):
    """Return somewhere between the start of a run and its commit."""
    enough = chance.randrange(files)
    while still_runs() and files_in(out) < enough:
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 1))


def moments(markers_of_most):
    """One moment for every run of the suite, ten for the long one."""
    return [pytest.param(n, marks=markers_of_most if n else ()) for n in MOMENTS]


@pytest.mark.parametrize("moment", moments(pytest.mark.kills))
def test_a_killed_driver(clips, straight, tmp_path, moment):
    chance = random.Random(f"driver {moment}")
    tag = f"OMNIFORCING_TEST_RUN=driver-{os.getpid()}-{moment}"
    out = tmp_path / "dataset"
    env = os.environ | dict([tag.split("=")])
    run = subprocess.Popen(command(clips, out), cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    try:
        wait_for_a_moment(chance, out, straight[1], lambda: run.poll() is None)
        run.send_signal(signal.SIGKILL)
        run.wait()
    finally:
        for pid in processes("", tag=tag):
            os.kill(pid, signal.SIGKILL)
    run_here(clips, out)
    assert content(out) == straight[0]


@pytest.mark.parametrize("moment", moments(pytest.mark.kills))
def test_a_killed_actor(clips, straight, tmp_path, moment):
    chance = random.Random(f"actor {moment}")
    tag = f"HOME={os.environ['HOME']}"  # each run of pytest has its own, and its actors with it
    out = tmp_path / "dataset"

    def kill():
        wait_for_a_moment(chance, out, straight[1], lambda: not finished.is_set())
        while not kill_one(chance, *STAGES, tag=tag) and not finished.is_set():
            time.sleep(0.05)

    finished = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_here(clips, out)
    except OmniForcingError:
        run_here(clips, out)
    finally:
        finished.set()
        killer.join()
    assert content(out) == straight[0]


@pytest.mark.kills
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_worker_node(clips, straight, tmp_path, moment):
    chance = random.Random(f"node {moment}")
    out = tmp_path / "dataset"
    tag = f"OMNIFORCING_TEST_RUN=node-{os.getpid()}-{moment}"
    env = os.environ | dict([tag.split("=")])
    arguments = [sys.executable, "-m", "tests.worlds.preprocessing", str(clips), str(out)]
    run = subprocess.Popen(
        arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        raylet = int(run.stdout.readline())
        wait_for_a_moment(chance, out, straight[1], lambda: run.poll() is None)
        with contextlib.suppress(ProcessLookupError):  # it was about to end
            os.kill(raylet, signal.SIGKILL)
        try:
            run.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            run.kill()
    finally:
        run.kill()
        run.communicate()
        for pid in processes("", tag=tag):
            os.kill(pid, signal.SIGKILL)
    run_here(clips, out)
    assert content(out) == straight[0]


@pytest.mark.kills
def test_what_a_killed_run_has_finished_is_not_done_again(clips, straight, tmp_path):
    out = tmp_path / "dataset"
    run_to_the_end(clips, out)
    done = keys_done(out)
    (out / "manifest.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "latents").iterdir()}
    run_here(clips, out)
    assert keys_done(out) == done
    assert {path: path.stat().st_mtime_ns for path in (out / "latents").iterdir()} == before
    assert content(out) == straight[0]
