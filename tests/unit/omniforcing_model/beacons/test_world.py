import math

import numpy as np
import pytest

from omniforcing_model.beacons.world import (
    CAPTION_VARIANTS,
    COLOURS,
    PITCHES,
    RATES_HZ,
    Beacon,
    BeaconTraits,
    beacon_caption,
    flash_times,
    held_out_prompts,
    parse_caption,
    raw_caption,
    render_frames,
    render_waveform,
    sample_beacon,
)
from omniforcing_model.errors import BeaconError, CaptionError

EVERY_BEACON = [
    BeaconTraits(colour, rate_hz, pitch)
    for colour in COLOURS
    for rate_hz in RATES_HZ
    for pitch in PITCHES
]


@pytest.mark.parametrize("variant", range(len(CAPTION_VARIANTS)))
def test_every_sentence_is_read_back(variant: int) -> None:
    for traits in EVERY_BEACON:
        assert parse_caption(beacon_caption(traits, variant)) == traits


def test_every_terse_caption_is_read_back() -> None:
    rng = np.random.default_rng(0)
    captions = set()
    for _ in range(10):
        for traits in EVERY_BEACON:
            caption = raw_caption(traits, rng)
            captions.add(caption)
            assert parse_caption(caption) == traits
    assert len(captions) > 3 * len(EVERY_BEACON)


@pytest.mark.parametrize(
    ("text", "traits"),
    [
        ("A RED light, 2 Hz; HIGH tone!", BeaconTraits("red", 2, "high")),
        ("blue disc flashing thrice a second with a deep beep", BeaconTraits("blue", 3, "low")),
        ("one flash per second, green, medium pitch", BeaconTraits("green", 1, "middle")),
        ("yellow beacon flashing every second, low beep", BeaconTraits("yellow", 1, "low")),
        ("a green 3-hertz blinker with mid tone", BeaconTraits("green", 3, "middle")),
        ("a blue lamp, two times each second, high", BeaconTraits("blue", 2, "high")),
        ("a single red disc blinks every half second, low tone", BeaconTraits("red", 2, "low")),
        ("low beep, red, 1 flash/s", BeaconTraits("red", 1, "low")),
    ],
)
def test_looser_wordings_are_read_too(text: str, traits: BeaconTraits) -> None:
    assert parse_caption(text) == traits


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", "colour"),
        ("a dog barks twice a second with a high beep", "colour"),
        ("a red and blue disc flashes twice a second with a high beep", "blue and red"),
        ("a red disc flashes twice a second", "pitch"),
        ("a red disc flashes with a high beep", "rate"),
        ("a red disc flashes 7 times a second with a high beep", "got 7"),
        ("a red disc flashes once a second, 3 Hz, with a high beep", "1 and 3"),
    ],
)
def test_a_caption_that_is_not_one_beacon_is_refused_with_the_reason(
    text: str, missing: str
) -> None:
    with pytest.raises(CaptionError, match=missing):
        parse_caption(text)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_flash_and_beep_begin_together_and_the_first_frame_shows_an_older_flash(
    rate_hz: int,
) -> None:
    beacon = Beacon("green", rate_hz, "middle", phase_frames=5)
    green = render_frames(beacon)[:, 32, 32, 1].astype(int)
    assert int(np.argmax(np.diff(green))) + 1 in [
        round(time * 24) for time in flash_times(beacon, 5.0)
    ]
    assert green[5] == 255
    assert green[0] > 32 if rate_hz > 1 else green[0] >= 32
    wave = np.abs(render_waveform(beacon, 1.0, 48_000))
    start = 5 * 2000
    assert wave[start : start + 200].max() > 0.4 > 10 * wave[start - 200 : start].max()
    assert wave.max() <= 0.6


def test_a_beacon_that_the_world_does_not_know_is_refused() -> None:
    with pytest.raises(BeaconError, match="colour"):
        Beacon("pink", 1, "low", 0)
    with pytest.raises(BeaconError, match="phase_frames < 8"):
        Beacon("red", 3, "low", 8)


def test_the_same_seed_draws_the_same_world() -> None:
    first, second = (np.random.default_rng(7) for _ in range(2))
    assert [sample_beacon(first) for _ in range(5)] == [sample_beacon(second) for _ in range(5)]


def test_held_out_prompts_cover_every_combination_before_repeating_one() -> None:
    prompts = held_out_prompts(40, seed=3)
    assert len({parse_caption(prompt) for prompt in prompts[:36]}) == 36
    assert prompts[:10] == held_out_prompts(10, seed=3)
    assert prompts[:10] != held_out_prompts(10, seed=4)


def test_a_disc_of_20_pixels_fades_with_120_ms() -> None:
    frames = render_frames(Beacon("blue", 2, "low", phase_frames=3), frames=30)
    assert frames.shape == (30, 64, 64, 3)
    assert frames[3, 32, 32].tolist() == frames[15, 32, 32].tolist() == [32, 32, 255]
    assert frames[6, 32, 32, 2] == round(32 + 223 * math.exp(-(3 / 24) / 0.12))
    assert frames[3, 0, 0].tolist() == [32, 32, 32]
    # The middle is between pixels 31 and 32; the edge fades over one pixel, 20 px from there.
    assert frames[3, 31, 50:53, 2].tolist() == [255, 254, 32]


def test_a_beep_is_a_sine_of_half_the_scale_that_fades_with_80_ms() -> None:
    wave = render_waveform(Beacon("red", 1, "high", phase_frames=0), 0.5, 16_000)
    assert wave.shape == (8_000,)
    time = np.arange(8_000) / 16_000
    older = (1 + time, 2 + time, 3 + time)
    tones = [0.5 * np.exp(-t / 0.08) * np.sin(2 * np.pi * 1814.6062 * t) for t in (time, *older)]
    np.testing.assert_allclose(wave, np.sum(tones, axis=0), atol=1e-6)


def test_flashes_come_with_the_rate_from_the_phase_on() -> None:
    beacon = Beacon("red", 3, "low", phase_frames=5)
    assert beacon.period_frames == 8
    assert flash_times(beacon, 1.0) == [5 / 24, 13 / 24, 21 / 24]
    assert flash_times(beacon, 13 / 24) == [5 / 24]
    assert beacon.traits == BeaconTraits("red", 3, "low")
    Beacon("red", 3, "low", phase_frames=7)
    with pytest.raises(BeaconError, match=r"expected 0 <= phase_frames < 8 at 3 flashes .* got -1"):
        Beacon("red", 3, "low", phase_frames=-1)
