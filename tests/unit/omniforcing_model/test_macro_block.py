"""Macro-blocks: one second of both streams, a zero-truncation prefix, a window that moves."""

import pytest

from omniforcing_model.config import LayoutConfig
from omniforcing_model.errors import LayoutError
from omniforcing_model.latent_clock import frames_for_seconds, pixel_frames, video_latents
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

PAPER = BlockLayout(LayoutConfig(kind="paper", sinks=16, window_blocks=3))
RELEASED = BlockLayout(LayoutConfig(kind="released", sinks=0, window_blocks=3))


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
        r"\(7 video and 51 audio latents make 3 of layout paper\), got 8 and 51;"
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
