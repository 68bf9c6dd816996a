"""Which clips a demo works on: rendered ones, and the user's."""

import json
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.terminal.progress import SilentProgress
from pipelines.demo.demo_clips import RENDERED, gather_clips


def gather(folder: Path, *media: Path, count: int = 2) -> int:
    return gather_clips(folder, count, 1, media, SilentProgress())


def test_rendered_clips_are_made_once_and_again_when_others_are_asked_for(tmp_path: Path) -> None:
    assert gather(tmp_path) == 2
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("clip_*.mp4")}
    gather(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("clip_*.mp4")} == first
    assert gather(tmp_path, count=3) == 3
    assert len(list(tmp_path.glob("clip_*.mp4"))) == 3


def test_fewer_clips_than_before_leave_no_stale_ones(tmp_path: Path) -> None:
    gather(tmp_path, count=3)
    gather(tmp_path, count=2)
    assert len(list(tmp_path.glob("clip_*.mp4"))) == 2


def test_files_and_folders_of_the_user_join_with_their_captions(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("dance.mp4", "song.webm", "notes.doc"):
        (mine / name).write_bytes(b"media")
    (mine / "dance.txt").write_text("a dance")
    single = tmp_path / "dance.mp4"
    single.write_bytes(b"other media")
    folder = tmp_path / "clips"
    assert gather(folder, mine, single) == 5
    own = sorted(path.name for path in folder.glob("yours_*"))
    assert own == [
        "yours_000_dance.mp4",
        "yours_000_dance.txt",
        "yours_001_song.webm",
        "yours_002_dance.mp4",
    ]
    gather(folder)
    assert list(folder.glob("yours_*")) == []


def test_media_that_is_not_there_is_bad_usage_before_anything_is_rendered(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "nothing.mp4", tmp_path / "empty"):
        problem = "a folder without any" if place.is_dir() else "nothing"
        with pytest.raises(ConfigError, match=rf"expected clips \(\..* at {place}, got {problem};"):
            gather(tmp_path / "clips", place)
    assert not (tmp_path / "clips").exists()


def test_a_clip_that_is_gone_and_a_damaged_record_are_reasons_to_render_again(
    tmp_path: Path,
) -> None:
    gather(tmp_path)
    (tmp_path / "clip_00001.mp4").unlink()
    gather(tmp_path)
    assert (tmp_path / "clip_00001.mp4").exists()
    assert json.loads((tmp_path / RENDERED).read_text()) == {"clips": 2, "seconds": 1, "seed": 7}
    (tmp_path / RENDERED).write_text("{")
    gather(tmp_path)
    assert json.loads((tmp_path / RENDERED).read_text())["clips"] == 2
