"""The clips of a folder, each with its caption: the input rows of preprocessing.

Captions come from `captions.jsonl` in the folder ({"clip": name, "caption": text} per line) or from
a text file beside the clip (`dance.mp4`, `dance.txt`); the first wins. A line about a clip that is
not there is an input row too: it ends as quarantined, not unnoticed.
"""

import json
import posixpath
from pathlib import PurePosixPath
from typing import NamedTuple

from infra.errors import DatasetError
from infra.object_store import ObjectStore, StoredFile

CAPTIONS = "captions.jsonl"
MEDIA_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")


class ListedClip(NamedTuple):
    """One input row. `problem` and `error` are empty unless it cannot be worked on."""

    file: StoredFile
    caption: str
    problem: str
    error: str


def list_clips(store: ObjectStore) -> list[ListedClip]:
    """Every clip in the folder and those below it, by name.

    DatasetError if the folder is missing or holds no clips, or if captions.jsonl is malformed.
    """
    files = {file.name: file for file in store.list(recursive=True)}
    clips = [name for name in files if PurePosixPath(name).suffix.lower() in MEDIA_SUFFIXES]
    if not clips:
        found = "found none" if store.exists() else "there is no such folder"
        raise DatasetError(
            f"expected clips ({' '.join(MEDIA_SUFFIXES)}) in {store.uri}, {found}; give the folder"
            " that holds them, with captions.jsonl or a .txt beside each clip"
        )
    captions = _captions(store) if CAPTIONS in files else {}
    listed = [_listed(store, files, name, captions) for name in clips]
    absent = [
        ListedClip(
            StoredFile(name, 0, 0),
            caption,
            "missing_file",
            f"expected {name} beside {CAPTIONS}, found no such clip; correct the line or copy it",
        )
        for name, caption in captions.items()
        if name not in files
    ]
    return sorted(listed + absent)


def _listed(
    store: ObjectStore, files: dict[str, StoredFile], name: str, captions: dict[str, str]
) -> ListedClip:
    sidecar = str(PurePosixPath(name).with_suffix(".txt"))
    caption = captions.get(name, "").strip()
    if not caption and sidecar in files:
        try:
            caption = " ".join(store.read(sidecar).decode("utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            return ListedClip(
                files[name], "", "unreadable_caption", f"expected UTF-8 text in {sidecar}: {error}"
            )
    if not caption:
        return ListedClip(
            files[name],
            "",
            "no_caption",
            f"expected a caption for {name}, found none; add a line to {CAPTIONS}, or {sidecar}",
        )
    return ListedClip(files[name], caption, "", "")


def _captions(store: ObjectStore) -> dict[str, str]:
    captions: dict[str, str] = {}
    try:
        lines = store.read(CAPTIONS).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"expected {CAPTIONS} in {store.uri} as UTF-8 text, got: {error}; save it again"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, caption = _caption_of_line(store, number, line)
        if captions.get(name, caption) != caption:
            raise DatasetError(
                f"expected one caption per clip in {CAPTIONS} of {store.uri}, got another for"
                f" {name} in line {number}; keep one of them"
            )
        captions[name] = caption
    return captions


def _caption_of_line(store: ObjectStore, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, caption = row["clip"], row["caption"]
    except (ValueError, KeyError, TypeError):
        name = caption = None
    if not isinstance(name, str) or not isinstance(caption, str):
        raise DatasetError(
            f'expected {{"clip": name, "caption": text}} in line {number} of {CAPTIONS} in'
            f" {store.uri}, got {line[:80]!r}; correct the line"
        )
    return posixpath.normpath(name), caption
