"""Plain values that the pages of several reports show, and how numbers are written there."""

from collections.abc import Sequence
from typing import NamedTuple

COMMIT_CHARACTERS = 10


class Tile(NamedTuple):
    """A number that a reader looks for first."""

    name: str
    number: str
    unit: str


class Figure(NamedTuple):
    """A titled picture, a PNG file; `text` is for those who do not see it."""

    title: str
    note: str
    png: bytes | None
    text: str


def duration(seconds: float) -> tuple[str, str]:
    """A time as number and unit."""
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes}:{rest:02d}", "min") if minutes else (str(rest), "s")


def percent(part: float, whole: float, digits: int = 1) -> str:
    """The share of `part` in `whole`; 0 of nothing."""
    return f"{100 * part / whole if whole else 0:.{digits}f}%"


def first_few(names: Sequence[str], count: int) -> str:
    """The first `count` names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
