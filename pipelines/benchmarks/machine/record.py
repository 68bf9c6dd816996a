"""A benchmark's result with what it takes to repeat it: commit, settings, machine, versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infra.config import RunConfig
from infra.machine import machine_facts, version_facts
from infra.records import Record
from infra.runs.checkpoint_store import write_text_at_once
from infra.runs.provenance import code_commit
from omniforcing_model.kernels.choice import kernels_in_use

DIRTY = "-dirty"


class Measured(Record):
    """Where something was measured, and by what.

    commit: of the code, "unknown" outside a checkout. is_dirty: files differed from it. torch: what
    PyTorch runs on: device by name, threads, CUDA, and which forms of its kernels this process
    takes on a CPU, per type. machine: processor, cores, memory, GPUs, system. versions: of Python
    and the libraries.
    """

    commit: str
    is_dirty: bool
    torch: dict[str, str]
    machine: dict[str, str]
    versions: dict[str, str]


class BenchRecord(Measured):
    """One run of `omniforcing bench`.

    settings: the command's options, and of the configuration what the result depends on. result: of
    the command, as its `--json`.
    """

    settings: dict[str, Any]
    result: dict[str, Any]


def measured_here() -> Measured:
    """This process, its code and its machine."""
    commit, is_dirty = without_mark(code_commit())
    return Measured(
        commit=commit,
        is_dirty=is_dirty,
        torch=torch_facts(),
        machine=machine_facts(),
        versions=version_facts(),
    )


def record_of(
    config: RunConfig, settings: Mapping[str, Any], result: Mapping[str, Any]
) -> BenchRecord:
    """What is kept of one run of `omniforcing bench`."""
    model = config.model.model_dump(mode="json")
    pixels = {"height": config.data.height, "width": config.data.width}
    return BenchRecord(
        **measured_here().model_dump(),
        settings={**settings, "config": config.name, "model": model, **pixels},
        result=dict(result),
    )


def without_mark(described: str) -> tuple[str, bool]:
    """The commit of `code_commit`, and whether it was marked as not all there is."""
    return described.removesuffix(DIRTY), described.endswith(DIRTY)


def torch_facts() -> dict[str, str]:
    """What PyTorch computes on in this process, by name."""
    has_gpu = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if has_gpu else "none",
        "cuda": torch.version.cuda or "none",
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_kernels_float32": kernels_in_use().float32.name,
        "cpu_kernels_bfloat16": kernels_in_use().bfloat16.name,
    }


def write_record(path: Path, record: BenchRecord) -> None:
    """Write a record as JSON, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_at_once(path, record.model_dump_json(indent=2))
