"""The demo's server: what one sees when it does not come up, and that nothing stays behind."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.errors import ClusterError
from infra.processes import is_running
from pipelines.demo.server_process import (
    Server,
    _stop,
    _wait_until_ready,
    run_server,
)


def children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if is_running(child)}


@pytest.mark.thorough
def test_a_server_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    before, log = children(), tmp_path / "serve.log"
    quoting = pytest.raises(ClusterError, match=r"expected one of the presets .*serve\.log")
    with quoting, run_server(["--preset", "huge"], log):
        pytest.fail("it cannot be ready")
    assert children() == before
    assert "huge" in log.read_text()


def test_an_interrupted_start_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    began = time.monotonic()
    monkeypatch.setattr("pipelines.demo.server_process.START_TIMEOUT_S", 0.5)
    with (
        pytest.raises(ClusterError),
        run_server(["--model", str(tmp_path)], tmp_path / "serve.log"),
    ):
        pytest.fail("nothing can be ready in half a second")
    assert children() == before
    assert time.monotonic() - began < 60


def test_the_last_three_lines_of_the_log_are_quoted(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("one\n\ntwo\nthree\n \nfour\n")
    command = [sys.executable, "-c", "print('no JSON')"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        quoted = re.escape(f"got: two / three / four; {log} has all of it")
        with pytest.raises(ClusterError, match=quoted):
            _wait_until_ready(child, log)


def test_the_address_and_the_model_are_the_servers_own_words(tmp_path: Path) -> None:
    text = '{"url": "http://here", "model": "stage_3"}'
    with subprocess.Popen(
        [sys.executable, "-c", f"print('{text}')"], stdout=subprocess.PIPE
    ) as child:
        assert _wait_until_ready(child, tmp_path / "serve.log") == Server("http://here", "stage_3")


def test_a_child_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.demo.server_process.STOP_TIMEOUT_S", 0.2)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None and child.stdout.readline() == b"up\n"
    _stop(child)
    assert child.returncode == -signal.SIGKILL
    assert child.stdout.closed
