"""Tables of captions, in the layouts that data sets have; which one, its first row tells.

- ours: {"clip": name, "caption": text}, as JSON lines, CSV or Parquet;
- Open-Sora-Plan: {"path": name, "cap": text or [text, ...], ...}, as a JSON list or JSON lines;
- AudioCaps: CSV with audiocap_id, youtube_id, start_time and caption. Its clips are called
  `<youtube_id>_<start_time>` or `<youtube_id>`, with any suffix and in any folder.

Names are relative to the folder of the clips. Of several captions the data sets give for a clip we
take the first; in a table of our own, a second one is a mistake.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DatasetError, StoreError
from infra.storage.object_store import ObjectStore

TABLES = ("captions.jsonl", "captions.csv", "captions.parquet")
_SPACE = re.compile(r"[ \t\r\n]*")
_SHOWN_CHARS = 80


class CaptionTable(NamedTuple):
    """Captions by clip; `outside`: those of names that lead out of the folder, as written."""

    name: str
    captions: dict[str, str]
    outside: dict[str, str]


class _Row(NamedTuple):
    place: str
    fields: Any
    text: str


class _Layout(NamedTuple):
    """`names`: the columns that tell it; `read`: the clips' possible names, and the caption."""

    names: tuple[str, ...]
    form: str
    read: Callable[[Mapping[str, Any]], tuple[tuple[str, ...], str]]
    many: bool
    stems: bool


def _own_layout(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    return (row["clip"],), row["caption"]


def _open_sora_plan(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    cap = row["cap"]
    return (row["path"],), (cap[0] if cap else "") if isinstance(cap, list) else cap


def _audiocaps(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    name = row["youtube_id"]
    return (f"{name}_{row['start_time']}", name), row["caption"]


_LAYOUTS = (
    _Layout(
        ("clip", "caption"), '{"clip": name, "caption": text}', _own_layout, many=False, stems=False
    ),
    _Layout(
        ("path", "cap"), '{"path": name, "cap": [text]}', _open_sora_plan, many=True, stems=False
    ),
    _Layout(
        ("youtube_id", "start_time", "caption"),
        "audiocap_id,youtube_id,start_time,caption",
        _audiocaps,
        many=True,
        stems=True,
    ),
)


def find_caption_table(store: ObjectStore, captions: str | None) -> tuple[ObjectStore, str] | None:
    """The folder and name of the table: `captions`, or one of TABLES in `store` if there is one.

    captions: a URI, or a path, which may be relative to `store`. DatasetError if it is not there.
    """
    if captions is None:
        return next(((store, name) for name in TABLES if store.has(name)), None)
    if "://" in captions:
        folder, _, name = captions.rpartition("/")
        places = [(ObjectStore(folder), name)]
    else:
        path = Path(captions).expanduser()
        places = [(ObjectStore(path.parent), path.name)]
        if not path.is_absolute() and ".." not in path.parts:
            places.insert(0, (store, path.as_posix()))
    for place, name in places:
        if name and place.has(name):
            return place, name
    tried = " or ".join(f"{place.uri}/{name}" for place, name in places)
    raise DatasetError(f"expected a table of captions at {tried}, got none; correct its name")


def read_caption_table(store: ObjectStore, name: str, clips: Iterable[str]) -> CaptionTable:
    """Read the table `name` of `store`; `clips`: what the folder holds, which AudioCaps needs.

    DatasetError, with the line or row, if the table is malformed.
    """
    table = CaptionTable(name, {}, {})
    layout: _Layout | None = None
    by_stem: dict[str, list[str]] = {}
    for row in _rows(store, name):
        if layout is None:
            layout = _layout_of(store, name, row)
            by_stem = _names_by_stem(clips) if layout.stems else {}
        names, caption = _read_row(store, name, row, layout)
        if layout.stems:
            of_stem = next((by_stem[stem] for stem in names if stem in by_stem), None)
            names = tuple(of_stem or (f"{names[0]}.mp4",))
        for clip in names:
            inside = _name_inside(clip)
            captions = table.outside if inside is None else table.captions
            first = captions.setdefault(inside or clip, caption)
            if first != caption and not layout.many:
                raise DatasetError(
                    f"expected one caption per clip in {name} of {store.uri}, got another for"
                    f" {inside or clip} in {row.place}; keep one of them"
                )
    return table


def _name_inside(clip: str) -> str | None:
    """The name in its plainest form; None if it leads out of the folder."""
    plain = posixpath.normpath(clip)
    outside = "://" in clip or plain.startswith(("/", "../")) or plain == ".."
    return None if outside else plain


def _names_by_stem(clips: Iterable[str]) -> dict[str, list[str]]:
    by_stem: dict[str, list[str]] = {}
    for clip in clips:
        by_stem.setdefault(PurePosixPath(clip).stem, []).append(clip)
    return by_stem


def _layout_of(store: ObjectStore, name: str, row: _Row) -> _Layout:
    if isinstance(row.fields, Mapping):
        for layout in _LAYOUTS:
            if set(layout.names) <= set(row.fields):
                return layout
    raise _malformed(store, name, row, " or ".join(layout.form for layout in _LAYOUTS))


def _read_row(
    store: ObjectStore, name: str, row: _Row, layout: _Layout
) -> tuple[tuple[str, ...], str]:
    try:
        names, caption = layout.read(row.fields)
        whole = None not in row.fields  # where csv puts what has no column
        if whole and all(isinstance(text, str) for text in (*names, caption)) and all(names):
            "".join((*names, caption)).encode()  # half a surrogate pair is no text
            return names, caption
    except (ValueError, KeyError, TypeError):
        pass
    raise _malformed(store, name, row, layout.form)


def _malformed(store: ObjectStore, name: str, row: _Row, form: str) -> DatasetError:
    return DatasetError(
        f"expected {form} in {row.place} of {name} in {store.uri}, got"
        f" {row.text[:_SHOWN_CHARS]!r}; correct the {row.place.partition(' ')[0]}"
    )


def _rows(store: ObjectStore, name: str) -> Iterator[_Row]:
    suffix = PurePosixPath(name).suffix.lower()
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    try:
        yield from readers.get(suffix, _json_rows)(store.read(name))
    except StoreError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        kind = "a Parquet file" if suffix == ".parquet" else "UTF-8 text"
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"expected {name} in {store.uri} as {kind}, got: {reason}; save it again"
        ) from error


def _csv_rows(content: bytes) -> Iterator[_Row]:
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.DictReader(text, strict=True)
    if not any(set(layout.names) <= set(reader.fieldnames or ()) for layout in _LAYOUTS):
        yield _Row("line 1", None, ",".join(reader.fieldnames or ()))
    for row in reader:
        shown = ",".join(str(value) for value in row.values())
        yield _Row(f"line {reader.line_num}", row, shown)


def _parquet_rows(content: bytes) -> Iterator[_Row]:
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    known = {name for layout in _LAYOUTS for name in layout.names}
    columns = [name for name in file.schema_arrow.names if name in known]
    number = 0
    for batch in file.iter_batches(batch_size=4096, columns=columns):
        for fields in batch.to_pylist():
            number += 1
            yield _Row(f"row {number}", fields, str(fields))


def _json_rows(content: bytes) -> Iterator[_Row]:
    if content[:64].decode("utf-8-sig", errors="replace").lstrip().startswith("["):
        yield from _json_list(content.decode("utf-8-sig"))
        return
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig"), start=1):
        if line.strip():
            yield _Row(f"line {number}", _parse(line), line.rstrip("\r\n"))


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _json_list(text: str) -> Iterator[_Row]:
    """Its objects one by one, each with its line: a list of a million would take gigabytes."""
    decoder = json.JSONDecoder()
    at = _after_space(text, 0) + 1
    line = 1 + text.count("\n", 0, at)
    comma = True
    while True:
        begin = _after_space(text, at)
        line += text.count("\n", at, begin)
        if text.startswith("]", begin):
            return
        try:
            fields, at = decoder.raw_decode(text, begin) if comma else (None, begin)
        except (ValueError, RecursionError):
            fields, at = None, begin
        yield _Row(f"line {line}", fields, text[begin : begin + _SHOWN_CHARS])
        line += text.count("\n", begin, at)
        begin = _after_space(text, at)
        line += text.count("\n", at, begin)
        comma = text.startswith(",", begin)
        at = begin + comma


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
