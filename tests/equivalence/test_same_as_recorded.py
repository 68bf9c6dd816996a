"""The same seeds give the losses, weights, streams and datasets that were recorded, bit for bit.

`python -m tests.worlds.recorded_run` makes the record anew (with PLAIN_INSTRUCTIONS set). A change
that means to move a number records it again and says so in CHANGELOG.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds.recorded_run import PLAIN_INSTRUCTIONS

RECORD = Path(__file__).with_name("recorded_run.json")
ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))
IN_PROCESS = ("training", "streams", "student")


def record_parts(*parts):
    """The same parts, made by a process that uses no more than every x86-64 has."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.worlds.recorded_run", *parts],
        cwd=ROOT,
        env=os.environ | PLAIN_INSTRUCTIONS,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def results():
    return record_parts(*IN_PROCESS)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part in IN_PROCESS for name in RECORDED[part]]
)
def test_a_seed_gives_what_it_gave(results, part, name):
    assert results[part][name] == RECORDED[part][name]


def test_different_shapes_give_different_streams():
    streams = [tuple(values.values()) for values in RECORDED["streams"].values()]
    assert len(set(streams)) == len(streams)


@pytest.mark.ray
def test_the_same_clips_give_the_same_dataset():
    assert record_parts("dataset")["dataset"] == RECORDED["dataset"]
