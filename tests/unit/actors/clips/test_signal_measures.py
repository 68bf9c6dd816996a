import math

import numpy as np
import pytest

from actors.clips.loudness import integrated_lufs
from actors.clips.signal_measures import av_lag_ms, frozen_share, rms_dbfs, signal_measures
from infra.dataset.columns import SIGNAL_MEASURES

RATE = 16_000


def noise(frames=25, size=32):
    return np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8)


def tone(amplitude=0.5):
    return np.repeat(amplitude * np.sin(np.arange(RATE) / 5)[None], 2, 0).astype(np.float32)


def test_all_that_gates_and_scores_need_is_measured():
    measures = signal_measures(noise(), tone(), RATE)
    assert tuple(measures) == SIGNAL_MEASURES
    assert measures["decoded_frames"] == 25
    assert measures["rms_dbfs"] == pytest.approx(-9.03, abs=0.05)
    assert (measures["clipped_share"], measures["frozen_share"]) == (0, 0)
    assert measures["loudness_lufs"] == integrated_lufs(tone(), RATE)


def test_nothing_but_their_number_is_measured_of_pictures_without_sound():
    for frames in (3, 0):
        measures = signal_measures(noise(frames), np.zeros((2, 0), np.float32), RATE)
        assert measures.pop("decoded_frames") == frames
        assert all(math.isnan(value) for value in measures.values())


def test_samples_at_full_scale_are_counted_up_to_a_hundredth_of_it():
    sound = np.full((2, 16), 0.5, np.float32)
    sound[:, :4] = 0.99
    sound[0, 4] = -1
    assert signal_measures(noise(), sound, RATE)["clipped_share"] == 9 / 32
    sound[:, :5] = 0.98
    assert signal_measures(noise(), sound, RATE)["clipped_share"] == 0


@pytest.mark.parametrize(("side", "frozen"), [(255, 0.0), (256, 1.0), (383, 1.0)])
def test_large_pictures_are_compared_at_every_second_pixel(side, frozen):
    frames = np.zeros((2, side, side, 3), np.uint8)
    frames[1, 1::2, 1::2] = 9
    assert frozen_share(frames) == frozen


def test_a_change_of_three_grey_levels_is_one():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1, 0, 0] = 2
    assert frozen_share(frames) == 1
    frames[1, 0, 0] = 3
    assert frozen_share(frames) == 0


def test_frames_that_repeat_are_counted_but_for_coding_noise():
    frames = np.repeat(noise(5) // 2, 2, 0)
    assert frozen_share(frames) == 5 / 9
    frames[1::2] += 2
    assert frozen_share(frames) == 5 / 9
    assert frozen_share(frames[:1]) == 0


def test_the_level_of_a_sine_is_three_decibels_below_its_peak():
    assert rms_dbfs(tone(1.0)) == pytest.approx(-3.01, abs=0.05)
    assert rms_dbfs(np.zeros((2, 9), np.float32)) == -math.inf


def events(lag_ms, seconds=3):
    """Noise pictures that change twice, and bursts of noise that lag behind."""
    rng = np.random.default_rng(1)
    frames = np.repeat(noise(1), seconds * 24 + 1, 0) // 8
    wave = rng.normal(0, 0.001, (2, seconds * RATE))
    for frame in (20, 51):
        frames[frame:] = rng.integers(0, 256, frames[0].shape, np.uint8) // 2
        begin = round((frame / 24 + lag_ms / 1000) * RATE)
        wave[:, begin : begin + 4000] += rng.normal(0, 0.2, (2, 4000))
    return frames, wave


@pytest.mark.parametrize("lag_ms", [0, 60, -60, 200, -200, 450])
def test_the_lag_of_events_of_any_kind_is_measured(lag_ms):
    assert av_lag_ms(*events(lag_ms), RATE) == pytest.approx(lag_ms, abs=15)


@pytest.mark.parametrize(
    ("lag_ms", "steps"), [(0, 0), (60, 14), (-60, -14), (200, 48), (-450, -108)]
)
def test_the_lag_is_a_whole_number_of_tenths_of_a_frame(lag_ms, steps):
    assert av_lag_ms(*events(lag_ms), RATE) == pytest.approx(steps * 1000 / 240)


def test_a_lag_is_sought_within_half_a_second():
    frames, wave = events(0)
    frames[24:] = frames[23]
    late = np.zeros_like(wave)
    late[:, round((20 / 24 + 0.7) * RATE) :][:, :4000] = 0.2
    assert math.isnan(av_lag_ms(frames, late, RATE))


@pytest.mark.parametrize(("rows", "is_onset"), [(6, True), (4, True), (3, False)])
def test_a_picture_changes_from_half_a_grey_level_on(rows, is_onset):
    _, wave = events(0)
    frames = np.full((73, 8, 8, 3), 100, np.uint8)
    frames[20:, :rows] += 1
    assert math.isnan(av_lag_ms(frames, wave, RATE)) is not is_onset


@pytest.mark.parametrize(("level", "is_onset"), [(0.006, True), (0.004, False)])
def test_sound_rises_from_a_two_hundredth_of_full_scale_on(level, is_onset):
    frames, wave = events(0)
    steady = np.zeros_like(wave)
    steady[:, RATE:] = level
    assert math.isnan(av_lag_ms(frames, steady, RATE)) is not is_onset


def test_without_an_onset_there_is_no_lag():
    frames, wave = events(0)
    assert math.isnan(av_lag_ms(frames, np.zeros_like(wave), RATE))
    assert math.isnan(av_lag_ms(np.repeat(frames[:1], len(frames), 0), wave, RATE))
    assert math.isnan(av_lag_ms(frames[:1], wave[:, :600], RATE))
