"""How far a stage of work is: bars on a terminal, plain lines in a log, or nothing.

Everything goes to standard error, so that a command's standard output stays its result. Beginning
and outcome of every stage are also logged at DEBUG, which is what a run folder's log.jsonl keeps.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichBars

LOG = logging.getLogger(__name__)
Figure = int | float | str
SECONDS_BETWEEN_LINES = 10.0


class StageProgress(Protocol):
    """One stage of work that is under way."""

    def advance(self, n: int = 1, **figures: Figure) -> None:
        """`n` more units are done; `figures` are the latest values worth showing (loss=0.41)."""


class Progress(Protocol):
    """Where commands report how far they are."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[StageProgress]:
        """A stage called `name` of `total` units (None: not known beforehand)."""


class StageState(NamedTuple):
    """How far a stage has come: units done, and its latest figures."""

    done: int
    figures: dict[str, Figure]


class SilentProgress:
    """Reports nothing: for callers inside another program, and for tests."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager["SilentProgress"]:
        """A stage that shows nothing."""
        del name, total
        return nullcontext(self)

    def advance(self, n: int = 1, **figures: Figure) -> None:
        """Ignore what is reported."""


class LineProgress:
    """Plain lines: one when a stage begins, one every few seconds, one when it ends."""

    def __init__(
        self, stream: TextIO, seconds_between_lines: float = SECONDS_BETWEEN_LINES
    ) -> None:
        self._stream = stream
        self._seconds_between_lines = seconds_between_lines

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[StageProgress]:
        """A stage that writes lines; the last one says how it ended and after how long."""
        stage = _LineStage(self._stream, name, total, self._seconds_between_lines)
        stage.write("started")
        with _log_stage(name, stage):
            try:
                yield stage
            except BaseException:
                stage.write("stopped")
                raise
            stage.write("done")


class _LineStage:
    def __init__(self, stream: TextIO, name: str, total: int | None, interval_s: float) -> None:
        self._stream = stream
        self._name = name
        self._total = total
        self._interval_s = interval_s
        self._began = self._written = time.monotonic()
        self._done = 0
        self._figures: dict[str, Figure] = {}

    @property
    def state(self) -> "StageState":
        return StageState(self._done, self._figures)

    def advance(self, n: int = 1, **figures: Figure) -> None:
        self._done += n
        self._figures.update(figures)
        last = self._done == self._total  # the line that says "done" follows at once
        if time.monotonic() - self._written >= self._interval_s and not last:
            self.write("")

    def write(self, state: str) -> None:
        self._written = time.monotonic()
        count = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        seconds = f"{self._written - self._began:.1f} s"
        parts = (self._name, count, seconds, figures_text(self._figures), state)
        self._stream.write("  ".join(part for part in parts if part) + "\n")
        self._stream.flush()


class TerminalProgress:
    """Bars on a terminal; stages may nest and may come from several threads."""

    def __init__(self, console: Console) -> None:
        self._bars = RichBars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=console,
        )
        self._open_stages = 0
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[StageProgress]:
        """A stage with a bar of its own, which stays on the screen when it is done."""
        with self._lock:
            if self._open_stages == 0:
                self._bars.start()
            self._open_stages += 1
            task = self._bars.add_task(name, total=total, figures="")
        stage = _BarStage(self._bars, task)
        try:
            with _log_stage(name, stage):
                yield stage
            stage.finish()
        finally:
            with self._lock:
                self._open_stages -= 1
                if self._open_stages == 0:
                    self._close()

    def _close(self) -> None:
        # Rich draws every task again at the next start: what is finished must leave the list.
        self._bars.stop()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)


class _BarStage:
    def __init__(self, bars: RichBars, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self._figures: dict[str, Figure] = {}
        self._done = 0

    @property
    def state(self) -> "StageState":
        return StageState(self._done, self._figures)

    def advance(self, n: int = 1, **figures: Figure) -> None:
        self._done += n
        self._figures.update(figures)
        self._bars.update(self._task, advance=n, figures=figures_text(self._figures))

    def finish(self) -> None:
        self._bars.update(self._task, total=self._done, completed=self._done)


class _Stage(Protocol):
    @property
    def state(self) -> StageState: ...


@contextmanager
def _log_stage(name: str, stage: _Stage) -> Iterator[None]:
    began, outcome = time.monotonic(), "stopped"
    LOG.debug("%s started", name, extra={"stage": name})
    try:
        yield
        outcome = "done"
    finally:
        seconds = round(time.monotonic() - began, 3)
        record = {"stage": name, "seconds": seconds, **stage.state._asdict()}
        LOG.debug("%s %s", name, outcome, extra=record)


def figures_text(figures: dict[str, Figure]) -> str:
    """`loss 0.412  step 20`: names and values, short."""
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )


def progress_to(stream: TextIO | None = None) -> Progress:
    """Bars if `stream` (standard error by default) is a terminal, else plain lines."""
    target = sys.stderr if stream is None else stream
    if target.isatty():
        return TerminalProgress(Console(file=target))
    return LineProgress(target)
