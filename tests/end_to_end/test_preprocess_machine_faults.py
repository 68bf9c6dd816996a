"""A machine that fails in any stage ends the run with one line; a rerun gives the whole dataset."""

import json
import os
import subprocess
import sys

import pytest

from tests.worlds.failing_disk import FailingDisk
from tests.worlds.failing_runs import FAULTS
from tests.worlds.preprocessing import ROOT, content

FEW = ("survey: disk", "decode: full", "write: files")
GOT = {"full": "No space left", "files": "Too many open files", "quota": "quota", "disk": "Errno 5"}


@pytest.fixture(scope="module", params=[FEW, pytest.param((*FAULTS,), marks=pytest.mark.corpus)])
def ends(request, tmp_path_factory):
    """The faults, what came of each run, and where the datasets are."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "scratch").mkdir()
    environment = FailingDisk(folder).environment
    library = environment.pop("LD_PRELOAD")
    code = (
        "import os, sys, pathlib, tempfile; tempfile.gettempdir();"
        f" os.environ['LD_PRELOAD'] = {library!r};"  # of its children only
        " from tests.worlds.failing_runs import main;"
        " main(pathlib.Path(sys.argv[1]), sys.argv[2:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, *request.param],
        cwd=ROOT,
        env=os.environ | environment | {"TMPDIR": str(folder / "scratch")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, json.loads(done.stdout), folder


pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_every_fault_is_one_line_with_what_to_do_and_a_status(ends):
    faults, runs, _ = ends
    for fault in faults:
        assert runs[fault]["status"] == 1, fault
        (line,) = runs[fault]["lines"]
        assert line.startswith("error: expected "), line
        assert GOT[fault.rpartition(" ")[2]] in line, (fault, line)
        assert line.endswith("then run the same command again: what is done stays done"), line


def test_no_fault_condemns_a_row(ends):
    faults, runs, _ = ends
    assert {fault: runs[fault]["condemned"] for fault in faults} == {fault: [] for fault in faults}


def test_a_rerun_gives_the_dataset_of_a_machine_that_never_failed(ends):
    _, runs, folder = ends
    assert (runs["straight"]["status"], runs["healed"]["status"]) == (0, 0), runs["healed"]
    assert content(folder / "dataset") == content(folder / "straight")


def test_nothing_unfinished_is_left(ends):
    folder = ends[2]
    assert [*(folder / "dataset").rglob("*.unfinished")] == []
    assert list((folder / "scratch").iterdir()) == []
    assert not (folder / "dataset" / "work").exists()
