"""Tables on a screen of a fixed width, and how numbers are written in them."""

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 100
Row = Sequence[str]


def page_of(what: str, *tables: Table) -> str:
    """Words and tables below each other, as text."""
    screen = Console(file=io.StringIO(), width=WIDTH, record=True)
    screen.print(what)
    for table in tables:
        screen.print(table)
    return screen.export_text()


def table_of(columns: Row, rows: Iterable[Row]) -> Table:
    """A table; all columns but the first are numbers."""
    table = Table(*columns[:1])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def in_ms(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    return "-" if seconds is None else f"{seconds * 1e3:,.1f}"


def ratio(times: float | None) -> str:
    """How many times."""
    return "-" if times is None else f"{times:.2f}"


def first_and_last(values: Sequence[float]) -> str:
    """The ends of a series."""
    return f"{values[0]:,.1f}, {values[-1]:,.1f}"
