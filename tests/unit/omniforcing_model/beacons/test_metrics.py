import numpy as np
import pytest

from omniforcing_model.beacons.metrics import (
    UNKNOWN,
    WORST_OFFSET_MS,
    audio_onsets,
    av_offset_ms,
    colour_of,
    judge,
    measure_clip,
    pitch_of,
    rate_of,
    video_onsets,
)
from omniforcing_model.beacons.world import (
    Beacon,
    BeaconTraits,
    flash_times,
    render_frames,
    render_waveform,
    sample_beacon,
)

RATE = 16_000
SECONDS = 121 / 24
SLOW = Beacon("red", 1, "high", phase_frames=9)


def test_clean_clips_measure_as_what_they_are() -> None:
    rng = np.random.default_rng(0)
    beacons = [sample_beacon(rng) for _ in range(24)]
    measures = [
        measure_clip(render_frames(beacon), render_waveform(beacon, SECONDS, RATE), RATE)
        for beacon in beacons
    ]
    scores = judge(measures, beacons)
    assert (scores.rate_accuracy, scores.colour_accuracy, scores.pitch_accuracy) == (1.0, 1.0, 1.0)
    assert scores.clips == 24
    assert max(clip.av_offset_ms for clip in measures) < 5


def test_onsets_are_found_at_the_times_of_the_flashes() -> None:
    truth = flash_times(SLOW, SECONDS)
    np.testing.assert_allclose(video_onsets(render_frames(SLOW)), truth, atol=1e-6)
    for sample_rate in (16_000, 24_000, 48_000):
        onsets = audio_onsets(render_waveform(SLOW, SECONDS, sample_rate), sample_rate)
        np.testing.assert_allclose(onsets, truth, atol=0.004)


@pytest.mark.parametrize("lag_ms", [-240, -60, 20, 100, 300])
def test_sound_that_lags_by_a_known_time_is_measured_with_that_offset(lag_ms: int) -> None:
    wave = np.roll(render_waveform(SLOW, SECONDS, RATE), lag_ms * RATE // 1000)
    measured = measure_clip(render_frames(SLOW), wave, RATE).av_offset_ms
    assert abs(measured - abs(lag_ms)) < 6


def test_a_flash_smeared_over_two_frames_is_timed_between_them() -> None:
    frames = render_frames(SLOW).astype(float)
    frames[9] = (frames[8] + frames[10]) / 2
    first = video_onsets(frames.astype(np.uint8))[0]
    assert 9 / 24 < first < 10 / 24


@pytest.mark.parametrize("missing", ["sound", "flashes", "both"])
def test_a_clip_without_onsets_counts_as_the_worst(missing: str) -> None:
    frames, wave = render_frames(SLOW), render_waveform(SLOW, SECONDS, RATE)
    if missing != "sound":
        frames = np.full_like(frames, 40)
    if missing != "flashes":
        wave = np.zeros_like(wave)
    measured = measure_clip(frames, wave, RATE)
    assert measured.av_offset_ms == WORST_OFFSET_MS
    assert (measured.pitch == UNKNOWN) == (missing != "flashes")
    assert (measured.colour == UNKNOWN) == (missing != "sound")
    scores = judge([measured], [SLOW.traits])
    assert scores.av_offset_ms_median == WORST_OFFSET_MS
    assert scores.rate_accuracy == (1.0 if missing == "sound" else 0.0)


def test_noise_and_numbers_that_are_not_numbers_still_get_a_score() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (121, 64, 64, 3), dtype=np.uint8)
    wave = np.where(rng.random(80_000) < 0.5, np.nan, rng.normal(size=80_000))
    scores = judge([measure_clip(noise, wave.astype(np.float32), RATE)], [SLOW.traits])
    assert np.isfinite(scores.av_offset_ms_median)
    assert measure_clip(noise[:0], wave[:0], RATE).av_offset_ms == WORST_OFFSET_MS


def test_wrong_traits_lower_the_accuracy_by_their_share() -> None:
    measured = measure_clip(render_frames(SLOW), render_waveform(SLOW, SECONDS, RATE), RATE)
    wrong = BeaconTraits("green", 2, "low")
    scores = judge([measured, measured], [SLOW.traits, wrong])
    assert scores.rate_accuracy == scores.colour_accuracy == scores.pitch_accuracy == 0.5
    assert judge([], []).av_offset_ms_median == WORST_OFFSET_MS


def test_a_clip_that_stops_flashing_has_a_lower_rate() -> None:
    frames = render_frames(Beacon("blue", 3, "low", 0))
    frames[48:] = frames[47]
    assert rate_of(frames) < 3


def test_stereo_is_measured_as_its_mean() -> None:
    frames, wave = render_frames(SLOW), render_waveform(SLOW, SECONDS, RATE)
    assert measure_clip(frames, np.stack((wave, wave)), RATE) == measure_clip(frames, wave, RATE)


def test_the_offset_is_the_median_both_ways_of_the_onsets_inside_the_clip() -> None:
    # Distances of 10 and 30 ms one way, of 10 and 30 ms the other way.
    assert av_offset_ms([1.0, 2.0], [1.01, 2.03], 3.0) == pytest.approx(20)
    # The flash at 0.05 s may have its beep before the clip.
    assert av_offset_ms([0.05, 1.0], [1.02], 3.0) == pytest.approx(20)
    assert av_offset_ms([0.1, 2.9], [0.1, 2.9], 3.0) == 0
    assert av_offset_ms([0.09], [2.91], 3.0) == WORST_OFFSET_MS
    assert av_offset_ms([1.0], [1.9], 3.0) == WORST_OFFSET_MS == 500


def test_a_rate_without_an_interval_is_the_count() -> None:
    assert rate_of(render_frames(SLOW, frames=24)) == 1
    assert rate_of(render_frames(SLOW, frames=9)) == 0


def test_nothing_to_see_and_to_hear_has_no_colour_and_no_pitch() -> None:
    dark = np.full((30, 64, 64, 3), 32, np.uint8)
    assert colour_of(dark) == colour_of(dark[:1]) == UNKNOWN == "none"
    assert pitch_of(np.zeros(16_000), RATE) == UNKNOWN
    tone = 0.5 * np.sin(2 * np.pi * 928 * np.arange(RATE) / RATE)
    assert pitch_of(tone, RATE) == "middle"
    assert pitch_of(0.03 * tone, RATE) == UNKNOWN
    assert pitch_of(tone[:300], RATE) == UNKNOWN
    between = 0.5 * np.sin(2 * np.pi * 6000 * np.arange(RATE) / RATE)
    assert pitch_of(between + 0.2 * tone, RATE) == UNKNOWN


def test_no_clips_score_the_worst() -> None:
    scores = judge([], [])
    assert (scores.av_offset_ms_median, scores.clips) == (500, 0)
    assert scores.rate_accuracy == scores.colour_accuracy == scores.pitch_accuracy == 0
