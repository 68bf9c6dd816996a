"""`omniforcing serve`: one line when it cannot start, nothing left when it stops."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest

from infra.processes import is_running
from tests.worlds.streaming import write_streaming_world
from tests.worlds.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


def serve_command(*arguments):
    return [sys.executable, "-m", "serve.cli", "serve", *map(str, arguments)]


def failed_start(*arguments):
    command = serve_command(*arguments)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    return done.returncode, done.stdout, done.stderr.strip().splitlines()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_streaming_world(tmp_path_factory.mktemp("world"))


@pytest.mark.thorough
def test_a_taken_port_is_one_line_and_status_1_before_ray_starts(world):
    folder, _ = world
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, output, errors = failed_start("--model", folder, "--port", port)
    assert status == 1
    assert output == ""
    assert len(errors) == 1
    assert f"expected port {port} of 127.0.0.1 to be free" in errors[0]


@pytest.mark.thorough
def test_bad_usage_is_status_2_and_a_missing_model_status_1(world):
    folder, _ = world
    assert failed_start("--model", folder, "--host", "no such host")[0] == 2
    assert failed_start("--model", folder, "--set", "serve.speed=1")[0] == 2
    status, _, errors = failed_start("--model", "/nowhere", "--port", 0)
    assert (status, len(errors)) == (1, 1)


class Serving:
    """`omniforcing serve` in a process group of its own, and whatever it has started."""

    def __init__(self, world, layout):
        folder, config = world
        self.temporary = Path(
            tempfile.mkdtemp(prefix="of-", dir="/tmp")
        )  # a socket's path is short
        codecs = [f"codec.video={config.codec.video}", f"codec.audio={config.codec.audio}"]
        overrides = [f"--set={value}" for value in (*codecs, f"serve.layout={layout}")]
        self.program = subprocess.Popen(
            serve_command("--model", folder, "--port", 0, "--json", *overrides),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            start_new_session=True,
        )

    def family(self):
        return psutil.Process(self.program.pid).children(recursive=True)

    def left(self, family):
        """What is still there of the family, and of Ray's folders."""
        return [*filter(is_running, family), *self.temporary.glob("ray*")]

    def close(self):
        self.program.kill()
        self.program.communicate()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture
def serving(world):
    """Starts servers of a layout."""
    with contextlib.ExitStack() as stack:

        def start(layout):
            started = Serving(world, layout)
            stack.callback(started.close)
            return started

        yield start


@pytest.mark.serve
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "layout", "send"),
    [
        pytest.param(signal.SIGINT, "pair", os.kill, marks=pytest.mark.slow),
        (signal.SIGTERM, "colocated", os.killpg),
    ],
)
def test_a_signal_ends_it_with_status_0_and_leaves_nothing(serving, number, layout, send):
    server = serving(layout)
    started = json.loads(server.program.stdout.readline())
    assert "sha256:" in started["model"]
    body = {"prompt": "a red disc", "seconds": 60}
    stream = httpx.post(f"{started['url']}/v1/streams", json=body, timeout=30).json()
    media = f"{started['url']}{stream['urls']['media']}"
    with httpx.stream("GET", media, timeout=30) as reply:
        chunks = reply.iter_raw()
        next(chunks)
        family = server.family()
        assert len(family) > 5
        send(server.program.pid, number)
        # 10 s on a quiet machine. Waiting for daemons that are gone already would take 40.
        assert server.program.wait(timeout=30) == 0
    assert server.program.stdout.read() == ""  # the one JSON object and nothing else
    wait_until(lambda: server.left(family) == [], 10)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{started['url']}/healthz")


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_a_signal_while_ray_starts_ends_it_with_status_0_too(serving):
    server = serving("colocated")
    wait_until(server.family)
    family = server.family()
    os.killpg(server.program.pid, signal.SIGTERM)
    assert server.program.wait(timeout=30) == 0
    assert server.program.stdout.read() == ""
    wait_until(lambda: server.left(family) == [], 10)
