"""Pictures and sound of clips of many kinds: each where a player would show and play it.

Not of our making: the numbers are in the pictures, the place is in the noise, and the times are
those of the packets.
"""

from functools import cache

import numpy as np
import pytest

from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from infra.presets import load_preset
from tests.worlds.media.numbered import numbers_in, segment_lags_ms
from tests.worlds.media.numbered_kinds import KINDS

pytestmark = pytest.mark.thorough
RATE = 16_000
SOUND_MS = 5
# Containers may round times to milliseconds; at 24 pictures in a second there is nothing to round.
ROUNDED_S = 0.0015
SHORT = {"h264 aac.mkv", "h264 aac.ts", "fragments lack 4.mp4", "cut.mp4"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, id=kind.name, marks=() if kind.name in SHORT else pytest.mark.corpus)
        for kind in KINDS
    ],
)
def clip(request, tmp_path_factory, maker):
    """A folder with one clip, the kind it is of, and what a player shows of it."""
    folder = tmp_path_factory.mktemp("numbered")
    return folder, request.param, request.param.write(folder)


@cache
def data(seconds):
    """No gate but the length: what is out of step here is so on purpose."""
    gates = ("max_missing_sound_s=9", "max_frame_jitter=9")
    settings = [f"data.seconds={seconds}", "data.split.kind=fixed"]
    return load_preset("tiny", settings + [f"data.gates.{gate}" for gate in gates]).data


def windows(clip, seconds, starts_s):
    folder, kind, _ = clip
    decoder = ClipDecoder(data(seconds), str(folder), RATE)
    for start_s in starts_s:
        window = decoder.decode(kind.name, start_s)
        assert (window.outcome, window.error) == ("ok", "")
        yield start_s, window


@pytest.fixture(scope="module")
def short_windows(clip):
    """Windows of one second, one of them not from a whole second on."""
    return list(windows(clip, 1, (0.0, 1.0, 41 / 24, 2.0)))


@pytest.fixture(scope="module")
def long_window(clip):
    return list(windows(clip, 3, (0.0,)))


def test_every_whole_second_is_a_window(clip):
    folder, kind, _ = clip
    survey = ClipSurveyor(data(1), str(folder)).survey(kind.name)
    assert (survey.outcome, survey.error) == ("ok", "")
    assert survey.starts_s[:3] == (0.0, 1.0, 2.0)


def test_every_picture_is_the_one_that_is_shown_then(clip, short_windows, long_window):
    _, _, shown = clip
    begins_s = shown.pictures_s
    even = np.allclose(begins_s, begins_s[0] + np.arange(len(begins_s)) / 24, rtol=0, atol=1e-3)
    for start_s, window in short_windows + long_window:
        times_s = start_s + np.arange(len(window.frames)) / 24
        seen = numbers_in(window.frames)
        if even:
            first = round(start_s * 24) + shown.first_number
            assert seen == list(range(first, first + len(seen)))
        expected = shown.numbers_at(times_s, ROUNDED_S)
        wrong = [(s, e) for s, e in zip(seen, expected, strict=True) if s not in e]
        assert wrong == [], (start_s, seen)


def test_all_sound_is_heard_when_it_is_meant(clip, short_windows, long_window):
    _, _, shown = clip
    for start_s, window in short_windows + long_window:
        late_ms = segment_lags_ms(window.waveform, RATE, start_s, shown)
        assert len(late_ms) >= 4
        assert np.abs(late_ms).max() <= SOUND_MS, (start_s, late_ms.round(1))


def test_where_sound_is_missing_it_is_silent_or_concealed_but_no_louder(clip, long_window):
    _, _, shown = clip
    ((_, window),) = long_window
    for begin_s, end_s in shown.gaps_s:
        heard = window.waveform[:, round(begin_s * RATE) : round(end_s * RATE)]
        assert heard.std() < 1.5 * window.waveform.std()
