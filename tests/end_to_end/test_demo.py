"""The whole demo on random weights: what it leaves on disk, and that nothing keeps running."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infra.media.files import probe
from tests.worlds.streaming import write_streaming_world

pytestmark = [pytest.mark.ray, pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(1200)]

SMALL = (
    "data.seconds=2",
    "sampling.teacher_steps=2",
    "demo.clips=16",
    "demo.steps=5",
    "demo.trajectories=8",
    "demo.prompts=2",
    "demo.seconds=2",
)
STAGES = ("teacher", "stage_1", "stage_2", "stage_3")


MARK = "OMNIFORCING_TEST_DEMO"


def run_demo(out: Path, options: list[str], *media: Path) -> dict:
    command = [sys.executable, "-m", "pipelines.cli", "demo", "--json", "--out", str(out)]
    done = subprocess.run(
        [*command, *options, *map(str, media)],
        env={**os.environ, MARK: str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def processes_of(out: Path) -> list[str]:
    """Command lines of all that the demo has started and left: each inherited its environment."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(MARK) == str(out):
                left.append(" ".join(process.cmdline())[:120])
    return left


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    model, config = write_streaming_world(folder, *SMALL)
    sets = [*SMALL, f"model.layers={config.model.layers}"]
    sets += [f"codec.{name}={getattr(config.codec, name)}" for name in ("video", "audio")]
    sets += [f"models.{stage}={model}" for stage in STAGES]
    return [f"--set={one}" for one in sets]


def test_a_demo_leaves_a_report_a_stream_and_a_lineage_and_a_second_one_reuses_them(
    options, tmp_path
):
    out, silent = tmp_path / "demo", tmp_path / "holiday.mp4"
    silent.write_bytes(b"not a film")
    first = run_demo(out, options, silent)
    assert first["dataset"]["rows"] == 17
    assert (
        first["dataset"]["ok"]
        + sum(sum(first["dataset"][outcome].values()) for outcome in ("filtered", "quarantined"))
        == 17
    )
    assert {stage["name"] for stage in first["stages"]} >= set(STAGES)
    assert not any(stage["reused"] for stage in first["stages"])
    assert set(first["scores"]) == {"real", *STAGES, "shipped"}
    assert first["stream"]["frames"] == 49
    assert probe(out / "stream.mp4").has_audio
    assert "model" in {node["kind"] for node in first["lineage"]}
    page = (out / "report.html").read_text()
    assert "https://" not in page and "http://" not in page
    assert json.loads((out / "report.json").read_text())["stream"] == first["stream"]
    assert processes_of(out) == []

    second = run_demo(out, options, silent)
    assert all(stage["reused"] for stage in second["stages"])
    assert second["dataset"]["digest"] == first["dataset"]["digest"]
    assert second["seconds"] < first["seconds"]
