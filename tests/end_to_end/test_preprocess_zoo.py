"""A folder of untrusted clips: each row has its own outcome, and nothing else is opened."""

import ctypes
import os
import socket
import struct
import tarfile
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.dataset.latent_table import LatentTable
from infra.dataset.outcome_table import read_outcomes
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore, confined_store
from infra.terminal.progress import SilentProgress
from pipelines.preprocessing.listing.clips import list_clips
from pipelines.preprocessing.listing.suffixes import MEDIA_SUFFIXES
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.beacon_clips import caption, write_beacon_clip, write_captions
from tests.worlds.media_zoo import UNREADABLE, ZooClip, is_as_late, write_broken, write_zoo

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
SETTINGS = ("data.seconds=1", "data.split.kind=fixed")
BROKEN = 40
_IN_ACCESS, _IN_OPEN = 0x1, 0x20
_EVENT = struct.Struct("iIII")


class Finished(NamedTuple):
    """The clips of a run, its summary and rows, and what it touched besides."""

    clips: list[ZooClip]
    out: Path
    summary: object
    rows: dict[str, list[dict]]
    opened: list[str]
    visited: bool


@contextmanager
def opened_in(folder):
    """The names of what any process opens or reads in `folder` meanwhile, by Linux's inotify."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(folder), _IN_ACCESS | _IN_OPEN) >= 0
    names = []
    try:
        yield names
        names += _read_events(watch)
    finally:
        os.close(watch)


def _read_events(watch):
    try:
        events = os.read(watch, 1 << 20)
    except BlockingIOError:
        return
    while events:
        *_, length = _EVENT.unpack_from(events)
        name, events = events[_EVENT.size :][:length], events[_EVENT.size + length :]
        yield os.fsdecode(name.rstrip(b"\0"))


@contextmanager
def nobody_calls():
    """A port that listens, and whether somebody has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def visited():
            server.setblocking(False)
            try:
                connection, _ = server.accept()
            except BlockingIOError:
                return False
            connection.close()
            return True

        yield server.getsockname()[1], visited


def write_ways_out(folder):
    """A link to a good clip outside, and a name that is the address of one for ffmpeg."""
    link, address = "link.ts", "concat:../outside/clip.ts"
    (folder / link).symlink_to(folder.parent / "outside" / "clip.ts")
    (folder / address).parent.mkdir(parents=True)
    (folder / address).write_text("no clip")
    return [ZooClip(name, *UNREADABLE) for name in (link, address)]


@pytest.fixture(scope="module", params=[16, pytest.param(300, marks=pytest.mark.corpus)])
def finished(request, tmp_path_factory, ray_local, maker):
    """The run over so many clips, and over those that are broken."""
    folder = tmp_path_factory.mktemp("zoo")
    clips, out = folder / "clips", folder / "out" / "dataset"
    clips.mkdir()
    with nobody_calls() as (port, visited):
        zoo = write_zoo(clips, request.param)
        broken = write_broken(clips, url=f"http://127.0.0.1:{port}/a.ts")
        assert len(broken) == BROKEN
        zoo += [*broken, *write_ways_out(clips)]
        listed = [clip for clip in zoo if is_listed(clips / clip.name)]
        names = [clip.name for clip in listed]
        write_captions(clips, {name: caption(number) for number, name in enumerate(names)})
        with opened_in(folder / "outside") as opened:
            config = load_preset("tiny", SETTINGS)
            summary = preprocess(config, str(clips), str(out), SilentProgress())
        rows = defaultdict(list)
        for row in read_outcomes(ObjectStore(out)).to_pylist():
            rows[row["clip_uri"]].append(row)
        return Finished(listed, out, summary, rows, opened, visited())


def is_listed(path):
    """Playlists and folders are no clips, whatever they are called."""
    return path.suffix in MEDIA_SUFFIXES and not path.is_dir()


def test_every_clip_comes_to_the_end_it_should(finished):
    outcomes = {
        name: {(row["outcome"], row["reason"]) for row in rows}
        for name, rows in finished.rows.items()
    }
    assert outcomes == {
        clip.name: {(clip.expected_outcome, clip.expected_reason)} for clip in finished.clips
    }


def test_a_bad_row_says_why_in_one_line_and_a_good_one_nothing(finished):
    rows = [row for rows in finished.rows.values() for row in rows]
    assert {row["outcome"] for row in rows if not row["error"]} == {"ok"}
    assert {row["outcome"] for row in rows if row["error"]} == {"filtered", "quarantined"}
    assert not any("\n" in row["error"] for row in rows if "\n" not in row["clip_uri"])


def test_the_counts_add_up_to_the_rows(finished):
    rows = [row for rows in finished.rows.values() for row in rows]
    outcomes = Counter((row["outcome"], row["reason"]) for row in rows)
    counted = finished.summary
    assert counted.rows == len(rows)
    assert counted.rows == counted.ok + sum((counted.filtered | counted.quarantined).values())
    assert counted.ok == outcomes["ok", ""] == LatentTable.open(finished.out).rows
    assert counted.filtered == reasons(outcomes, "filtered")
    assert counted.quarantined == reasons(outcomes, "quarantined")


def reasons(outcomes, kind):
    return {reason: count for (outcome, reason), count in outcomes.items() if outcome == kind}


def test_a_clip_has_a_row_for_every_window_that_fits(finished):
    starts = {name: [row["start_s"] for row in rows] for name, rows in finished.rows.items()}
    good = {clip.name for clip in finished.clips if clip.lag_ms is not None}
    assert {len(starts[name]) for name in good} == {1, 2}
    for name, row_starts in starts.items():
        assert row_starts == [float(number) for number in range(len(row_starts))], name


def test_the_sound_of_a_good_clip_is_as_late_as_it_was_made(finished):
    late = {
        (clip.name, row["start_s"]): row["av_lag_ms"] - clip.lag_ms
        for clip in finished.clips
        if clip.lag_ms is not None
        for row in finished.rows[clip.name]
    }
    assert {place: ms for place, ms in late.items() if not is_as_late(ms)} == {}


def test_nothing_outside_the_folder_is_opened(finished):
    assert finished.opened == []


def test_nobody_is_called(finished):
    assert not finished.visited


def test_captions_and_archives_outside_the_folder_are_not_opened_through_links(tmp_path):
    folder, outside = tmp_path / "clips", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    write_beacon_clip(folder / "link.mp4")
    (outside / "link.txt").write_text("a secret")
    with tarfile.open(outside / "pack.tar", "w") as pack:
        pack.add(folder / "link.mp4", "a.mp4")
        pack.add(outside / "link.txt", "a.txt")
    for name in ("link.txt", "pack.tar"):
        (folder / name).symlink_to(outside / name)
    (folder / "below").symlink_to(outside)
    with opened_in(outside) as opened:
        listed = {clip.clip_uri: clip.problem for clip in list_clips(confined_store(folder))}
    assert opened == []
    assert listed == {
        "below": "linked_folder",
        "link.mp4": "unreadable_caption",
        "pack.tar": "unreadable_archive",
    }
