"""Clips in tars, as WebDataset packs them: `0001.mp4` beside `0001.txt` or `0001.json`.

Only headers and captions are read. A clip is a regular file with a plain relative name; links,
names that lead out of the archive, and hidden files are none of ours.
"""

import io
import json
import posixpath
import tarfile
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from infra.errors import DatasetError, StoreError
from infra.storage.object_store import ObjectStore

LONGEST_CAPTION_BYTES = 1 << 20
_CAPTION_SUFFIXES = (".txt", ".json")
_JSON_KEYS = ("caption", "text")
# Small, because what lies behind a header is the beginning of a clip.
_BUFFER_BYTES = 4096
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class TarClip(NamedTuple):
    """One clip in a tar, with its data's offset and size in bytes.

    `error` says why its caption cannot be read, if that is so.
    """

    name: str
    offset: int
    size: int
    caption: str
    error: str


class _Text(NamedTuple):
    caption: str
    error: str


def tar_clips(store: ObjectStore, tar_name: str, suffixes: Collection[str]) -> list[TarClip]:
    """The clips (members with one of `suffixes`) of a tar, in its order.

    A member that occurs again replaces the earlier one, as it would on extraction. DatasetError if
    it is not a whole tar.
    """
    spans: dict[str, tuple[int, int]] = {}
    texts: dict[str, _Text] = {}
    try:
        with store.open(tar_name) as source:
            _read_members(source, suffixes, spans, texts)
    except StoreError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, pa.ArrowException) as error:
        store.has(tar_name)  # is a StoreError if it is not the archive that is broken
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"expected {tar_name} as a whole uncompressed tar, got: {reason}; copy it again"
        ) from error
    return [TarClip(name, *span, *_caption_of(name, texts)) for name, span in sorted(spans.items())]


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


def _read_members(
    source: Any,
    suffixes: Collection[str],
    spans: dict[str, tuple[int, int]],
    texts: dict[str, _Text],
) -> None:
    headers = _Headers(source)
    with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # it would keep every header
            name = _safe_name(member)
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in suffixes:
                spans[name] = (member.offset_data, member.size)
            elif suffix in _CAPTION_SUFFIXES:
                headers.seek(member.offset_data)
                texts[name] = _read_text(headers, name, member.size)
        # tarfile takes a damaged header, too, for the end.
        headers.seek(tar.offset)
        if headers.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {tar.offset}")


def _safe_name(member: tarfile.TarInfo) -> str:
    """The member's name without detours, or nothing if it is not a file that we may name."""
    name = posixpath.normpath(member.name)
    parts = PurePosixPath(name).parts
    plain = member.type in _PLAIN_TYPES and not member.issparse()
    if not plain or name.startswith("/") or any(part.startswith(".") for part in parts):
        return ""
    return name if name == text_of_name(name) else ""


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


def _caption_of(name: str, texts: dict[str, _Text]) -> _Text:
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
    return next(with_caption, beside[0] if beside else _Text("", ""))
