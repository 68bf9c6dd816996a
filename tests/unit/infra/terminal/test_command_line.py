"""What somebody at a shell gets from a command that goes right, and from one that goes wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from infra.errors import ConfigError, DatasetError
from infra.terminal.command_line import Invocation, command


def exit_status(behaviour: Callable[[Invocation], None], *options: str) -> int:
    app = typer.Typer()

    @command(app, "try")
    def attempt(call: Invocation) -> None:
        behaviour(call)

    return int(app(list(options), standalone_mode=False) or 0)


def raising(error: BaseException) -> Callable[[Invocation], None]:
    def behaviour(_: Invocation) -> None:
        raise error

    return behaviour


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("expected a, got b; do c"), 2),
        (DatasetError("expected a, got b; do c"), 1),
        (RuntimeError("something nobody\nthought of"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_failure_is_one_line_and_a_status(
    error: BaseException, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raising(error)) == status
    output, shown = capfd.readouterr()
    assert output == ""
    assert len(shown.strip().splitlines()) == 1
    assert "Traceback" not in shown


def full_disk() -> ConfigError:
    error = ConfigError("expected weights, got nothing readable")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/data/a")
    return error


@pytest.mark.parametrize("error", [full_disk(), full_disk().__cause__])
def test_what_is_the_machine_s_fault_is_said_and_is_no_bad_usage(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raising(error)) == 1
    assert capfd.readouterr().err == (
        "error: expected room to write at /data/a, got: [Errno 28] No space left on device:"
        " '/data/a'; free space there, or raise the quota, then run the same command again: what is"
        " done stays done\n"
    )


def test_a_result_that_finds_no_room_is_a_failure() -> None:
    command = [sys.executable, "-m", "pipelines.cli", "plan", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: expected room to write, got: [Errno 28]")


def test_debug_shows_the_traceback_before_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(DatasetError("no manifest")), "--debug") == 1
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert shown.strip().endswith("error: no manifest")


def test_json_is_all_that_standard_output_gets_whatever_libraries_print(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def chatty(call: Invocation) -> None:
        os.write(1, b"a C library talks\n")
        with call.progress.stage("work", 1) as stage:
            stage.advance()
        call.result({"rows": 3}, "three rows")

    assert exit_status(chatty, "--json") == 0
    output, shown = capfd.readouterr()
    assert json.loads(output) == {"rows": 3}
    assert "a C library talks" in shown


def test_without_json_the_result_is_text(capfd: pytest.CaptureFixture[str]) -> None:
    exit_status(lambda call: call.result({"rows": 3}, "three rows"))
    assert capfd.readouterr().out == "three rows\n"


def test_set_changes_the_configuration_that_the_command_gets() -> None:
    seconds = []
    exit_status(lambda call: seconds.append(call.config.data.seconds), "--set", "data.seconds=7")
    assert seconds == [7]


def test_a_preset_may_be_named_where_a_file_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    exit_status(lambda call: names.append(call.config.name), "--config", "small")
    (tmp_path / "small").write_text("extends: tiny\nname: mine\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exit_status(lambda call: names.append(call.config.name), "--config", "small")
    assert names == ["small", "mine"], "a file of that name comes first"


def test_termination_unwinds_what_a_command_has_open() -> None:
    program = """
import time, typer
from infra.terminal.command_line import command
app = typer.Typer()
@command(app, "wait")
def wait(call):
    try:
        call.output.write("ready\\n"); call.output.flush()
        time.sleep(60)
    finally:
        call.output.write("closed\\n")
app([])
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=20)[0] == "closed\n"
    assert child.returncode == 128 + signal.SIGTERM
