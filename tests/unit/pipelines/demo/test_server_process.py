"""The demo's server: what one sees when it does not come up, and that nothing stays behind."""

import time
from pathlib import Path

import psutil
import pytest

from infra.errors import ClusterError
from infra.processes import is_running
from pipelines.demo.server_process import serving


def children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if is_running(child)}


def test_a_server_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    before, log = children(), tmp_path / "serve.log"
    said = pytest.raises(ClusterError, match=r"expected one of the presets .*serve\.log")
    with said, serving(["--preset", "huge"], log):
        pytest.fail("it cannot be ready")
    assert children() == before
    assert "huge" in log.read_text()


def test_an_interrupted_start_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    began = time.monotonic()
    monkeypatch.setattr("pipelines.demo.server_process.START_TIMEOUT_S", 0.5)
    with pytest.raises(ClusterError), serving(["--model", str(tmp_path)], tmp_path / "serve.log"):
        pytest.fail("nothing can be ready in half a second")
    assert children() == before
    assert time.monotonic() - began < 60
