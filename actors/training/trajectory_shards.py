"""Which trajectories stand in which file: each has one size of picture.

A trajectory is known by its place among all, whatever file it stands in: its prompt and its noise
follow from that.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.config import FrameSize, RunConfig
from infra.dataset.latent_table import LatentTable, shuffled_indices


class TrajectoryShard(NamedTuple):
    """A file of trajectories: their size, places among all, and their prompts' rows, by number."""

    size: FrameSize
    places: NDArray[np.int64]
    rows: NDArray[np.int64]

    def batches(self, rows: int) -> Iterator["TrajectoryShard"]:
        """The same in parts of at most `rows` trajectories."""
        for first in range(0, len(self.places), rows):
            part = slice(first, first + rows)
            yield TrajectoryShard(self.size, self.places[part], self.rows[part])


def prompt_table(config: RunConfig, dataset: str) -> LatentTable:
    """The rows at the URI `dataset` whose prompts a run takes; DatasetError if there are none."""
    return LatentTable.open(dataset, sizes=config.data.sizes, exclude=config.data.exclude)


def trajectory_shards(config: RunConfig, prompts: LatentTable) -> list[TrajectoryShard]:
    """All files of the run's trajectories, by their number, from `prompt_table`."""
    settings = config.stages.trajectories
    rows = shuffled_indices(settings.seed, 0, settings.count, prompts.rows)
    shards: list[TrajectoryShard] = []
    for size, of_size in prompts.rows_of_sizes.items():
        places = np.flatnonzero(np.isin(rows, of_size))
        own = TrajectoryShard(size, places, rows[places])
        shards += own.batches(settings.rows_per_shard)
    return shards
