"""What the person who opens a demo's report finds in it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from omniforcing_model.beacons.metrics import measure_clip
from omniforcing_model.beacons.world import Beacon, render_frames, render_waveform
from pipelines.demo.report.page import (
    LARGEST_EMBEDDED_STREAM,
    DemoRecord,
    StageRecord,
    write_report,
)
from pipelines.evaluation.sampled_clips import Clip
from pipelines.generate import BlockTimes, GeneratedClip

PROMPT = """a <red> disc </script> flashes "twice" a second & beeps '{{ high }}'"""
SECTIONS = ("The stream", "every stage", "Scores", "Training", "Data", "Lineage", "Machine")


def record() -> DemoRecord:
    blocks = tuple(
        BlockTimes(k, max(0.0, k - 1 + 1 / 24), 0.1, 0.2 + 0.1 * k, 0.22 + 0.1 * k)
        for k in range(6)
    )
    scores = {"av_offset_ms_median": 12.0, "rate_accuracy": 0.9, "clips": 12}
    scores |= {"colour_accuracy": 1.0, "pitch_accuracy": 0.5}
    losses = {"loss": [(step, 1 / step) for step in range(1, 21)]}
    sources = ("real", "teacher", "stage_1", "stage_2", "stage_3", "shipped")
    return DemoRecord(
        preset="tiny",
        seconds=245.0,
        phases_s={"render clips": 8.0, "preprocess": 31.0, "distill": 150.0},
        dataset={
            "rows": 26,
            "ok": 24,
            "filtered": {"silence": 1},
            "quarantined": {"unreadable": 1},
            "dataset": "out/demo/dataset",
            "digest": "sha256:" + "ab" * 32,
        },
        stages=tuple(
            StageRecord(name, 20, 30.0, f"out/{name}", "sha256:" + "cd" * 32, False, losses)
            for name in ("teacher", "stage_1", "stage_2", "stage_3")
        ),
        scores=dict.fromkeys(sources, scores),
        prompt=PROMPT,
        streamed="the student this demo trained",
        stream=GeneratedClip(
            "stream.mp4",
            "stage_3 sha256:12",
            "kernels",
            121,
            16_000,
            0.05,
            0.31,
            140.0,
            14.0,
            blocks,
        ),
        lineage=[
            {"kind": "model", "name": "stage_3", "digest": "sha256:34", "inputs": ["stage_2"]},
            {"kind": "dataset", "name": "dataset", "digest": "sha256:ab", "inputs": []},
        ],
        versions={"torch": "2.13.0", "ray": "2.60.0"},
        machine={"cores": "2", "memory": "24 GiB"},
    )


def clip() -> Clip:
    beacon = Beacon("red", 2, "high", 3)
    sound = render_waveform(beacon, 121 / 24, 16_000)
    return Clip(PROMPT, render_frames(beacon), np.stack((sound, sound)), 16_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stream.mp4").write_bytes(b"\0" * 200_000)
    sample = clip()
    measured = measure_clip(sample.frames, sample.waveform, sample.sample_rate)
    sources = ("real", "teacher", "stage_1", "stage_2", "stage_3")
    write_report(
        tmp_path, record(), dict.fromkeys(sources, sample), dict.fromkeys(sources, measured)
    )
    return tmp_path


def test_the_page_holds_every_section_and_needs_nothing_else(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    headings = " | ".join(re.findall(r"<h2>(.*?)</h2>", page))
    assert all(section in headings for section in SECTIONS)
    assert not re.search(r"https?://|<link|<script|src=\"(?!data:)|url\(", page)
    assert len(page) < 3_000_000


def test_the_browser_runs_and_fetches_nothing_whatever_the_page_holds(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("Content-Security-Policy") == 1
    assert "content=\"default-src 'none'; img-src data:; media-src data:; style-src" in page


def test_every_stage_is_shown_beside_the_data(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for title in ("Data", "Teacher", "Stage I", "Stage II", "Stage III"):
        assert f"<h3>{title}<small>" in page
    assert page.count("data:image/png") == 5 + 4 + 1


def test_a_prompt_is_text_and_never_markup(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert (
        "“a &lt;red&gt; disc &lt;/script&gt; flashes &#34;twice&#34; a second &amp; beeps" in page
    )
    assert "&#39;{{ high }}&#39;”" in page
    assert "<red>" not in page and "</script>" not in page


def test_the_json_has_the_numbers_of_the_page(folder: Path) -> None:
    values = json.loads((folder / "report.json").read_text())
    assert values["stream"]["first_chunk_s"] == 0.31
    assert values["stream"]["block_p99_s"] == pytest.approx(0.1)
    assert values["stream"]["blocks"][2]["sent_at_s"] == pytest.approx(0.42)
    assert values["scores"]["stage_3"]["rate_accuracy"] == 0.9
    assert values["dataset"]["quarantined"] == {"unreadable": 1}
    page = (folder / "report.html").read_text()
    assert ">310<" in page
    assert "quarantined: unreadable" in page


def test_a_long_stream_is_named_instead_of_embedded(tmp_path: Path) -> None:
    (tmp_path / "stream.mp4").write_bytes(b"\0" * (LARGEST_EMBEDDED_STREAM + 1))
    write_report(tmp_path, record(), {}, {})
    page = (tmp_path / "report.html").read_text()
    assert "video/mp4" not in page
    assert "<code>stream.mp4</code>" in page
