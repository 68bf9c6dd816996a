"""Clips that must be brought to what a viewer sees and hears: their colours, fields and tracks."""

import numpy as np
import pytest

from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from infra.media.files import read_frames
from infra.presets import load_preset
from tests.worlds.media.live import as_recorded_live
from tests.worlds.media.numbered import (
    Numbered,
    numbers_in,
    segment_lags_ms,
    shown_by,
    write_numbered,
)
from tests.worlds.media.tracks import KINDS, write_tracks
from tests.worlds.media.viewing import (
    HLG,
    PQ,
    Coding,
    comb_energy,
    in_2020,
    moving_bar,
    patches_in,
    pq,
    write_interlaced,
    write_patches,
)

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("maker")]
CORPUS = pytest.mark.corpus
RATE = 16_000
SHORT = {"silence first.mp4", "still picture first.mkv"}
# Light in cd/m2, and what a screen of 8 bits shows of it. 203 is a white page and 26 grey card
# (ITU-R BT.2408); what is brighter shines, and may be told from white or not.
OF_NITS = {0: (0, 6), 26: (85, 130), 100: (165, 215), 203: (205, 250), 1_000: (235, 255)}
# The same page and card as HLG has them.
OF_HLG = {0.0: (0, 6), 0.38: (85, 130), 0.75: (205, 250), 1.0: (235, 255)}


def data(*settings):
    return load_preset("tiny", ["data.seconds=1", "data.split.kind=fixed", *settings]).data


def colours(path, count, height=64, patch=32):
    frame = read_frames(path, size=(height, patch * (count + 2)), max_frames=3)[1]
    return patches_in(frame, count)


def assert_between(seen, expected):
    wrong = [(s, e) for s, e in zip(seen, expected, strict=True) if not e[0] <= s <= e[1]]
    assert wrong == []
    assert np.all(np.diff(seen) > 0)


def test_light_of_high_dynamic_range_is_as_bright_as_it_is_meant(tmp_path):
    path = write_patches(tmp_path / "pq.mp4", [[pq(nits)] * 3 for nits in OF_NITS], PQ)
    seen = colours(path, len(OF_NITS))
    assert np.ptp(seen, axis=1).max() <= 3  # grey stays grey
    assert_between(seen.mean(axis=1), OF_NITS.values())


def test_hybrid_gamma_as_phones_write_it_is_as_bright_as_it_is_meant(tmp_path):
    path = write_patches(tmp_path / "hlg.mp4", [[signal] * 3 for signal in OF_HLG], HLG)
    seen = colours(path, len(OF_HLG))
    assert np.ptp(seen, axis=1).max() <= 3
    assert_between(seen.mean(axis=1), OF_HLG.values())


def test_colours_of_a_wide_gamut_are_not_washed_out(tmp_path):
    light = [in_2020(part) for part in np.eye(3) * 100]
    path = write_patches(tmp_path / "gamut.mp4", [pq(part) for part in light], PQ)
    seen = colours(path, 3)
    assert np.diag(seen).min() > 150
    assert seen[~np.eye(3, dtype=bool)].max() < 45


LIVE = [
    pytest.param(Numbered("live.mkv", seconds=3.0), id="mkv", marks=CORPUS),
    pytest.param(Numbered("live.webm", "libvpx", "libopus", seconds=3.0), id="vp8"),
    pytest.param(
        Numbered("live.webm", "libvpx-vp9", "libopus", "30", seconds=3.0), id="vp9", marks=CORPUS
    ),
]
SIGNALS = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.5, 0.5, 0.5], [0.9, 0.8, 0.1]]


@pytest.mark.parametrize(
    ("coding", "height"),
    [
        (Coding("bt709"), 720),
        (Coding("bt601"), 576),
        (Coding("bt709", tags="colorspace=bt709"), 480),
        (Coding("bt601", tags="colorspace=smpte170m"), 720),
    ],
)
def test_colours_are_of_the_standard_that_is_tagged_or_that_goes_with_the_size(
    tmp_path, coding, height
):
    path = tmp_path / "tag.mp4"
    write_patches(path, SIGNALS, coding, height=height, patch=96, video="libx264")
    seen = colours(path, len(SIGNALS), height=72, patch=16)
    assert np.abs(seen - 255 * np.array(SIGNALS)).max() <= 4


@pytest.mark.parametrize(
    ("name", "video"), [("fields.mp4", "libx264"), ("fields.ts", "mpeg2video")]
)
def test_pictures_of_two_fields_are_shown_without_a_comb(tmp_path, name, video):
    path = write_interlaced(tmp_path / name, video)
    frames = read_frames(path, size=(96, 128), max_frames=24)
    assert max(map(comb_energy, frames)) < 5
    bars = [np.flatnonzero(frame.mean(axis=(0, 2)) > 128) for frame in frames]
    assert all(12 <= np.ptp(bar) <= 20 for bar in bars)  # one bar, not two
    # Fifty fields a second; the field that is shown, or the one beside it.
    for number, bar in enumerate(bars[2:], 2):
        fields = [moving_bar(round(number * 50 / 24) + near, 128, 96) for near in (-1, 0, 1)]
        middles = [np.flatnonzero(field[0] > 128).mean() for field in fields]
        assert min(middles) - 3 <= bar.mean() <= max(middles) + 3 or number % 7 == 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SHORT else CORPUS) for n in KINDS]
)
def test_of_several_tracks_the_one_that_is_meant_is_taken(tmp_path, name):
    shown = write_tracks(tmp_path, name)
    survey = ClipSurveyor(data(), str(tmp_path)).survey(name)
    assert (survey.outcome, survey.error) == ("ok", "")
    window = ClipDecoder(data(), str(tmp_path), RATE).decode(name, 1.0)
    assert (window.outcome, window.error) == ("ok", "")
    assert numbers_in(window.frames) == list(range(24, 49))
    late_ms = segment_lags_ms(window.waveform, RATE, 1.0, shown)
    assert np.abs(late_ms).max() <= 5


@pytest.mark.parametrize("making", LIVE)
def test_a_recording_that_does_not_say_how_long_it_is_has_all_its_windows(tmp_path, making):
    path = write_numbered(tmp_path, making)
    path.write_bytes(as_recorded_live(path.read_bytes()))
    shown = shown_by(path, making)
    survey = ClipSurveyor(data(), str(tmp_path)).survey(making.name)
    assert (survey.outcome, survey.error) == ("ok", "")
    assert survey.starts_s == (0.0, 1.0, 2.0)
    for start_s in survey.starts_s:
        window = ClipDecoder(data(), str(tmp_path), RATE).decode(making.name, start_s)
        assert (window.outcome, window.error) == ("ok", "")
        times_s = start_s + np.arange(24) / 24
        expected = shown.numbers_at(times_s, 0.0015)
        assert all(s in e for s, e in zip(numbers_in(window.frames[:24]), expected, strict=True))
        assert np.abs(segment_lags_ms(window.waveform, RATE, start_s, shown)).max() <= 5
