"""Which rows a step of a stage takes: all of one size of picture.

The clips of a pass stand in one tensor, and where weights are spread all ranks make their passes
together: so a step has one size for all ranks and micro-batches. The more rows a size has, the
oftener it is drawn, and each has epochs of its own. All of that follows from the number of the
step, so a run that is resumed, or spread over more workers, takes the same rows.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infra.config import FrameSize
from infra.dataset.latent_table import shuffled_indices
from omniforcing_model.seeds import uniform_of


class StepRows:
    """The global batch of every step."""

    def __init__(
        self,
        rows_of_sizes: Mapping[FrameSize, NDArray[np.int64]],
        seed: int,
        stage: str,
        batch: int,
    ) -> None:
        """Take `batch` rows a step of those in `rows_of_sizes`, of which one at least has some.

        A size with fewer rows than a batch takes them more than once, in the next of its epochs.
        """
        self._seed, self._stage, self._batch = seed, stage, batch
        self._of_sizes = [(size, rows) for size, rows in rows_of_sizes.items() if len(rows)]
        self._ends = np.cumsum([len(rows) for _, rows in self._of_sizes])
        # Of each step, as far as they were asked for, which of the sizes it has.
        self._drawn: list[int] = []

    def of_step(self, step: int) -> tuple[FrameSize, NDArray[np.int64]]:
        """The size of the step after `step` others, and its rows, (batch,)."""
        while len(self._drawn) <= step:
            self._drawn.append(self._draw(len(self._drawn)))
        size, rows = self._of_sizes[self._drawn[step]]
        earlier = self._drawn[:step].count(self._drawn[step])
        return size, rows[shuffled_indices(self._seed, earlier, self._batch, len(rows))]

    def _draw(self, step: int) -> int:
        place = uniform_of(self._seed, self._stage, "size", step) * self._ends[-1]
        return int(np.searchsorted(self._ends, place, side="right"))
