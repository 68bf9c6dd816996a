"""A cluster of our own: reachable from this machine alone, and gone when its program is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.errors import ClusterError
from infra.presets import load_preset
from infra.processes import is_running
from tests.worlds.failing_disk import FailingDisk

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, time
from pathlib import Path
import ray
from infra.presets import load_preset
from infra.ray_cluster import local_cluster

with local_cluster(load_preset("tiny", ["cluster.local_cpus=2"]).cluster):
    @ray.remote
    class Sleeper:
        def process(self):
            return os.getpid()
    sleeper = Sleeper.remote()
    print(ray.get(sleeper.process.remote()), flush=True)
    time.sleep(100)
"""


def descendants(program):
    return psutil.Process(program.pid).children(recursive=True)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, -signal.SIGINT, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
    ],
)
def test_a_stopped_program_leaves_no_process_and_no_file(tmp_path, number, status):
    # Not under tmp_path: the names of Ray's sockets must stay short.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with program:
        assert program.stdout.readline().strip().isdigit()
        started = descendants(program)
        folders = {folder_of(process) for process in started if process.is_running()} - {None}
        program.send_signal(number)
        assert program.wait(timeout=60) == status
    assert len(started) > 4
    assert not any(map(is_running, started))
    assert len(folders) == 1
    assert not folders.pop().exists()


@pytest.mark.ray
def test_a_program_with_a_cluster_of_its_own_says_nothing_on_standard_error():
    program = PROGRAM.replace("time.sleep(100)", "pass")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().isdigit()
    assert done.stderr == ""


def folder_of(process):
    """The temporary folder in a Ray daemon's command line, None for others."""
    options = ("--temp-dir=", "--temp_dir=")
    folders = [word.partition("=")[2] for word in process.cmdline() if word.startswith(options)]
    return Path(folders[0]) if folders else None


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_program_leaves_no_process(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with program:
        program.stdout.readline()
        started = descendants(program)
        program.kill()
    deadline = time.monotonic() + 150  # Ray's agents look for their lost raylet for a minute
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_running, started))


@pytest.mark.ray
def test_a_cluster_listens_on_this_machine_alone(ray_local):
    addresses = {node["NodeManagerAddress"] for node in ray_local.nodes()}
    assert addresses == {"127.0.0.1"}


@pytest.mark.ray
def test_inside_a_cluster_the_same_one_is_used_and_stays(ray_local):
    from infra.ray_cluster import local_cluster

    with local_cluster(load_preset("tiny").cluster) as address:
        assert address == ray_local.get_runtime_context().gcs_address
    assert ray_local.is_initialized()


@pytest.mark.ray
def test_an_address_without_a_cluster_is_an_error_in_one_line(tmp_path):
    program = (
        "from infra.presets import load_preset\n"
        "from infra.ray_cluster import local_cluster\n"
        "try:\n"
        "    with local_cluster(load_preset('tiny', ['cluster.address=127.0.0.1:1']).cluster):\n"
        "        pass\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.startswith(
        f"{ClusterError.__name__} expected a Ray cluster at '127.0.0.1:1'"
    )
    assert len(done.stdout.strip().splitlines()) == 1


SHORT_OF_FILES = """
import resource, sys
from infra.errors import MachineError
from infra.presets import load_preset
from infra.ray_cluster import local_cluster

resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
try:
    with local_cluster(load_preset("tiny").cluster):
        pass
except MachineError as error:
    sys.exit(str(error))
"""


def test_a_machine_that_lets_us_open_too_few_files_for_ray_is_told_of_at_once():
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_FILES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "expected 64 open files or more for each process of Ray (ulimit -n), got a limit of 48;"
        " raise it, as by ulimit -n 65536, then run the same command again: what is done stays"
        " done\n"
    )


FULL_UNDER_RAY = """
import resource, sys, time
import ray
from infra.errors import MachineError
from infra.presets import load_preset
from infra.ray_cluster import local_cluster
from tests.worlds.failing_disk import break_disk

try:
    with local_cluster(load_preset("tiny", ["cluster.local_cpus=2"]).cluster):
        @ray.remote
        def files():
            import tempfile
            return tempfile.mkdtemp(), resource.getrlimit(resource.RLIMIT_NOFILE)

        @ray.remote
        def sleep():
            time.sleep(300)

        print(*ray.get(files.remote()), flush=True)
        break_disk("write", "ENOSPC", "/ray-")
        began = time.monotonic()
        ray.get(sleep.remote())
except MachineError as error:
    print(time.monotonic() - began)
    sys.exit(str(error))
"""


@pytest.mark.ray
def test_a_disk_that_fills_up_under_ray_ends_the_wait_and_leaves_nothing(tmp_path):
    environment = os.environ | FailingDisk(tmp_path).environment
    done = subprocess.run(
        ["bash", "-c", 'ulimit -Sn 100 && exec "$0" -c "$1"', sys.executable, FULL_UNDER_RAY],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    (line,) = done.stderr.splitlines()
    assert line.startswith("expected room to write at ")
    kept, waited_s = done.stdout.splitlines()  # and no tale of every worker that died of it
    folder, limits = kept.split(" ", 1)
    assert "/ray-scratch-" in folder
    assert not Path(folder).parent.exists()
    assert int(limits.strip("()").partition(",")[0]) > 100  # the soft limit is ours to raise
    assert float(waited_s) < 30
