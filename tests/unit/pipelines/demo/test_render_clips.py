import json
import math
from pathlib import Path

import pytest

from infra.media.files import probe
from omniforcing_model.beacons.world import BeaconTraits, parse_caption
from pipelines.demo.render_clips import CAPTIONS_FILE, TRUTH_FILE, render_clips


def test_a_folder_of_clips_has_captions_that_tell_the_truth(tmp_path: Path) -> None:
    truth = render_clips(tmp_path, count=2, seed=0, seconds=1)
    assert [row["clip"] for row in truth] == ["clip_00000.mp4", "clip_00001.mp4"]
    assert truth == [json.loads(line) for line in (tmp_path / TRUTH_FILE).read_text().splitlines()]
    captions = [json.loads(line) for line in (tmp_path / CAPTIONS_FILE).read_text().splitlines()]
    for caption, row in zip(captions, truth, strict=True):
        assert caption["clip"] == row["clip"]
        traits = BeaconTraits(row["colour"], row["rate_hz"], row["pitch"])
        assert parse_caption(caption["caption"]) == traits
        assert probe(tmp_path / row["clip"]).frames == 25
    assert len(list(tmp_path.iterdir())) == 4


def test_a_larger_count_begins_with_the_clips_of_a_smaller_one(tmp_path: Path) -> None:
    fewer = render_clips(tmp_path / "a", count=1, seed=3, seconds=1)
    more = render_clips(tmp_path / "b", count=2, seed=3, seconds=1)
    assert more[:1] == fewer
    for row in more:
        # A flash every period from the phase on, as long as the clip of 25 frames lasts.
        first, period = row["phase_frames"] / 24, 1 / row["rate_hz"]
        count = math.ceil((25 / 24 - first) / period)
        assert row["flash_times_s"] == pytest.approx([first + n * period for n in range(count)])
    record = probe(tmp_path / "b" / "clip_00001.mp4")
    assert record.duration_s == pytest.approx(25 / 24, abs=0.05)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "captions.jsonl",
        "clip_00000.mp4",
        "clip_00001.mp4",
        "truth.jsonl",
    ]
