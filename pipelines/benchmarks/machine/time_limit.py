"""A measurement that ends in time with what it has, instead of being ended with nothing."""

import time


class TimeLimit:
    """Seconds since a measurement began, against those it may take."""

    def __init__(self, seconds: float | None) -> None:
        """`seconds`: None for as long as it takes."""
        self._seconds = seconds
        self._began = time.monotonic()

    def is_over(self, share: float = 1.0) -> bool:
        """Whether that share of the time is gone."""
        if self._seconds is None:
            return False
        return time.monotonic() - self._began >= share * self._seconds
