"""What is kept of a run."""

import json
from pathlib import Path

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.machine.record import (
    BenchRecord,
    record_of,
    without_mark,
    write_record,
)


@pytest.mark.parametrize(
    ("described", "commit", "is_dirty"),
    [("abc", "abc", False), ("abc-dirty", "abc", True), ("unknown", "unknown", False)],
)
def test_a_record_says_which_commit_and_whether_files_differed(
    described: str, commit: str, is_dirty: bool
) -> None:
    assert without_mark(described) == (commit, is_dirty)
    assert not record_of(load_preset("tiny"), {}, {}).commit.endswith("-dirty")


def test_a_record_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    record = record_of(load_preset("tiny"), {"what": "stream"}, {"blocks": [1.5, 2.0]})
    path = tmp_path / "results" / "one.json"
    write_record(path, record)
    assert BenchRecord.model_validate_json(path.read_text(encoding="utf-8")) == record
    assert json.loads(path.read_text(encoding="utf-8"))["result"] == {"blocks": [1.5, 2.0]}


def test_a_record_names_what_it_ran_on() -> None:
    record = record_of(load_preset("tiny"), {}, {})
    assert record.torch["threads"] == str(torch.get_num_threads())
    assert record.torch["gpu"] == (
        torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    )
    assert "attention" in record.torch["cpu_kernels_float32"]
    assert record.machine["processor"]
    assert record.versions["torch"]
    assert record.settings["model"]["layers"] == 4
