"""The clips of a folder, each with its caption: the input rows of preprocessing.

A clip is a file in the folder or below it, or a member of a tar there (`pack.tar/0001.mp4`).
Captions come from a table (caption_tables.py), or else from a text file beside the clip
(`dance.mp4`, `dance.txt`) or in the same tar; the first wins. A line about a clip that is not
there is an input row too, with the outcome quarantined, and does not go unnoticed.

A folder may hold a million clips: they are kept as Arrow columns, and handed out row by row.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.columns import LISTED_CLIP, Column, schema
from infra.dataset.reasons import Reason
from infra.errors import DatasetError, MachineError, StoreError
from infra.storage.object_store import PLAIN_FILE, LeftOutFolder, ObjectStore, StoredFile
from pipelines.preprocessing.listing.caption_tables import (
    TABLES,
    CaptionTable,
    find_caption_table,
    read_caption_table,
    rename_clip,
)
from pipelines.preprocessing.listing.clip_names import Likenesses
from pipelines.preprocessing.listing.suffixes import (
    ARCHIVE,
    MEDIA_SUFFIXES,
    suffix_of,
    unread,
    with_suffix,
)
from pipelines.preprocessing.listing.tar_members import (
    LONGEST_CAPTION_BYTES,
    parsed_caption,
    tar_clips,
    text_of_name,
)

_TEXT = ".txt"
_ROWS = 4096
# Captions beside clips in object storage take a request each.
_THREADS = 16


class ListedClip(NamedTuple):
    """One input row. `problem` and `error` are empty unless it cannot be worked on.

    clip_uri: its name below the folder, or in a tar; archive_offset: where its bytes begin in the
    tar, -1 for a file of its own. A row with `problem` "outside_folder" names no file to open.
    """

    clip_uri: str
    clip_bytes: int
    clip_modified_ns: int
    archive_offset: int
    caption_raw: str
    problem: str
    error: str


# Texts of a million clips may take more than the 2 GiB that one array of `string` holds.
_SCHEMA = pa.schema(
    [
        field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
        for field in schema(LISTED_CLIP)
    ]
)


def list_clips(store: ObjectStore, captions: str | None = None) -> Iterator[ListedClip]:
    """Every clip in the folder, those below it and in its tars, by name.

    captions: a table of captions (a path, which may be relative to the folder, or a URI); one of
    captions.jsonl, .csv, .parquet in the folder if None. DatasetError, before the first row, if the
    folder is missing or holds no clips, or if the table is not there or unreadable as a whole.
    """
    place = find_caption_table(store, captions)
    files, texts = _listed_files(store)
    if not files.num_rows:
        state = "got none" if store.exists() else "got no such folder"
        raise DatasetError(
            f"expected clips ({' '.join(MEDIA_SUFFIXES)}) in {store.uri}, {state}; give the folder"
            " that holds them, with captions.jsonl or a .txt beside each clip"
        )
    names = files.column(Column.CLIP_URI)
    table = CaptionTable(TABLES[0], {}, {}, {}, [])
    if place is not None:
        table = read_caption_table(*place, (name.as_py() for name in names), store)
    rows = pa.concat_tables([files, _rows_without_file(table, names)]).combine_chunks()
    return _add_captions(store, rows, texts, table)


def _listed_files(store: ObjectStore) -> tuple[pa.Table, pa.Table]:
    """Rows of all clips, without what a table of captions says; and the text files beside them."""
    media: list[pa.RecordBatch] = []
    texts: list[pa.RecordBatch] = []
    tars: list[StoredFile] = []
    left_out: list[LeftOutFolder] = []
    walk = store.walk(left_out=left_out.append)
    while files := list(islice(walk, _ROWS)):
        by_suffix = [(suffix_of(file.name), file) for file in files]
        tars += [file for suffix, file in by_suffix if suffix == ARCHIVE]
        media.append(_batch(_row(file) for suffix, file in by_suffix if suffix in MEDIA_SUFFIXES))
        media.append(_batch(_rows_of_unread(files)))
        texts.append(_batch(_text_row(file) for suffix, file in by_suffix if suffix == _TEXT))
    with ThreadPoolExecutor(_THREADS) as pool:
        media += pool.map(lambda tar: _batch(_rows_of_tar(store, tar)), tars)
    media.append(_batch(map(_row_of_folder, left_out)))
    beside = pa.Table.from_batches(texts, _SCHEMA)
    # Of a.txt and a.TXT the first counts.
    beside = beside.sort_by([(Column.CAPTION_RAW, "descending")]).combine_chunks()
    return pa.Table.from_batches(media, _SCHEMA), beside


def _row(file: StoredFile) -> ListedClip:
    name = text_of_name(file.name)
    problem = error = ""
    if name != file.name:
        problem, error = (
            Reason.UNREADABLE_NAME,
            f"expected a name in UTF-8, got {name}; rename the file",
        )
    return ListedClip(name, file.size, file.modified_ns, PLAIN_FILE, "", problem, error)


def _text_row(file: StoredFile) -> ListedClip:
    """A text under the name that a clip looks for, with its own in place of a caption."""
    row = _row(file)
    return row._replace(clip_uri=with_suffix(row.clip_uri, _TEXT), caption_raw=row.clip_uri)


def _rows_of_unread(files: Iterable[StoredFile]) -> Iterator[ListedClip]:
    for file in files:
        problem = unread(file.name)
        if problem is not None:
            reason, error = problem
            yield _row(file)._replace(problem=reason, error=text_of_name(error))


def _row_of_folder(folder: LeftOutFolder) -> ListedClip:
    problem = Reason.LINKED_FOLDER if folder.is_link else Reason.UNREADABLE_FOLDER
    row = _row(StoredFile(folder.name, 0, 0))
    return row._replace(problem=problem, error=text_of_name(folder.error))


def _rows_of_tar(store: ObjectStore, tar: StoredFile) -> list[ListedClip]:
    archive = _row(tar)
    if archive.problem:
        return [archive]
    try:
        clips = tar_clips(store, tar.name, MEDIA_SUFFIXES)
    except DatasetError as error:
        return [archive._replace(problem=Reason.UNREADABLE_ARCHIVE, error=str(error))]
    return [
        ListedClip(
            f"{tar.name}/{clip.name}",
            clip.size,
            tar.modified_ns,
            clip.offset,
            clip.caption,
            clip.problem,
            clip.error,
        )
        for clip in clips
    ]


def _batch(rows: Iterable[ListedClip]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _rows_without_file(table: CaptionTable, names: pa.ChunkedArray) -> pa.Table:
    """Rows for what only the table of captions knows; those that mean a clip are renamed to it."""
    listed = pa.array(table.captions, pa.large_string())
    absent = listed.filter(pc.invert(pc.is_in(listed, value_set=names.combine_chunks())))
    unknown = absent.to_pylist()
    meant = [*unknown, *table.outside]
    alike = Likenesses(meant, (name.as_py() for name in names) if meant else ())
    rows = []
    for name in unknown:
        clip = alike.same(name)
        if clip is not None:
            rename_clip(table, name, clip)
        else:
            absence = _absence(name, table.name, alike.like(name))
            rows.append(_row_of_table(name, table.captions[name], *absence))
    rows += [
        _row_of_table(name, caption, *_outside(name, table.name, alike.like(name)))
        for name, caption in table.outside.items()
    ]
    rows += [
        _row_of_table(f"{table.name} {fault.place}", fault.caption, fault.problem, fault.error)
        for fault in table.faults
    ]
    return pa.Table.from_batches([_batch(rows)])


def _row_of_table(name: str, caption: str, problem: str, error: str) -> ListedClip:
    return ListedClip(name, 0, 0, PLAIN_FILE, caption, problem, error)


def _absence(name: str, table: str, like: str | None) -> tuple[str, str]:
    """Problem and error of a line of the table about what is not among the clips."""
    # AudioCaps has no suffixes.
    if suffix_of(name) in ("", *MEDIA_SUFFIXES):
        hint = f" (there is {like})" if like else ""
        expected = f"expected {name} beside {table}, got no such clip{hint}"
        return Reason.MISSING_FILE, f"{expected}; correct the line or copy it"
    suffixes = " ".join(MEDIA_SUFFIXES)
    return (
        Reason.NOT_A_CLIP,
        f"expected a clip ({suffixes}) in {table}, got {name}; correct the line",
    )


def _outside(name: str, table: str, like: str | None) -> tuple[str, str]:
    hint = f" (there is {like} in it)" if like else ""
    expected = f"expected a name below the folder{hint} in {table}, got {name}"
    return Reason.OUTSIDE_FOLDER, f"{expected}; copy the clip there"


def _add_captions(
    store: ObjectStore, rows: pa.Table, texts: pa.Table, table: CaptionTable
) -> Iterator[ListedClip]:
    order = pc.sort_indices(
        rows, sort_keys=[(Column.CLIP_URI, "ascending"), (Column.ARCHIVE_OFFSET, "ascending")]
    )
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(order), _ROWS):
            batch = rows.take(order.slice(start, _ROWS))
            columns = [column.to_pylist() for column in batch.columns]
            clips = [
                _with_caption(ListedClip(*values), table) for values in zip(*columns, strict=True)
            ]
            beside = _text_files(clips, texts)
            read = pool.map(lambda file: _read_beside(store, *file), beside.values())
            for row, clip in zip(beside, read, strict=True):
                clips[row] = clip
            yield from (_require_caption(clip, table) for clip in clips)


def _with_caption(clip: ListedClip, table: CaptionTable) -> ListedClip:
    """The caption of the table, if it has one, makes up for a text in a tar that is unreadable."""
    caption = table.captions.get(clip.clip_uri, "")
    if not caption or clip.problem not in ("", Reason.UNREADABLE_CAPTION):
        return clip
    return clip._replace(caption_raw=caption, problem="", error="")


def _text_files(clips: list[ListedClip], texts: pa.Table) -> dict[int, tuple[ListedClip, str, int]]:
    """The clips that need the text file beside them, with its name and size, by row."""
    sidecars = {
        row: _sidecar(clip)
        for row, clip in enumerate(clips)
        if not clip.caption_raw and not clip.problem and clip.archive_offset == PLAIN_FILE
    }
    wanted = pa.array(sidecars.values(), pa.large_string())
    places = pc.index_in(wanted, value_set=texts.column(Column.CLIP_URI).combine_chunks())
    names, sizes = (
        texts.column(column).take(places).to_pylist()
        for column in (Column.CAPTION_RAW, Column.CLIP_BYTES)
    )
    files = zip(sidecars, names, sizes, strict=True)
    return {row: (clips[row], name, size) for row, name, size in files if name is not None}


def _read_beside(store: ObjectStore, clip: ListedClip, name: str, size: int) -> ListedClip:
    try:
        if size > LONGEST_CAPTION_BYTES:
            raise OSError(f"{size} bytes")
        return clip._replace(caption_raw=parsed_caption(store.read(name)))
    except (StoreError, MachineError):
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        return clip._replace(
            problem=Reason.UNREADABLE_CAPTION, error=f"expected UTF-8 text in {name}, got: {reason}"
        )


def _require_caption(clip: ListedClip, table: CaptionTable) -> ListedClip:
    if clip.caption_raw or clip.problem:
        return clip
    note = table.notes.get(clip.clip_uri)
    wanted = f"add a line to {table.name}" if note is None else "correct it"
    error = (
        f"expected a caption for {clip.clip_uri}, got {note or 'none'}; {wanted}, or add"
        f" {_sidecar(clip)}"
    )
    return clip._replace(problem=Reason.NO_CAPTION, error=error)


def _sidecar(clip: ListedClip) -> str:
    return with_suffix(clip.clip_uri, _TEXT)
