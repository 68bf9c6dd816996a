"""The clips of a demo: rendered ones, and copies of what the user names."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from infra.errors import ConfigError
from infra.terminal.progress import Progress
from pipelines.demo.render_clips import render_clips
from pipelines.preprocessing.listing.suffixes import MEDIA_SUFFIXES

SEED = 7
RENDERED = "rendered.json"
OWN_PREFIX = "yours_"


def gather_clips(
    folder: Path, count: int, seconds: int, media: Sequence[Path], progress: Progress
) -> int:
    """Fill `folder` with `count` rendered clips and copies of `media`; returns how many there are.

    What is there already is not rendered again. A text file beside one of the media is its caption.

    Raises:
        ConfigError: one of `media` is not there, or is a folder without clips.
    """
    users_clips = [clip for place in media for clip in _clips_at(place)]
    settings = {"clips": count, "seconds": seconds, "seed": SEED}
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_rendered(folder, settings):
        for stale in folder.glob("clip_*.mp4"):
            stale.unlink()
        with progress.stage("render clips", count) as stage:
            render_clips(folder, count, SEED, seconds)
            stage.advance(count)
        (folder / RENDERED).write_text(json.dumps(settings), encoding="utf-8")
    for stale in folder.glob(f"{OWN_PREFIX}*"):
        stale.unlink()
    for number, clip in enumerate(users_clips):
        target = folder / f"{OWN_PREFIX}{number:03d}_{clip.name}"
        shutil.copyfile(clip, target)
        caption = clip.with_suffix(".txt")
        if caption.is_file():
            shutil.copyfile(caption, target.with_suffix(".txt"))
    return count + len(users_clips)


def _is_rendered(folder: Path, settings: dict[str, int]) -> bool:
    """Whether an earlier demo has rendered the same clips, and they are all still there."""
    try:
        rendered = json.loads((folder / RENDERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return rendered == settings and len(list(folder.glob("clip_*.mp4"))) == settings["clips"]


def _clips_at(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    clips = sorted(path for path in place.glob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    if not clips:
        contents = "a folder without any" if place.is_dir() else "nothing"
        raise ConfigError(
            f"expected clips ({' '.join(MEDIA_SUFFIXES)}) at {place}, got {contents}; name files or"
            " folders that hold some"
        )
    return clips
