from actors.clips.size_buckets import nearest_size
from infra.config import FrameSize

SQUARE, WIDE, TALL = (
    FrameSize(height=height, width=width) for height, width in ((512, 512), (512, 768), (768, 512))
)


def test_a_clip_gets_the_size_that_cuts_least_off():
    sizes = (SQUARE, WIDE, TALL)
    shapes = {1.0: SQUARE, 1.2: SQUARE, 1.25: WIDE, 16 / 9: WIDE, 0.85: SQUARE, 9 / 16: TALL}
    assert {shape: nearest_size(shape, sizes) for shape in shapes} == shapes


def test_of_sizes_with_one_shape_the_first_counts():
    small = FrameSize(height=256, width=384)
    assert nearest_size(1.5, (small, WIDE)) == small
    assert nearest_size(1.5, (WIDE, small)) == WIDE
