"""Macro-blocks: one second of both streams, a zero-truncation prefix, a window that moves."""

import pytest

from omniforcing_model.errors import LayoutError
from omniforcing_model.latent_clock import frames_for_seconds, pixel_frames, video_latents
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from tests.worlds.layouts import layout_of

PAPER = BlockLayout(layout_of("paper", sinks=16, window_blocks=3))
RELEASED = BlockLayout(layout_of("released", sinks=0, window_blocks=3))


def test_five_seconds_are_16_video_and_126_audio_latents_in_both_layouts() -> None:
    for layout in (PAPER, RELEASED):
        assert layout.latents(layout.blocks_for_seconds(5)) == PerStream(16, 126)
    assert pixel_frames(16) == frames_for_seconds(5) == 121
    assert video_latents(121) == 16


def test_the_prefix_of_the_paper_is_one_latent_of_each_stream() -> None:
    assert PAPER.block(0).count == PerStream(1, 1)
    assert PAPER.block(2).first == PerStream(4, 26)
    assert RELEASED.block(0).count == PerStream(4, 26)
    assert RELEASED.block(2).first == PerStream(7, 51)


def test_equation_3_assigns_every_latent_to_its_second() -> None:
    blocks = PAPER.block_of_latent(PerStream(7, 51))
    assert blocks.video == [0, 1, 1, 1, 2, 2, 2]
    assert blocks.audio == [0] + [1] * 25 + [2] * 25


def test_a_block_sees_itself_its_window_and_the_prefix_for_ever() -> None:
    visible = [key for key in range(12) if PAPER.is_visible(key, 9)]
    assert visible == [0, 6, 7, 8, 9]


def test_the_prefix_keeps_its_distance_once_the_window_has_moved_on() -> None:
    assert [PAPER.anchor_shift_s(k) for k in range(7)] == [0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("latents", [PerStream(15, 126), PerStream(16, 125), PerStream(0, 0)])
def test_latents_that_are_not_whole_blocks_are_refused(latents: PerStream[int]) -> None:
    with pytest.raises(LayoutError, match="cut the clip"):
        PAPER.blocks_of(latents)


def test_frames_that_are_not_8k_plus_1_are_refused_with_the_nearest_length() -> None:
    with pytest.raises(LayoutError, match="cut the clip to 121 frames"):
        video_latents(120)


def test_a_stream_of_no_seconds_is_refused() -> None:
    with pytest.raises(LayoutError, match="at least 1 second"):
        PAPER.blocks_for_seconds(0)


def test_a_clip_of_whole_seconds_has_a_block_more_where_the_prefix_is_one() -> None:
    assert [PAPER.blocks_for_seconds(n) for n in (1, 5)] == [2, 6]
    assert [RELEASED.blocks_for_seconds(n) for n in (1, 5)] == [1, 5]


def test_the_refusal_names_the_latents_that_fit() -> None:
    message = (
        r"\(7 video and 51 audio latents make 3 of 1 and 1 and then 3 and 25\), got 8 and 51;"
        " cut the clip to 49 frames"
    )
    with pytest.raises(LayoutError, match=message):
        PAPER.blocks_of(PerStream(8, 51))
    assert PAPER.blocks_of(PerStream(1, 1)) == RELEASED.blocks_of(PerStream(4, 26)) == 1


def test_the_window_is_what_block_0_stands_before() -> None:
    assert [PAPER.anchor_shift_s(k) for k in (0, 3, 4, 5, 6)] == [0, 0, 0, 1, 2]
    assert not PAPER.is_visible(5, 4)
    assert not PAPER.is_visible(1, 5)
    assert PAPER.is_visible(2, 5)


def test_a_block_covers_its_second_in_both_streams() -> None:
    spans = PAPER.spans_s(PAPER.block(2))
    assert (spans.video[0][0], spans.video[-1][1]) == (25 / 24, 49 / 24)
    assert (spans.audio[0][0], spans.audio[-1][1]) == (1.01, 2.01)
    assert (len(spans.video), len(spans.audio)) == (3, 25)


ECHO = BlockLayout(
    layout_of(first_block={"video": 1, "audio": 2}, sinks=0, pinned_blocks=3, window_blocks=3)
)
EQUAL = BlockLayout(layout_of(first_block={"video": 3, "audio": 25}, sinks=0, window_blocks=3))
TWO_SECONDS = BlockLayout(layout_of(following_block={"video": 6, "audio": 50}, window_blocks=2))


def test_clips_are_as_long_as_the_numbers_say() -> None:
    assert [ECHO.blocks_for_seconds(n) for n in (1, 10)] == [2, 11]
    assert ECHO.latents(ECHO.blocks_for_seconds(10)) == PerStream(31, 252)
    assert [EQUAL.blocks_for_seconds(n) for n in (1, 10)] == [1, 10]
    assert EQUAL.latents(EQUAL.blocks_for_seconds(10)) == PerStream(30, 250)
    assert [TWO_SECONDS.blocks_for_seconds(n) for n in (2, 4)] == [2, 3]
    assert TWO_SECONDS.latents(3) == PerStream(13, 101)


def test_a_clip_has_the_frames_of_its_whole_blocks() -> None:
    for layout in (PAPER, RELEASED, ECHO):
        assert layout.frames_for_seconds(10) == frames_for_seconds(10)
    assert EQUAL.frames_for_seconds(10) == frames_for_seconds(10) - 8
    assert TWO_SECONDS.frames_for_seconds(2) == frames_for_seconds(2)


def test_a_clip_shorter_than_the_first_block_is_refused() -> None:
    late = BlockLayout(layout_of(first_block={"video": 7, "audio": 51}))
    assert late.blocks_for_seconds(2) == 1
    with pytest.raises(LayoutError, match="at least 2 seconds, which the first block of 7 video"):
        late.blocks_for_seconds(1)


def test_a_clip_that_ends_within_a_block_is_refused_with_those_that_do_not() -> None:
    message = "macro-block of 2 s, 2 or 4, got 3; ask for that"
    with pytest.raises(LayoutError, match=message):
        TWO_SECONDS.blocks_for_seconds(3)
    with pytest.raises(LayoutError, match="2 s, 2, got 1"):
        TWO_SECONDS.blocks_for_seconds(1)
    both = {"first_block": {"video": 3, "audio": 25}, "following_block": {"video": 6, "audio": 50}}
    odd = BlockLayout(layout_of(**both))
    assert [odd.blocks_for_seconds(n) for n in (1, 3)] == [1, 2]
    with pytest.raises(LayoutError, match="1 or 3, got 2"):
        odd.blocks_for_seconds(2)


def test_blocks_of_several_seconds_follow_each_other_without_a_gap() -> None:
    one, two = (TWO_SECONDS.spans_s(TWO_SECONDS.block(index)) for index in (1, 2))
    assert (one.video[0][0], one.video[-1][1], two.video[0][0]) == (1 / 24, 49 / 24, 49 / 24)
    assert (one.audio[-1][1], two.audio[0][0]) == (2.01, 2.01)
    assert TWO_SECONDS.blocks_of(PerStream(13, 101)) == 3


def test_every_pinned_block_is_seen_for_ever() -> None:
    assert [key for key in range(12) if ECHO.is_visible(key, 9)] == [0, 1, 2, 6, 7, 8, 9]
    assert [key for key in range(12) if ECHO.is_visible(key, 1)] == [0, 1]
    assert [ECHO.is_pinned(key) for key in range(4)] == [True, True, True, False]


def test_pinned_blocks_follow_the_window_by_what_it_has_left_behind() -> None:
    assert [ECHO.anchor_shift_s(k) for k in (0, 3, 6, 7, 8, 600)] == [0, 0, 0, 1, 2, 594]
    assert [TWO_SECONDS.anchor_shift_s(k) for k in (3, 4, 5)] == [0, 2, 4]
    stays = BlockLayout(layout_of(anchor="stays", window_blocks=1))
    assert {stays.anchor_shift_s(k) for k in range(9)} == {0}


def test_across_the_streams_the_view_may_be_the_own_block_alone() -> None:
    own = BlockLayout(layout_of(cross_view="own", window_blocks=3))
    assert [key for key in range(12) if own.is_visible(key, 9, across=True)] == [9]
    assert [key for key in range(12) if own.is_visible(key, 9)] == [0, 6, 7, 8, 9]
    assert own.sees_own_block_alone(across=True)
    assert not own.sees_own_block_alone(across=False)
    assert not PAPER.sees_own_block_alone(across=True)
    assert PAPER.is_visible(0, 9, across=True)


def test_the_ring_holds_what_is_not_pinned() -> None:
    assert ECHO.slots == 4
    assert [ECHO.slot(k) for k in (3, 4, 5, 6, 7, 8)] == [0, 1, 2, 3, 0, 1]
    assert [ECHO.filled_slots(k) for k in (0, 2, 3, 5, 6, 7, 99)] == [0, 0, 1, 3, 4, 4, 4]
    assert [PAPER.slot(k) for k in (1, 4, 5)] == [0, 3, 0]
