"""The loss curve of a stage: one JSON object per step in curve.jsonl, written while it trains.

The worker of rank 0 writes it, the driver follows it: it is also how progress reaches the terminal.
"""

import json
from pathlib import Path
from typing import Any

CURVE_FILE = "curve.jsonl"
STEP = "step"
RECENT_STEPS = 50

Figures = dict[str, float]


class LossCurve:
    """Writes one stage's curve; each step appears once, also after a resume."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Continue the file at `path` after `resumed_step` steps; later lines are dropped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = [line for line in read_curve(path) if line[STEP] <= resumed_step]
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_text("".join(_line(figures) for figures in earlier), encoding="utf-8")
        unfinished.replace(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def append(self, step: int, figures: Figures) -> None:
        """Add the figures of step number `step`, counted from 1."""
        self._file.write(_line({STEP: step, **figures}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CurveFollower:
    """Reads what has been added to a curve since the last look; every step is returned once."""

    def __init__(self, path: Path, last_step: int = 0) -> None:
        """Follow the file at `path`, which need not exist yet, from after `last_step`."""
        self._path = path
        self._last_step = last_step
        self._offset = 0
        self._inode = 0

    def new_steps(self) -> list[Figures]:
        """Figures of the steps that are new, in order."""
        try:
            with self._path.open("rb") as file:
                status = self._path.stat()
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0  # a resumed run has begun it anew
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        fresh = [line for line in map(_parse, whole.splitlines()) if line]
        new = [figures for figures in fresh if figures[STEP] > self._last_step]
        if new:
            self._last_step = int(new[-1][STEP])
        return new


def read_curve(path: Path) -> list[Figures]:
    """Every step of the curve at `path`; empty if there is none yet."""
    return CurveFollower(path).new_steps()


def recent_means(path: Path, steps: int = RECENT_STEPS) -> Figures:
    """Mean of every figure over the last `steps` steps of the curve at `path`."""
    recent = read_curve(path)[-steps:]
    names = dict.fromkeys(name for figures in recent for name in figures if name != STEP)
    values = {name: [f[name] for f in recent if name in f] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def first_and_last(
    path: Path, name: str, steps: int = RECENT_STEPS
) -> tuple[list[float], list[float]]:
    """A figure in the first and in the last `steps` steps that have it; half of all, if that is
    less."""
    values = [figures[name] for figures in read_curve(path) if name in figures]
    count = min(steps, len(values) // 2)
    return values[:count], values[len(values) - count :]


def _line(figures: Figures) -> str:
    return json.dumps(figures) + "\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None  # cut off by a kill
    return values if isinstance(values, dict) and STEP in values else None
