"""Whatever lies in the folder: every row has one outcome, and the good clips get through."""

import json

import pytest

from infra.dataset.latent_table import LatentTable
from infra.dataset.outcome_table import read_outcomes
from infra.errors import DatasetError
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.cli import main
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.beacon_clips import (
    caption,
    truncated,
    without_sound,
    write_beacon_clip,
    write_beacon_clips,
    write_captions,
)
from tests.worlds.media.ffmpeg import run_ffmpeg

SECONDS = 1
GOOD = 2
# Reason, and what the outcome says, of every clip that is not good.
FILTERED = {
    "copy.mp4": ("duplicate", "got the content of clip_0.mp4"),
    "half_mute.mp4": ("sound_missing", "got 0.5 s without"),
    "long.mp4": ("too_long", "expected at most 2.5 s, got 3.04 s"),
    "mute.mp4": ("no_audio", "expected a sound track, got none"),
    "short.mp4": ("too_short", "expected at least 1 s, got 0."),
    "silent.mp4": ("silence", "expected sound above -60 dBFS"),
    "wordy.mp4": ("caption_too_long", "expected at most 2000 characters of caption, got 3000"),
}
QUARANTINED = {
    "absent.mp4": ("missing_file", "got no such clip"),
    "empty.mp4": ("unreadable", "got an empty file"),
    "link.mp4": ("unreadable", "No such file"),
    "nameless.mp4": ("no_caption", "expected a caption for nameless.mp4, got none"),
    "text.mp4": ("unreadable", "expected a readable clip"),
    "truncated.mp4": ("unreadable", "truncated.mp4"),
}


def run(clips, out):
    config = load_preset("tiny", [f"data.seconds={SECONDS}", "data.gates.max_seconds=2.5"])
    return preprocess(config, str(clips), str(out), SilentProgress())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = write_beacon_clips(tmp_path_factory.mktemp("clips"), GOOD, SECONDS)
    good = folder / "clip_0.mp4"
    (folder / "copy.mp4").write_bytes(good.read_bytes())
    write_beacon_clip(folder / "half_mute.mp4", seconds=2, sound_s=0.5)
    write_beacon_clip(folder / "long.mp4", seconds=3)
    without_sound(good, folder / "mute.mp4")
    shortened(folder / "long.mp4", folder / "short.mp4")
    write_beacon_clip(folder / "silent.mp4", loudness=0)
    write_beacon_clip(folder / "wordy.mp4", number=2)
    (folder / "empty.mp4").touch()
    (folder / "link.mp4").symlink_to(folder / "nowhere.mp4")
    write_beacon_clip(folder / "nameless.mp4", number=3)
    (folder / "text.mp4").write_text("not a clip")
    truncated(folder / "clip_1.mp4", folder / "truncated.mp4")
    captions = {name: f"a caption of {name}" for name in FILTERED | QUARANTINED}
    captions |= {"clip_0.mp4": caption(0), "clip_1.mp4": caption(1), "copy.mp4": caption(0)}
    captions["wordy.mp4"] = "x" * 3000
    del captions["nameless.mp4"]
    write_captions(folder, captions)
    return folder


def shortened(source, target):
    """The first half second of a clip."""
    run_ffmpeg("-i", source, "-t", "0.5", target)


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory, ray_local):
    out = tmp_path_factory.mktemp("out") / "dataset"
    return out, run(clips, out)


@pytest.mark.ray
def test_every_row_is_counted_once_under_its_reason(finished):
    _, summary = finished
    assert summary.rows == GOOD + len(FILTERED) + len(QUARANTINED)
    assert summary.ok == GOOD
    assert summary.filtered == {reason: 1 for reason, _ in FILTERED.values()}
    assert summary.quarantined == {"missing_file": 1, "no_caption": 1, "unreadable": 4}
    assert summary.rows == summary.ok + sum((summary.filtered | summary.quarantined).values())


@pytest.mark.ray
@pytest.mark.parametrize("name", [*FILTERED, *QUARANTINED])
def test_the_outcome_of_a_bad_clip_says_what_is_wrong(finished, name):
    rows = {row["clip_uri"]: row for row in read_outcomes(ObjectStore(finished[0])).to_pylist()}
    kind = "filtered" if name in FILTERED else "quarantined"
    reason, sentence = (FILTERED | QUARANTINED)[name]
    row = rows[name]
    assert (row["outcome"], row["reason"], row["attempts"]) == (kind, reason, 1)
    assert sentence in row["error"]
    assert "\n" not in row["error"]


@pytest.mark.ray
def test_the_good_clips_make_the_dataset(finished):
    table = LatentTable.open(finished[0])
    rows = table.read(range(table.rows))
    assert sorted(rows["clip_uri"]) == ["clip_0.mp4", "clip_1.mp4"]


@pytest.mark.ray
def test_the_same_bad_clips_are_not_tried_again(clips, finished):
    out, summary = finished
    again = run(clips, out)
    of_this_run = {"seconds", "stage_seconds", "rows_worked"}
    assert again.model_dump(exclude=of_this_run) == summary.model_dump(exclude=of_this_run)


@pytest.mark.ray
def test_if_no_clip_is_usable_the_command_fails_and_the_outcomes_stay(tmp_path, ray_local, capfd):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "text.mp4").write_text("not a clip")
    (clips / "text.txt").write_text("a caption")
    out = tmp_path / "dataset"
    for _ in range(2):  # the second time from what the first one left
        status = main(["preprocess", "--clips", str(clips), "--out", str(out), "--json"])
        output = capfd.readouterr()
        assert status == 1
        assert output.out == ""
        assert output.err.strip().splitlines()[-1] == (
            f"error: expected a usable clip in {clips}, got none: 1 unreadable;"
            f" {out}/outcomes.parquet says why for each"
        )
    assert read_outcomes(ObjectStore(out))["reason"].to_pylist() == ["unreadable"]
    assert json.loads((out / "manifest.json").read_text())["rows"] == 0
    with pytest.raises(DatasetError, match="0 rows"):
        LatentTable.open(out)
