import math

import numpy as np

from actors.clips.size_buckets import nearest_sizes
from infra.config import FrameSize

SQUARE, WIDE, TALL = (
    FrameSize(height=height, width=width) for height, width in ((512, 512), (512, 768), (768, 512))
)


def sizes_of(shapes, sizes):
    nearest = nearest_sizes(np.array(shapes), sizes)
    return list(zip(nearest.height, nearest.width, strict=True))


def pixels(*sizes):
    return [(size.height, size.width) for size in sizes]


def test_a_clip_gets_the_size_that_cuts_least_off():
    shapes = {1.0: SQUARE, 1.2: SQUARE, 1.25: WIDE, 16 / 9: WIDE, 0.85: SQUARE, 9 / 16: TALL}
    assert sizes_of(list(shapes), (SQUARE, WIDE, TALL)) == pixels(*shapes.values())


def test_of_sizes_with_one_shape_the_first_counts():
    small = FrameSize(height=256, width=384)
    assert sizes_of([1.5], (small, WIDE)) == pixels(small)
    assert sizes_of([1.5], (WIDE, small)) == pixels(WIDE)


def test_a_clip_of_unknown_shape_gets_the_first_size():
    assert sizes_of([math.nan, 0.5], (WIDE, TALL)) == pixels(WIDE, TALL)
    assert sizes_of([], (WIDE, TALL)) == []
