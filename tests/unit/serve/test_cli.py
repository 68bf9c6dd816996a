"""`omniforcing serve`: one line when it cannot start, nothing left when it stops."""

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


@pytest.mark.serve
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "layout"),
    [
        pytest.param(signal.SIGINT, "pair", marks=pytest.mark.slow),
        (signal.SIGTERM, "colocated"),
    ],
)
def test_a_signal_ends_it_with_status_0_and_leaves_nothing(world, number, layout):
    folder, config = world
    temporary = Path(tempfile.mkdtemp(prefix="of-", dir="/tmp"))  # a socket's path is short
    codecs = [f"codec.video={config.codec.video}", f"codec.audio={config.codec.audio}"]
    overrides = [f"--set={value}" for value in (*codecs, f"serve.layout={layout}")]
    serving = subprocess.Popen(
        serve_command("--model", folder, "--port", 0, "--json", *overrides),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    try:
        started = json.loads(serving.stdout.readline())
        assert "sha256:" in started["model"]
        body = {"prompt": "a red disc", "seconds": 60}
        stream = httpx.post(f"{started['url']}/v1/streams", json=body, timeout=30).json()
        media = f"{started['url']}{stream['urls']['media']}"
        with httpx.stream("GET", media, timeout=30) as reply:
            chunks = reply.iter_raw()
            next(chunks)
            family = psutil.Process(serving.pid).children(recursive=True)
            assert len(family) > 5
            serving.send_signal(number)
            assert serving.wait(timeout=60) == 0
        assert serving.stdout.read() == ""  # the one JSON object and nothing else
        wait_until(lambda: not any(process.is_running() for process in family), 10)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{started['url']}/healthz")
        assert list(temporary.glob("ray*")) == []
    finally:
        serving.kill()
        serving.communicate()
        shutil.rmtree(temporary, ignore_errors=True)
