"""Facts about this machine that a report shows."""

import os
from pathlib import Path

import pytest

from infra.machine import (
    available_memory_gib,
    gpu_names,
    machine_facts,
    usable_cores,
    version_facts,
)


def test_the_facts_are_those_of_this_machine() -> None:
    facts = machine_facts()
    assert facts["cores"] == str(usable_cores()) == str(len(os.sched_getaffinity(0)))
    total = float(facts["memory"].removesuffix(" GiB"))
    assert 0 < available_memory_gib() <= total + 0.05


def test_the_versions_of_what_computes_are_named() -> None:
    versions = version_facts()
    assert all(versions[name][0].isdigit() for name in ("python", "torch", "ray", "mlflow"))


def test_a_library_that_is_not_there_is_reported_as_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infra.machine.SHOWN_LIBRARIES", ("no-such-library",))
    assert version_facts()["no-such-library"] == "not installed"


def test_memory_is_in_gib() -> None:
    total_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    assert machine_facts()["memory"] == f"{total_kib / 2**20:.1f} GiB"


def gpu_program(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_gpus_are_lines_of_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_names() == []
    assert machine_facts()["gpu"] == "none"
    gpu_program(tmp_path, "echo 'One, 80 GiB'; echo 'Two, 80 GiB'")
    assert gpu_names() == ["One, 80 GiB", "Two, 80 GiB"]
    assert machine_facts()["gpu"] == "One, 80 GiB; Two, 80 GiB"


def test_a_driver_that_fails_leaves_the_other_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_program(tmp_path, "exit 9")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_facts()["gpu"] == "not readable"


def test_the_cpu_is_named_by_its_model() -> None:
    name = machine_facts()["processor"]
    assert name and name == name.strip()
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    assert not models or models[0].endswith(f": {name}")
