"""A folder with a clip of every kind that one meets, preprocessed; whatever ffmpeg is on PATH."""

import os

import pytest

from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from infra.dataset.outcome_table import read_outcomes
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from tests.worlds.beacon_clips import caption, write_captions
from tests.worlds.media.damage import RUNS, damaged
from tests.worlds.media.live import as_recorded_live
from tests.worlds.media.numbered import Numbered, numbers_in, write_numbered
from tests.worlds.media.numbered_kinds import KINDS
from tests.worlds.media.tracks import KINDS as TRACKS
from tests.worlds.media.tracks import write_tracks
from tests.worlds.media.viewing import write_interlaced
from tests.worlds.preprocessing import content, run_to_the_end

OK = ("ok", "")
DAMAGED = ("quarantined", "damaged")
# Clips whose tracks or pictures are out of step on purpose are refused for that.
GATES = (
    "data.split.kind=fixed",
    "data.gates.max_missing_sound_s=9",
    "data.gates.max_frame_jitter=9",
)
ROWS = 3
# Makes no clip and decodes none.
IMPOSTOR = "#!/bin/sh\necho ffmpeg version 0.1\nhead -c 1000000 /dev/zero\n"


def path_with_an_impostor(folder):
    """A PATH on which `ffmpeg` is a program of that name that does something else."""
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(IMPOSTOR)
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def write_kinds(folder):
    """A clip of each kind; the outcomes of their rows by name."""
    folder.mkdir()
    for kind in KINDS:
        kind.write(folder)
    for name in TRACKS:
        write_tracks(folder, name)
    for name, video in (("fields.mp4", "libx264"), ("fields.ts", "mpeg2video")):
        write_interlaced(folder / name, video)
    live = write_numbered(folder, Numbered("live.webm", "libvpx", "libopus"))
    live.write_bytes(as_recorded_live(live.read_bytes()))
    outcomes = {path.name: {OK} for path in folder.iterdir()}
    for number, suffix in enumerate(("mp4", "mkv", "ts")):
        whole = write_numbered(folder, Numbered(f"damaged.{suffix}", seconds=6.0))
        whole.write_bytes(damaged(whole.read_bytes(), number, ways=RUNS[:2])[0])
        outcomes[whole.name] = {OK, DAMAGED}
    write_captions(folder, {name: caption(number) for number, name in enumerate(outcomes)})
    return outcomes


@pytest.fixture(scope="module")
def clips(tmp_path_factory, maker):
    folder = tmp_path_factory.mktemp("kinds") / "clips"
    return folder, write_kinds(folder)


def settings():
    return [part for gate in GATES for part in ("--set", gate)]


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "dataset"
    run_to_the_end(clips[0], out, *settings())
    return out


@pytest.mark.ray
@pytest.mark.corpus
@pytest.mark.timeout(600)
def test_every_kind_has_rows_with_the_outcomes_it_should(clips, finished):
    rows = {name: [] for name in clips[1]}
    for row in read_outcomes(ObjectStore(finished)).to_pylist():
        reason = "damaged" if row["reason"] == "unreadable" else row["reason"]
        rows[row["clip_uri"]].append((row["outcome"], reason))
    assert {name: set(ends) for name, ends in rows.items()} == clips[1]
    short = {"fields.mp4", "fields.ts"}
    assert {name for name, ends in rows.items() if len(ends) < ROWS} == short


@pytest.mark.ray
@pytest.mark.corpus
@pytest.mark.timeout(600)
def test_a_dataset_is_the_same_whatever_ffmpeg_is_on_path(clips, finished, tmp_path):
    other = dict(os.environ, PATH=path_with_an_impostor(tmp_path / "bin"))
    run_to_the_end(clips[0], tmp_path / "dataset", *settings(), env=other)
    assert content(tmp_path / "dataset") == content(finished)


def test_no_ffmpeg_on_path_has_a_part_in_decoding(tmp_path, monkeypatch):
    data = load_preset("tiny", ["data.seconds=1"]).data
    write_numbered(tmp_path, Numbered("clip.mkv", seconds=2.0))

    def seen():
        survey = ClipSurveyor(data, str(tmp_path)).survey("clip.mkv")
        clip = ClipDecoder(data, str(tmp_path), 16_000).decode("clip.mkv")
        return survey, clip.outcome, numbers_in(clip.frames), clip.waveform.tobytes()

    with monkeypatch.context() as patch:
        patch.setenv("PATH", path_with_an_impostor(tmp_path / "bin"))
        among = seen()
    assert among[1:3] == ("ok", list(range(25)))
    assert among == seen()
