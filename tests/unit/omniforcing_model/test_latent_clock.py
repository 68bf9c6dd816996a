import pytest

from omniforcing_model.errors import LayoutError
from omniforcing_model.latent_clock import (
    AUDIO_LATENTS_PER_SECOND,
    MEL_FRAMES_PER_SECOND,
    VIDEO_FPS,
    VIDEO_LATENTS_PER_SECOND,
    audio_latent_span_s,
    frames_for_seconds,
    mel_frames,
    pixel_frames,
    video_latent_span_s,
    video_latents,
)


def test_a_second_has_3_video_and_25_audio_latents():
    assert (VIDEO_FPS, MEL_FRAMES_PER_SECOND) == (24, 100)
    assert (VIDEO_LATENTS_PER_SECOND, AUDIO_LATENTS_PER_SECOND) == (3, 25)


def test_the_first_latent_holds_one_frame_and_later_ones_eight():
    assert [pixel_frames(n) for n in (1, 2, 3, 16)] == [1, 9, 17, 121]
    assert [video_latents(n) for n in (1, 9, 17, 121)] == [1, 2, 3, 16]


def test_the_first_audio_latent_holds_one_mel_frame_and_later_ones_four():
    assert [mel_frames(n) for n in (1, 2, 26, 126)] == [1, 5, 101, 501]


def test_a_clip_of_whole_seconds_has_one_frame_more():
    assert [frames_for_seconds(n) for n in (0, 1, 5)] == [1, 25, 121]


@pytest.mark.parametrize(
    ("frames", "nearest"), [(0, 1), (-7, 1), (2, 1), (6, 9), (8, 9), (120, 121), (124, 121)]
)
def test_other_counts_of_frames_are_refused_with_the_nearest_that_fits(frames, nearest):
    message = f"expected 8k \\+ 1 pixel frames, got {frames}; cut the clip to {nearest} frames"
    with pytest.raises(LayoutError, match=message):
        video_latents(frames)


def test_spans_follow_each_other_in_seconds():
    assert video_latent_span_s(0) == (0.0, 1 / 24)
    assert video_latent_span_s(1) == (1 / 24, 9 / 24)
    assert video_latent_span_s(3) == (17 / 24, 25 / 24)
    assert audio_latent_span_s(0) == (0.0, 0.01)
    assert audio_latent_span_s(1) == (0.01, 0.05)
    assert audio_latent_span_s(25) == (0.97, 1.01)
