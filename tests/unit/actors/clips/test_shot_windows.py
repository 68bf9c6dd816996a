import numpy as np
import pytest

from actors.clips.shot_windows import window_starts_s, windows_between
from infra.errors import MediaError
from infra.media.files import probe, write_clip
from infra.presets import load_preset
from tests.worlds.beacon_clips import SAMPLE_RATE
from tests.worlds.media.surveys import packet_times

CUTS = (40, 70, 75, 140)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Eight seconds of still pictures that change at CUTS."""
    path = tmp_path_factory.mktemp("shots") / "cuts.mp4"
    rng = np.random.default_rng(0)
    shots = np.diff([0, *CUTS, 192])
    stills = [rng.integers(0, 256, (4, 4, 3)).repeat(16, 0).repeat(16, 1) for _ in shots]
    frames = np.concatenate(
        [np.repeat(still[None], count, 0) for still, count in zip(stills, shots, strict=True)]
    )
    write_clip(path, frames.astype(np.uint8), np.zeros(8 * SAMPLE_RATE), SAMPLE_RATE)
    return path


def starts(clip, kind, *overrides):
    chosen = ["data.seconds=1", f"data.split.kind={kind}", *overrides]
    data = load_preset("tiny", chosen).data
    return window_starts_s(clip, probe(clip), packet_times(clip).video_s, data)


def test_the_first_window_begins_at_zero(clip):
    assert starts(clip, "first") == (0.0,)


def test_fixed_windows_follow_each_other_while_a_whole_one_fits(clip):
    assert starts(clip, "fixed") == (0, 1, 2, 3, 4, 5, 6, 7)
    assert starts(clip, "fixed", "data.seconds=3") == (0, 3)


def test_windows_of_shots_hold_no_cut(clip):
    # Shots of 40, 30, 5, 65 and 52 frames; a window has 25.
    assert [round(24 * start) for start in starts(clip, "shots")] == [0, 40, 75, 99, 140, 164]
    assert all((24 * start).is_integer() for start in starts(clip, "shots"))


def test_a_high_threshold_finds_no_cut(clip):
    assert starts(clip, "shots", "data.split.shot_threshold=250") == starts(clip, "fixed")


def test_the_last_frame_of_a_window_may_lie_behind_the_end_but_not_behind_a_cut():
    assert windows_between([], 24, 1) == [0]
    assert windows_between([], 23, 1) == []
    assert windows_between([24], 48, 1) == [24]
    assert windows_between([25], 49, 1) == [0, 25]


def test_a_clip_too_slow_to_decode_is_not_searched_for_shots(clip):
    with pytest.raises(MediaError, match="timeout"):
        starts(clip, "shots", "data.decode_timeout_s=0.001")
