"""Tables of captions, in the layouts that data sets have; which one, its first row tells.

- ours: {"clip": name, "caption": text}, as JSON lines, CSV or Parquet;
- Open-Sora-Plan: {"path": name, "cap": text or [text, ...], ...}, as a JSON list or JSON lines;
- AudioCaps: CSV with audiocap_id, youtube_id, start_time and caption. Its clips are called
  `<youtube_id>_<start_time>` or `<youtube_id>`, with any suffix and in any folder.

Names are relative to the folder of the clips, or absolute and in it. Of several captions the data
sets give for a clip we take the first; in a table of our own, a second one is a mistake. A mistake
in a line is told of that line, or of its clip, and ends nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from infra.dataset.reasons import Reason
from infra.errors import DatasetError
from infra.plain_text import text_problem
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.clip_names import FolderNames
from pipelines.preprocessing.listing.table_rows import TableRow, shown, table_rows

TABLES = ("captions.jsonl", "captions.csv", "captions.parquet")
# What programs write for a value that is not there.
_NO_TEXT = ("", "nan", "null", "none")
# Rows in which we look for a layout that we know.
_FIRST_ROWS = 1000


class FaultyLine(NamedTuple):
    """A line that no clip's row can tell of: where it is, what is wrong with it, its caption."""

    place: str
    problem: str
    error: str
    caption: str = ""


class CaptionTable(NamedTuple):
    """Captions by clip.

    `outside`: those of names that lead out of the folder, as written. `notes`: what a clip without
    a caption got instead, and where. `faults`: lines that speak of no clip, or once too often.
    """

    name: str
    captions: dict[str, str]
    outside: dict[str, str]
    notes: dict[str, str]
    faults: list[FaultyLine]


class _Layout(NamedTuple):
    """`names`: the columns that tell it; `read`: the clips' possible names, and the caption."""

    names: tuple[str, ...]
    form: str
    read: Callable[[Mapping[str, Any]], tuple[tuple[Any, ...], Any]]
    many: bool
    stems: bool


def _own_layout(row: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
    return (row["clip"],), row.get("caption")


def _open_sora_plan(row: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
    cap = row.get("cap")
    if isinstance(cap, list):
        cap = next((text for text in cap if not _fault(text)), cap)
    return (row["path"],), cap


def _audiocaps(row: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
    name, second = row["youtube_id"], row["start_time"]
    if isinstance(second, float) and second.is_integer():  # as pandas has it beside a gap
        second = int(second)
    if not name or not isinstance(second, str | int) or second == "":
        return ("",), ""
    return (f"{name}_{second}", name), row.get("caption")


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


def read_caption_table(
    store: ObjectStore, name: str, clips: Iterable[str], folder: ObjectStore | None = None
) -> CaptionTable:
    """Read the table `name` of `store`.

    Args:
        store: where the table is.
        name: of the table.
        clips: what the folder of clips holds, which AudioCaps needs.
        folder: of the clips, to which names are relative; `store` if None.

    Raises:
        DatasetError: the table as a whole is unreadable, or of no layout that we know.
    """
    names = FolderNames(folder or store)
    table = CaptionTable(name, {}, {}, {}, [])
    layout, rows = _layout_of(store, name)
    by_stem = _names_by_stem(clips) if layout.stems else {}
    again: dict[str, list[TableRow]] = {}
    for row in rows:
        read = _read_row(row, layout)
        if read is None:
            table.faults.append(_malformed(name, row, layout.form))
            continue
        written, caption, fault = read
        if layout.stems:
            of_stem = next((by_stem[stem] for stem in written if stem in by_stem), None)
            written = tuple(of_stem or (f"{written[0]}.mp4",))
        for clip in written:
            inside = names.inside(clip)
            if inside is None:
                table.outside.setdefault(clip, caption)
            elif not table.captions.get(inside):
                _set_caption(table, inside, caption, f"{fault} in {row.place} of {name}")
            elif caption not in ("", table.captions[inside]) and not layout.many:
                again.setdefault(inside, []).append(row)
    table.faults.extend(_second_caption(name, clip, others) for clip, others in again.items())
    return table


def rename_clip(table: CaptionTable, written: str, clip: str) -> None:
    """Give the caption of `written` to `clip`, which it means; another one that it has stays."""
    caption, note = table.captions.pop(written), table.notes.pop(written, "")
    if not table.captions.get(clip):
        _set_caption(table, clip, caption, note)
    elif caption not in ("", table.captions[clip]):
        error = (
            f"expected one caption for {clip} in {table.name}, got another for {written}; the first"
            " counts, remove one"
        )
        table.faults.append(FaultyLine(written, Reason.SECOND_CAPTION, error, caption))


def _set_caption(table: CaptionTable, clip: str, caption: str, note: str) -> None:
    table.captions[clip] = caption
    if caption:
        table.notes.pop(clip, None)
    else:
        table.notes.setdefault(clip, note)


def _second_caption(name: str, clip: str, others: list[TableRow]) -> FaultyLine:
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    error = (
        f"expected one caption for {clip}, got another in {others[0].place} of {name}{more}; the"
        " first counts, remove the others"
    )
    return FaultyLine(others[0].place, Reason.SECOND_CAPTION, error)


def _names_by_stem(clips: Iterable[str]) -> dict[str, list[str]]:
    by_stem: dict[str, list[str]] = {}
    for clip in clips:
        by_stem.setdefault(PurePosixPath(clip).stem, []).append(clip)
    return by_stem


def _layout_of(store: ObjectStore, name: str) -> tuple[_Layout, Iterator[TableRow]]:
    """The layout of a table, and its rows."""
    known = {column for layout in _LAYOUTS for column in layout.names}
    columns, rows = table_rows(store, name, known)
    begin = list(islice(rows, _FIRST_ROWS))
    of_rows = (set(row.fields) for row in begin if isinstance(row.fields, Mapping))
    for present in [set(columns)] if columns is not None else of_rows:
        for layout in _LAYOUTS:
            if set(layout.names) <= present:
                return layout, chain(begin, rows)
    if columns is None and not begin:
        return _LAYOUTS[0], rows
    got = begin[0] if columns is None else TableRow("its columns", None, ",".join(columns))
    forms = " or ".join(layout.form for layout in _LAYOUTS)
    raise DatasetError(
        f"expected {forms} in {got.place} of {name} in {store.uri}, got {shown(got.text)}; write"
        " the table in one of these layouts"
    )


def _read_row(row: TableRow, layout: _Layout) -> tuple[tuple[str, ...], str, str] | None:
    """Names of clips, caption, and what is there instead of one; None if there are no names."""
    if not isinstance(row.fields, Mapping):
        return None
    try:
        names, caption = layout.read(row.fields)
    except (KeyError, TypeError):
        return None
    if not all(isinstance(name, str) and name.strip() and _is_utf8(name) for name in names):
        return None
    fault = _fault(caption)
    return names, "" if fault else caption.strip(), fault


def _fault(caption: Any) -> str:
    """What there is instead of a caption; empty if it is one."""
    if not isinstance(caption, str):
        return "null" if caption is None or caption != caption else shown(str(caption))  # noqa: PLR0124
    if not _is_utf8(caption):
        return "text that is not UTF-8"
    problem = text_problem(caption)
    if problem is not None:
        return problem
    return shown(caption) if caption.strip().lower() in _NO_TEXT else ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or a byte of another encoding
        return False
    return True


def _malformed(name: str, row: TableRow, form: str) -> FaultyLine:
    kind = row.place.partition(" ")[0]
    error = f"expected {form} in {row.place} of {name}, got {shown(row.text)}; correct the {kind}"
    return FaultyLine(row.place, Reason.MALFORMED_LINE, error)
