"""Which blocks of a stream stand for it: those whose window is full, once everything is warm."""

import statistics
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

WARM_UP_BLOCKS = 2
ENOUGH_BLOCKS = 3


class SteadyBlocks:
    """The blocks from the first one on that sees a whole window.

    Earlier ones see less than a stream does that goes on. A stream too short to have three such
    blocks is judged by all but its first two.
    """

    def __init__(self, blocks: int, full: int) -> None:
        """Of a stream of `blocks`, which see a whole window from block `full` on."""
        self.first = full if blocks - full >= ENOUGH_BLOCKS else min(WARM_UP_BLOCKS, blocks - 1)

    def of(self, times: Sequence[T]) -> Sequence[T]:
        """Those of the steady blocks."""
        return times[self.first :]

    def median(self, times: Sequence[float]) -> float:
        """Their median."""
        return statistics.median(self.of(times))

    def p99(self, times: Sequence[float]) -> float:
        """What 99 % of them do not exceed."""
        return percentile(self.of(times), 0.99)


def percentile(times: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ranked = sorted(times)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
