"""The record of a demo, as report.json and as one HTML page that needs nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from infra.runs.checkpoint_store import write_text_at_once
from omniforcing_model.beacons.metrics import ClipMeasures
from pipelines.demo.report.sections import Pictures, demo_page
from pipelines.evaluation.sampled_clips import Clip
from pipelines.generate import GeneratedClip
from pipelines.reports.pictures import Curve, clip_figure, loss_figure, png, timeline_figure
from pipelines.reports.rendering import render_page

JSON_FILE = "report.json"
HTML_FILE = "report.html"
TEMPLATE = "demo/report/page.html"
# A page stays below 3 MB: a longer stream is named, not embedded.
LARGEST_EMBEDDED_STREAM = 1_500_000


@dataclass(frozen=True)
class StageRecord:
    """One trained stage: steps, seconds, where its model is, and its losses over steps."""

    name: str
    steps: int
    seconds: float
    model: str
    digest: str
    reused: bool
    losses: dict[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoRecord:
    """Everything about a demo, as plain values."""

    preset: str
    seconds: float
    phases_s: dict[str, float]
    dataset: dict[str, Any]
    stages: tuple[StageRecord, ...]
    scores: dict[str, dict[str, Any]]
    prompt: str
    streamed: str
    stream: GeneratedClip
    lineage: list[dict[str, Any]]
    versions: dict[str, str]
    machine: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, with the percentiles a reader looks for first."""
        seconds = [block.block_s for block in self.stream.blocks]
        percentiles = {f"block_p{p}_s": float(np.percentile(seconds, p)) for p in (50, 99)}
        return asdict(self) | {"stream": self.stream.as_dict() | percentiles}


def write_report(
    folder: Path,
    record: DemoRecord,
    samples: Mapping[str, Clip],
    measures: Mapping[str, ClipMeasures],
) -> Path:
    """Write report.json and report.html into `folder`; returns the page's path.

    Args:
        folder: also holds the stream, `record.stream.file`.
        record: the numbers.
        samples: a clip by source ("real", "teacher", ...), all of one prompt.
        measures: what was measured in each of them.
    """
    stream = folder / record.stream.file
    embed = stream.stat().st_size <= LARGEST_EMBEDDED_STREAM
    pictures = Pictures(
        clips={name: png(clip_figure(clip, measures[name])) for name, clip in samples.items()},
        losses={
            stage.name: png(loss_figure(stage.losses)) for stage in record.stages if stage.losses
        },
        timeline=png(timeline_figure(record.stream.blocks)),
        stream=stream.read_bytes() if embed else None,
    )
    values = record.as_dict()
    page = render_page(TEMPLATE, page=demo_page(values, pictures))
    write_text_at_once(folder / JSON_FILE, json.dumps(values, indent=2))
    write_text_at_once(folder / HTML_FILE, page)
    return folder / HTML_FILE
