"""Processes below this one: only those of a folder are found and ended, and ended for good."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.processes import (
    end_processes,
    is_process,
    is_running,
    processes_of,
    processor_s,
    proportional_memory_mib,
    start_ticks,
)

# It starts a child whose command line names no folder, says its id and waits.
DAEMON = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(child.pid, flush=True)
time.sleep(100)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(100)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", DAEMON, f"--temp-dir={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield process, child
        process.kill()


def test_the_processes_of_a_folder_are_those_that_name_it_and_what_these_have_started(
    daemon: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, child = daemon
    assert {other.pid for other in processes_of(tmp_path)} == {process.pid, child}
    assert processes_of(tmp_path / "another") == set()


def test_ending_returns_when_all_are_gone(
    daemon: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, child = daemon
    members = processes_of(tmp_path)
    end_processes(members, patience_s=0)
    assert not any(is_running(member) for member in members)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_who_ends_within_the_patience_is_not_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"]) as process:
        end_processes([psutil.Process(process.pid)], patience_s=60)
        assert process.wait(timeout=10) == 0


def test_who_stays_is_killed_after_the_patience() -> None:
    command = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        end_processes([psutil.Process(process.pid)], patience_s=0.3)
        assert 0.3 <= time.monotonic() - began < 30
        assert process.wait(timeout=10) == -signal.SIGKILL


def test_an_ended_process_counts_as_gone_before_its_parent_notices() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        process = psutil.Process(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.status() == psutil.STATUS_ZOMBIE
        assert not is_running(process)
    assert not is_running(process)
    assert is_running(psutil.Process())


def test_memory_is_that_of_this_process_and_of_those_below_it(
    daemon: tuple[subprocess.Popen[str], int],
) -> None:
    process, child = daemon
    memory = proportional_memory_mib()
    assert {os.getpid(), process.pid, child} <= set(memory)
    resident_mib = psutil.Process().memory_info().rss / 2**20
    assert 1 < memory[os.getpid()] <= 1.2 * resident_mib


def test_a_process_is_told_from_a_later_one_with_its_id() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        began = start_ticks(process.pid)
        assert began is not None
        assert is_process(process.pid, began)
        assert not is_process(process.pid, began + 1)
        process.kill()
        while start_ticks(process.pid) is not None:  # it has ended, and nobody has asked for it
            time.sleep(0.01)
        assert not is_process(process.pid, began)
    assert not is_process(process.pid, began)


def test_a_process_knows_how_long_it_has_been_there() -> None:
    script = (
        "import time; from infra.processes import own_age_s; time.sleep(0.2);print(own_age_s())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert 0.2 <= float(done.stdout) < 60


def test_the_processor_time_of_a_process_is_told_until_its_parent_has_asked_how_it_ended() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        assert 0.25 < processor_s(process.pid) < 10
        process.wait()
        with pytest.raises(FileNotFoundError):
            processor_s(process.pid)
