"""Which of several sizes the rows of a clip get: the one that cuts least off its pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.config import FrameSize


class RowSizes(NamedTuple):
    """Sizes of rows, in pixels."""

    height: NDArray[np.int64]
    width: NDArray[np.int64]


def nearest_sizes(shapes: NDArray[np.float64], sizes: Sequence[FrameSize]) -> RowSizes:
    """For each of `shapes` (width over height) the size whose ratio is nearest.

    The first of equals; the first of all for a shape that is not known (NaN).
    """
    ratios = np.array([size.width / size.height for size in sizes])
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.abs(np.log(shapes[:, None] / ratios))
    nearest = np.nan_to_num(distances, nan=0.0).argmin(axis=1)
    pixels = np.array([(size.height, size.width) for size in sizes], np.int64)
    return RowSizes(*pixels[nearest].T)
