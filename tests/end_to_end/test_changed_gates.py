"""A changed gate decides again from what was measured: nothing is decoded or encoded for it."""

from contextlib import suppress

import pytest

from infra.config import GatesConfig
from infra.dataset.commit_log import SCHEMAS, read_log
from infra.dataset.outcome_table import read_outcomes
from infra.errors import DatasetError
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.beacon_clips import caption, write_beacon_clip, write_captions
from tests.worlds.datasets import names
from tests.worlds.media_zoo import Making, write_flashes
from tests.worlds.preprocessing import content

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
SETTINGS = (
    "data.seconds=1",
    "data.split.kind=fixed",
    "data.gates.max_clipped_share=1",
    "data.gates.max_frame_jitter=0.9",
)
WINDOWS = 9
# Of each gate, a limit that refuses a clip or a window of these.
TIGHTER = {
    "max_seconds": 1.5,
    "max_file_mb": 0.001,
    "max_source_pixels": 4000,
    "min_height": 65,
    "min_width": 65,
    "silence_dbfs": -10,
    "max_clipped_share": 1e-9,
    "max_missing_sound_s": 1e-9,
    "max_frame_jitter": 1e-9,
    "max_frozen_share": 1e-9,
    "max_caption_chars": 12,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips that pass every gate of the settings."""
    folder = tmp_path_factory.mktemp("clips")
    write_beacon_clip(folder / "long.mp4", seconds=2)
    write_beacon_clip(folder / "quiet.mp4", 1, loudness=0.1)
    write_beacon_clip(folder / "half_mute.mp4", 2, seconds=2, sound_s=1.95)
    write_flashes(folder / "flashes.mp4", Making(flaw="clipped"))
    write_flashes(folder / "jerky.mp4", Making(flaw="variable"))
    files = ("long.mp4", "quiet.mp4", "half_mute.mp4", "flashes.mp4", "jerky.mp4")
    write_captions(folder, {name: caption(number) for number, name in enumerate(files)})
    return folder


def run(clips, out, *settings):
    config = load_preset("tiny", [*SETTINGS, *settings])
    return preprocess(config, str(clips), str(out), SilentProgress())


def rows_of(out):
    rows = read_outcomes(ObjectStore(out)).to_pylist()
    return {(row["clip_uri"], row["start_s"]): row for row in rows}


def ok_rows(out):
    return [place for place, row in rows_of(out).items() if row["outcome"] == "ok"]


def work_done(out):
    """Shards, and what the logs say: another attempt would show."""
    logs = [read_log(ObjectStore(out), log).to_pylist() for log in SCHEMAS]
    return names(out, "latents"), names(out, "text"), repr(logs)


@pytest.mark.corpus
def test_no_changed_gate_has_anything_encoded_that_is_there(clips, tmp_path, ray_local):
    assert TIGHTER.keys() == GatesConfig.model_fields.keys()
    out = tmp_path / "dataset"
    first = run(clips, out)
    assert (first.filtered, first.ok, first.rows_worked) == ({}, WINDOWS, WINDOWS)
    whole, done = content(out), work_done(out)
    for setting, limit in TIGHTER.items():
        with suppress(DatasetError):  # if it refuses every clip
            tightened = run(clips, out, f"data.gates.{setting}={limit}")
            assert (tightened.rows_worked, tightened.stage_seconds) == (0, {}), setting
        assert work_done(out) == done, setting
        assert len(ok_rows(out)) < WINDOWS, setting
    back = run(clips, out)
    assert (back.rows_worked, back.stage_seconds) == (0, {})
    assert content(out) == whole


def test_a_loosened_gate_encodes_the_windows_that_it_admits_alone(clips, tmp_path, ray_local):
    out = tmp_path / "dataset"
    tight = run(clips, out, "data.gates.silence_dbfs=-30")
    assert (tight.ok, tight.filtered, tight.rows_worked) == (
        WINDOWS - 1,
        {"silence": 1},
        WINDOWS,
    )
    quiet = rows_of(out)["quiet.mp4", 0.0]
    assert quiet["reason"] == "silence"
    assert quiet["rms_dbfs"] < -30
    loosened = run(clips, out)
    assert (loosened.ok, loosened.rows_worked) == (WINDOWS, 1)
    assert "ClipSurveyor" not in loosened.stage_seconds
