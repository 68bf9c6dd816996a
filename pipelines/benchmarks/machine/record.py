"""A benchmark's result with what it takes to repeat it: commit, settings, machine, versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.config import RunConfig
from infra.machine import machine_facts, version_facts
from infra.runs.checkpoint_store import write_text_at_once
from infra.runs.provenance import code_commit


def record_of(
    config: RunConfig, settings: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept of one run of `omniforcing bench`."""
    model = config.model.model_dump(mode="json")
    pixels = {"height": config.data.height, "width": config.data.width}
    return {
        "commit": code_commit(),
        "settings": {**settings, "config": config.name, "model": model, **pixels},
        "machine": machine_facts(),
        "versions": version_facts(),
        "result": dict(result),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_at_once(path, json.dumps(record, indent=2))
