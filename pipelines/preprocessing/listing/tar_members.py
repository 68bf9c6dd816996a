"""Clips in tars, as WebDataset packs them: `0001.mp4` beside `0001.txt` or `0001.json`.

Only headers and captions are read. A clip is a regular file with a plain relative name, or a link
to one in the same tar. What else is called as a clip is told, with the reason; hidden files are
none of ours.
"""

import io
import json
import posixpath
import tarfile
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from infra.dataset.reasons import Reason
from infra.errors import DatasetError, MachineError, StoreError
from infra.machine_faults import machine_faults
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.suffixes import suffix_of, unread, with_suffix

LONGEST_CAPTION_BYTES = 1 << 20
_CAPTION_SUFFIXES = (".txt", ".json")
_JSON_KEYS = ("caption", "text")
# Small, because what lies behind a header is the beginning of a clip.
_BUFFER_BYTES = 4096
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class TarClip(NamedTuple):
    """One clip in a tar, with its data's offset and size in bytes.

    `problem` and `error` say why it, or its caption, cannot be read, if that is so.
    """

    name: str
    offset: int
    size: int
    caption: str
    problem: str
    error: str


class _Text(NamedTuple):
    caption: str
    error: str


def tar_clips(store: ObjectStore, tar_name: str, suffixes: Collection[str]) -> list[TarClip]:
    """The clips (members with one of `suffixes`) of a tar, by name.

    A member that occurs again replaces the earlier one, as it would on extraction. DatasetError if
    it is not a whole tar.
    """
    contents = _Contents(suffixes)
    try:
        with machine_faults(tar_name), store.open(tar_name) as source:
            _read_members(source, contents)
    except (StoreError, MachineError):
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, pa.ArrowException) as error:
        store.has(tar_name)  # is a StoreError if it is not the archive that is broken
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"expected {tar_name} as a whole uncompressed tar, got: {reason}; copy it again"
        ) from error
    return contents.clips()


def parsed_caption(content: bytes) -> str:
    """The caption in a text file, on one line; UnicodeDecodeError if it is not UTF-8."""
    return " ".join(content.decode("utf-8-sig").split())


def text_of_name(name: str) -> str:
    """A file's name with what is not UTF-8 spelled out, so that a table can hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Headers:
    """What tarfile reads from: a header that claims to be as long as a clip is refused."""

    def __init__(self, source: Any) -> None:
        self._source = io.BufferedReader(source, _BUFFER_BYTES)
        self.seek = self._source.seek
        self.tell = self._source.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST_CAPTION_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._source.read(size)


class _Contents:
    """What the members of a tar are, by name; a later one takes the place of an earlier one."""

    def __init__(self, suffixes: Collection[str]) -> None:
        """Take files with one of `suffixes` for clips."""
        self._suffixes = suffixes
        self._files: dict[str, tuple[int, int]] = {}
        self._texts: dict[str, _Text] = {}
        self._links: dict[str, str] = {}
        self._refused: dict[str, tuple[Reason, str]] = {}

    def add(self, headers: "_Headers", member: tarfile.TarInfo) -> None:
        """Take the next member, of which the header has been read."""
        name = _plain_name(member.name)
        if member.isdir() or _is_hidden(name):
            return
        for others in (self._files, self._texts, self._links, self._refused):
            others.pop(name, None)
        problem = _refusal(member, name) or unread(name)
        if problem is not None:
            if suffix_of(name) in self._suffixes or unread(name):
                self._refused[name] = problem
        elif member.islnk():
            self._links[name] = _plain_name(member.linkname)
        elif member.issym():
            target = posixpath.join(posixpath.dirname(name), member.linkname)
            self._links[name] = _plain_name(target)
        elif suffix_of(name) in _CAPTION_SUFFIXES:
            headers.seek(member.offset_data)
            self._texts[name] = _read_text(headers, name, member.size)
        else:
            self._files[name] = (member.offset_data, member.size)

    def clips(self) -> list[TarClip]:
        """The clips, and what cannot be read of what is called so, by name."""
        for name in self._links:
            target = self._target(name)
            if target in self._texts:
                self._texts[name] = self._texts[target]
            elif target in self._files:
                self._files[name] = self._files[target]
            elif suffix_of(name) in self._suffixes:
                error = (
                    f"expected {name} in the archive, got a link to {target}, which is not there"
                )
                self._refused[name] = (Reason.UNREADABLE_MEMBER, f"{error}; pack the file itself")
        clips = [
            TarClip(name, *span, *_caption_of(name, self._texts))
            for name, span in self._files.items()
            if suffix_of(name) in self._suffixes
        ]
        clips += [
            TarClip(text_of_name(name), 0, 0, "", reason, text_of_name(error))
            for name, (reason, error) in self._refused.items()
        ]
        return sorted(clips)

    def _target(self, name: str) -> str:
        """What a link leads to, over others; links that go round lead to one of them."""
        seen = {name}
        target = self._links[name]
        while target in self._links and target not in seen:
            seen.add(target)
            target = self._links[target]
        return target


def _read_members(source: Any, contents: _Contents) -> None:
    headers = _Headers(source)
    with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # it would keep every header
            contents.add(headers, member)
        # tarfile takes a damaged header, too, for the end.
        headers.seek(tar.offset)
        if headers.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {tar.offset}")


def _plain_name(name: str) -> str:
    """Without detours; that of a text as its clip looks for it."""
    suffix = suffix_of(name)
    plain = posixpath.normpath(name)
    return with_suffix(plain, suffix) if suffix in _CAPTION_SUFFIXES else plain


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)


def _refusal(member: tarfile.TarInfo, name: str) -> tuple[Reason, str] | None:
    """Why a member is neither a file that we may name nor a link to one."""
    if name != text_of_name(name):
        return Reason.UNREADABLE_NAME, f"expected a name in UTF-8, got {name}; rename the file"
    if name.startswith(("/", "../")) or name == "..":
        got = "a name that leads out of the archive"
    elif member.issparse():
        got = "a sparse file"
    elif member.islnk() or member.issym() or member.type in _PLAIN_TYPES:
        return None
    else:
        got = f"no file (a member of type {member.type!r})"
    return Reason.UNREADABLE_MEMBER, f"expected {name} as a file, got {got}; pack the archive anew"


def _read_text(headers: _Headers, name: str, size: int) -> _Text:
    if size > LONGEST_CAPTION_BYTES:
        return _Text("", f"expected a caption in {name}, got {size} bytes")
    content = headers.read(size)
    try:
        if name.lower().endswith(".txt"):
            return _Text(parsed_caption(content), "")
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        kind = "UTF-8 text" if name.lower().endswith(".txt") else "JSON"
        return _Text("", f"expected {kind} in {name}: {error}")
    named = fields if isinstance(fields, dict) else {}
    captions = [named[key] for key in _JSON_KEYS if isinstance(named.get(key), str)]
    return _Text(" ".join(captions[0].split()) if captions else "", "")


def _caption_of(name: str, texts: dict[str, _Text]) -> tuple[str, str, str]:
    """The caption, and the problem and error of one that is there and cannot be read."""
    path = PurePosixPath(name)
    # WebDataset's key ends at the first dot; a name may have others.
    stems = (str(path.with_suffix("")), str(path.with_name(path.name.partition(".")[0])))
    beside = [
        texts[stem + suffix]
        for stem in stems
        for suffix in _CAPTION_SUFFIXES
        if stem + suffix in texts
    ]
    with_caption = (text for text in beside if text.caption)
    text = next(with_caption, beside[0] if beside else _Text("", ""))
    return text.caption, Reason.UNREADABLE_CAPTION if text.error else "", text.error
