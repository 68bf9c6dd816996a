import math

import numpy as np
import pytest

from actors.clips.loudness import integrated_lufs, with_gain

RATE = 48_000


def tone(amplitude, seconds=4.0, hz=997, rate=RATE):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
def test_a_full_scale_sine_on_one_channel_has_minus_three_lufs(rate):
    sound = np.stack((tone(1, rate=rate), np.zeros(4 * rate)))
    assert integrated_lufs(sound, rate) == pytest.approx(-3.01, abs=0.05)


def test_two_channels_are_three_decibels_louder_than_one():
    left = tone(0.1)
    difference = integrated_lufs(np.stack((left, left)), RATE) - integrated_lufs(left[None], RATE)
    assert difference == pytest.approx(3.01, abs=0.01)


def test_low_frequencies_count_less_and_high_ones_more():
    middle, low, high = (integrated_lufs(tone(0.1, hz=hz)[None], RATE) for hz in (997, 40, 8_000))
    assert low < middle - 4
    assert high == pytest.approx(middle + 3.3, abs=0.3)


def test_pauses_do_not_make_speech_quieter():
    speech = tone(0.1, seconds=8)
    with_pauses = np.concatenate((speech, np.zeros(8 * RATE)))
    alone, paused = (integrated_lufs(sound[None], RATE) for sound in (speech, with_pauses))
    assert paused == pytest.approx(alone, abs=0.2)
    # A sixteenth of the power, 12 LU below, is under the relative gate; 6 LU below is not.
    quieter = np.concatenate((speech, tone(0.1 / 8, seconds=8)))
    assert integrated_lufs(quieter[None], RATE) == pytest.approx(alone, abs=0.2)
    nearly = np.concatenate((speech, tone(0.05, seconds=8)))
    assert integrated_lufs(nearly[None], RATE) < alone - 1.5


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000, 11_025])
def test_a_sound_shorter_than_a_block_has_no_loudness(rate):
    block = tone(0.5, seconds=0.4, rate=rate)[None]
    assert integrated_lufs(block[:, :-1], rate) == -math.inf
    assert integrated_lufs(block, rate) == pytest.approx(-9.03, abs=0.1)


def test_silence_has_no_loudness():
    assert integrated_lufs(np.zeros((2, RATE)), RATE) == -math.inf
    # A sine at -67.3 dBFS has -70.3 LUFS: no block is above the absolute gate of -70.
    assert integrated_lufs(tone(10 ** (-67.3 / 20))[None], RATE) == -math.inf
    assert integrated_lufs(tone(10 ** (-66.7 / 20))[None], RATE) == pytest.approx(-69.7, abs=0.05)


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
def test_an_incomplete_block_at_the_end_does_not_count(rate):
    louder = tone(0.5, seconds=2.06, rate=rate) * np.linspace(0, 1, round(2.06 * rate))
    whole = integrated_lufs(louder[None, : 2 * rate], rate)
    assert integrated_lufs(louder[None], rate) == whole
    # One sample short of another block, and the block.
    more = np.concatenate((louder, tone(0.5, seconds=0.04, rate=rate)))[None, : 21 * rate // 10]
    assert integrated_lufs(more[:, :-1], rate) == whole
    assert integrated_lufs(more, rate) > whole + 0.1


def test_the_sound_that_is_measured_stays_as_it_is():
    sound = np.stack((tone(0.1), tone(0.2))).astype(np.float32)
    before = sound.copy()
    integrated_lufs(sound, RATE)
    np.testing.assert_array_equal(sound, before)


def test_sound_is_brought_to_a_loudness_unless_its_peaks_forbid_it():
    sound = tone(0.05)[None].astype(np.float32)
    measured = integrated_lufs(sound, RATE)
    louder = with_gain(sound, measured, measured + 6)
    assert integrated_lufs(louder, RATE) == pytest.approx(measured + 6, abs=0.01)
    limited = with_gain(sound, measured, 0.0)
    assert np.abs(limited).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    np.testing.assert_allclose(limited / np.abs(limited).max(), sound / np.abs(sound).max(), 1e-4)


def test_silence_stays_silence():
    silence = np.zeros((2, 100), np.float32)
    assert not with_gain(silence, -math.inf, -23.0).any()
    # So quiet a sound that it has no loudness stays as quiet.
    quiet = np.full((2, 100), 1e-5, np.float32)
    np.testing.assert_array_equal(with_gain(quiet, -math.inf, -23.0), quiet)
