"""What a table of captions calls a clip, and which of the listed ones it means."""

import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.storage.object_store import ObjectStore


class FolderNames:
    """Names below a folder, however a table writes them."""

    def __init__(self, store: ObjectStore) -> None:
        """Take the folder of `store`."""
        self._is_local = store.is_local
        roots = [store.uri]
        if store.is_local:
            roots.append(str(Path(store.uri).resolve()))
        self._roots = [f"{root.rstrip('/')}/" for root in roots]

    def inside(self, name: str) -> str | None:
        """The name in its plainest form, below the folder; None if it leads out of it."""
        place = name
        if name.lower().startswith("file://") and self._is_local:
            place = unquote(urlsplit(name).path)
        absolute = place.startswith("/") if self._is_local else "://" in place
        if absolute:
            below = self._below(place)
            return None if below is None else self.inside(below)
        plain = posixpath.normpath(place)
        outside = "://" in place or plain.startswith(("/", "../")) or plain in ("..", ".")
        return None if outside else plain

    def _below(self, place: str) -> str | None:
        if not self._is_local:
            return next((place[len(r) :] for r in self._roots if place.startswith(r)), None)
        plain = posixpath.normpath(place)
        if "\0" in plain:
            return None
        # The folder may be reached by another way than the table's, through links.
        parent = Path(posixpath.dirname(plain)).resolve()
        for path in (plain, f"{parent}/{posixpath.basename(plain)}"):
            for root in self._roots:
                if path.startswith(root):
                    return path[len(root) :]
        return None


class Likenesses:
    """Listed clips by what absent names may have meant; as small as the absent ones are few."""

    def __init__(self, absent: Iterable[str], listed: Iterable[str]) -> None:
        """Look for each of `absent` among `listed`."""
        names = list(absent)
        self._same: dict[str, list[str]] = {_spelling(name): [] for name in names}
        self._like: dict[str, str | None] = {key: None for name in names for key in _likeness(name)}
        for clip in listed:
            spelling = _spelling(clip)
            if spelling in self._same:
                self._same[spelling].append(clip)
            for key in _likeness(clip):
                if key in self._like:
                    self._like[key] = min(clip, self._like[key] or clip)

    def same(self, name: str) -> str | None:
        """The one listed clip that is written so, but for the kind of slashes, space around it and
        how letters with accents are composed."""
        clips = self._same[_spelling(name)]
        return clips[0] if len(clips) == 1 else None

    def like(self, name: str) -> str | None:
        """A listed clip whose name is alike: in other case, of another suffix or folder."""
        return next(filter(None, map(self._like.get, _likeness(name))), None)


def _spelling(name: str) -> str:
    return posixpath.normpath(unicodedata.normalize("NFC", name).strip().replace("\\", "/"))


def _likeness(name: str) -> tuple[str, ...]:
    plain = _spelling(unquote(name)).casefold()
    stem = posixpath.splitext(plain)[0]
    return plain, stem, f"*/{posixpath.basename(plain)}", f"*/{posixpath.basename(stem)}"
