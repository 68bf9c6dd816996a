"""What a run of preprocessing took: for its report and its run in MLflow."""

from typing import NamedTuple


class RunFigures(NamedTuple):
    """Times of one run, and what it did.

    seconds: by the clock. stage_seconds: of work, by the stage's class and summed over its copies.
    rows_worked: without those that an earlier run had finished.
    """

    seconds: float
    stage_seconds: dict[str, float]
    rows_worked: int
