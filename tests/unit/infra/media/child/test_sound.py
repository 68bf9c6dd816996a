"""Where samples of sound lie, from the times of the frames that they come in."""

import av
import numpy as np
import pytest

from infra.media.child.sound import _Run, mixed

RATE = 48_000
LENGTH = 1_024
JITTER_S = 0.002


def frame(samples):
    made = av.AudioFrame.from_ndarray(
        np.asarray(samples, np.float32).reshape(1, -1), format="fltp", layout="mono"
    )
    made.sample_rate = RATE
    return made


def runs_of(*frames):
    """Runs of frames given as (start in s, samples)."""
    runs = []
    for start_s, samples in frames:
        one = frame(samples)
        if not runs or not runs[-1].takes(one, start_s):
            runs.append(_Run(one, start_s, JITTER_S))
        runs[-1].add(one, start_s)
    return runs


def heard(runs, rate=RATE, start_s=0.0, samples=50_000, clock_s=0.0):
    return np.frombuffer(mixed(runs, clock_s, start_s, rate, 1, samples), "<f4")


def test_frames_that_follow_each_other_are_one_run():
    runs = runs_of((0.0, np.ones(LENGTH)), (LENGTH / RATE, np.full(LENGTH, 0.5)))
    assert len(runs) == 1
    np.testing.assert_array_equal(heard(runs), [1.0] * LENGTH + [0.5] * LENGTH)


@pytest.mark.parametrize("missing", [97, LENGTH, 8 * LENGTH])
def test_a_gap_is_silent_and_as_long_as_it_is(missing):
    later_s = (LENGTH + missing) / RATE
    sound = heard(runs_of((0.0, np.ones(LENGTH)), (later_s, np.ones(LENGTH))))
    assert len(sound) == 2 * LENGTH + missing
    np.testing.assert_array_equal(np.flatnonzero(sound == 0), LENGTH + np.arange(missing))


def test_what_is_there_twice_is_heard_once():
    sound = heard(runs_of((0.0, np.ones(LENGTH)), (LENGTH / 2 / RATE, np.full(LENGTH, 0.5))))
    np.testing.assert_array_equal(sound, [1.0] * LENGTH + [0.5] * (LENGTH // 2))


def test_times_in_whole_milliseconds_make_neither_gaps_nor_shifts():
    starts_s = [n * LENGTH / RATE for n in range(40)]
    rounded = [(round(start_s * 1000) / 1000, np.ones(LENGTH)) for start_s in starts_s]
    sound = heard(runs_of(*rounded), samples=50_000)
    assert len(sound) == 40 * LENGTH
    assert sound.min() == 1.0
    later = heard(runs_of(*rounded[7:]), samples=50_000)
    assert len(later) == 40 * LENGTH
    assert np.flatnonzero(later)[0] == 7 * LENGTH


def test_sound_before_the_first_picture_is_not_heard_and_late_sound_begins_with_silence():
    early = heard(runs_of((1.0, np.arange(LENGTH))), clock_s=1.0 + 100 / RATE)
    np.testing.assert_array_equal(early, np.arange(100, LENGTH))
    late = heard(runs_of((1.0, np.ones(LENGTH))), clock_s=1.0 - 100 / RATE)
    assert np.flatnonzero(late)[0] == 100


def test_a_window_at_another_rate_has_the_samples_of_the_whole():
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40 * LENGTH)
    frames = [(n * LENGTH / RATE, noise[n * LENGTH : (n + 1) * LENGTH]) for n in range(40)]
    whole = heard(runs_of(*frames), rate=16_000, samples=20_000)
    part = heard(runs_of(*frames[11:]), rate=16_000, start_s=0.5, samples=2_000)
    np.testing.assert_allclose(part, whole[8_000:10_000], atol=1e-5)


def test_the_padding_of_the_last_frame_is_left_out():
    runs = runs_of((0.0, np.ones(LENGTH)))
    runs[0].end_with(runs[0].frames[-1], 300 / RATE)
    assert len(heard(runs)) == 300
    runs[0].end_with(runs[0].frames[-1], (LENGTH - 10) / RATE)  # but for what is rounding
    assert runs[0].samples == 300
