"""The rows of a table of captions in a file: JSON lines, a JSON list, CSV or Parquet.

A row that cannot be read is a row too, without fields: the next ones are read all the same. Bytes
that are not UTF-8 come as lone surrogates, so that they spoil their own row alone.
"""

import csv
import io
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DatasetError, MachineError, StoreError
from infra.storage.object_store import ObjectStore

Result = TypeVar("Result")
# A quote that nobody closes would otherwise swallow all rows up to the next quote.
LONGEST_ROW_LINES = 100
_SPACE = re.compile(r"[ \t\r\n]*")
# How a row of a known layout begins, within a row of several lines: a quote was left open before.
_ANOTHER_ROW = re.compile(r'[^",]+(\.[A-Za-z0-9]{2,4},|,[\w-]{11},\d+,)')
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SHOWN_CHARS = 80


class TableRow(NamedTuple):
    """One row: where it is ("line 3"), its fields (None: unreadable), and what it looks like."""

    place: str
    fields: Any
    text: str


class TableRows(NamedTuple):
    """The rows of a table; `columns`: of all of them, None where each row has its own."""

    columns: tuple[str, ...] | None
    rows: Iterator[TableRow]


class _UnreadableError(ValueError):
    """A table that cannot be read on."""


def table_rows(store: ObjectStore, name: str, known: Collection[str]) -> TableRows:
    """The rows of the table `name` of `store`, one after the other.

    known: columns that are of use. DatasetError, also from the rows, if the table as a whole is not
    what its name says.
    """
    suffix = PurePosixPath(name).suffix.lower()
    readers: dict[str, Callable[[bytes], tuple[tuple[str, ...] | None, Iterator[TableRow]]]] = {
        ".csv": _csv_table,
        ".parquet": partial(_parquet_table, known=known),
    }
    read = readers.get(suffix, _json_table)
    kind = {".csv": "CSV in UTF-8", ".parquet": "a Parquet file"}.get(suffix, "JSON in UTF-8")
    place = f"{name} in {store.uri} as {kind}"
    columns, rows = _translated(place, lambda: read(store.read(name)))
    return TableRows(columns, _translated_rows(place, rows))


def shown(text: str) -> str:
    """The beginning of a row, for messages."""
    return repr(text[:_SHOWN_CHARS])


def _translated(place: str, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except (StoreError, MachineError):
        raise
    except (OSError, _UnreadableError, csv.Error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"expected {place}, got: {reason}; save it again") from error


def _translated_rows(place: str, rows: Iterator[TableRow]) -> Iterator[TableRow]:
    while (row := _translated(place, lambda: next(rows, None))) is not None:
        yield row


def _text_lines(content: bytes, newline: str | None = None) -> io.TextIOWrapper:
    if content.startswith(_UTF_16):
        raise _UnreadableError("text in UTF-16")
    return io.TextIOWrapper(
        io.BytesIO(content), "utf-8-sig", errors="surrogateescape", newline=newline
    )


def _csv_table(content: bytes) -> tuple[tuple[str, ...], Iterator[TableRow]]:
    records = _csv_records(_text_lines(content, newline=""))
    for _, fields, text in records:
        if fields is None:
            raise _UnreadableError(f"{shown(text)} as names of columns")
        columns = tuple(name.strip() for name in fields)
        return columns, _csv_rows(columns, records)
    raise _UnreadableError("an empty file")


def _csv_rows(
    columns: tuple[str, ...], records: Iterator[tuple[int, list[str] | None, str]]
) -> Iterator[TableRow]:
    for line, values, text in records:
        # Quotes and commas that are not escaped give a row too many fields.
        whole = values is not None and len(values) <= len(columns)
        padded = [*values, *[None] * (len(columns) - len(values))] if whole and values else []
        fields = dict(zip(columns, padded, strict=True)) if padded else None
        yield TableRow(f"line {line}", fields, text)


def _csv_records(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | None, str]]:
    """Number of its first line, fields (None: not CSV) and text of each record.

    Where a record cannot be read, its first line alone is given up.
    """
    waiting: deque[str] = deque()
    number = 1
    while True:
        taken: list[str] = []
        record = csv.reader(_take(lines, waiting, taken), strict=True)
        try:
            fields = next(record, None)
        except csv.Error:
            fields = None
        if not taken:
            return
        if fields is None or any(_ANOTHER_ROW.match(line) for line in taken[1:]):
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            fields = None
        text = "".join(taken).rstrip("\r\n")
        if text.strip():
            yield number, fields, text
        number += len(taken)


def _take(lines: Iterator[str], waiting: deque[str], taken: list[str]) -> Iterator[str]:
    while len(taken) < LONGEST_ROW_LINES:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        taken.append(line)
        yield line


def _parquet_table(
    content: bytes, known: Collection[str]
) -> tuple[tuple[str, ...], Iterator[TableRow]]:
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    columns = tuple(file.schema_arrow.names)
    return columns, _parquet_rows(file, [name for name in columns if name in known])


def _parquet_rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[TableRow]:
    number = 0
    for batch in file.iter_batches(batch_size=4096, columns=columns):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_row_in_utf8(batch.slice(row, 1)) for row in range(batch.num_rows)]
        for fields in rows:
            number += 1
            text = "bytes that are not UTF-8" if fields is None else str(fields)
            yield TableRow(f"row {number}", fields, text)


def _row_in_utf8(row: pa.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return None


def _json_table(content: bytes) -> tuple[None, Iterator[TableRow]]:
    lines = _text_lines(content)
    if content[:64].decode("utf-8-sig", errors="replace").lstrip().startswith("["):
        return None, _json_list(lines.read())
    return None, _json_lines(lines)


def _json_lines(lines: Iterator[str]) -> Iterator[TableRow]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield TableRow(f"line {number}", _parse(line), line.rstrip("\r\n"))


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _json_list(text: str) -> Iterator[TableRow]:
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
        seen = text[begin : begin + _SHOWN_CHARS]
        try:
            if not comma:
                raise ValueError
            fields, at = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            # Where the next object begins, nobody can tell.
            raise _UnreadableError(f"{shown(seen)} in line {line}") from None
        yield TableRow(f"line {line}", fields, seen)
        line += text.count("\n", begin, at)
        begin = _after_space(text, at)
        line += text.count("\n", at, begin)
        comma = text.startswith(",", begin)
        at = begin + comma


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
