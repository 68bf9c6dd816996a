"""Which of several sizes the rows of a clip get: the one that cuts least off its pictures."""

import math
from collections.abc import Sequence

from infra.config import FrameSize


def nearest_size(shape: float, sizes: Sequence[FrameSize]) -> FrameSize:
    """The size whose width over height is nearest to `shape` in ratio; the first of equals."""
    return min(sizes, key=lambda size: abs(math.log(shape * size.height / size.width)))
