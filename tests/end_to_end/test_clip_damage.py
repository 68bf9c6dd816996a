"""Clips with bytes in the middle that are not theirs: no window that lost something is `ok`.

What no checksum covers and every decoder takes for data cannot be told: a few changed bytes of VP8,
VP9 or Opus in WebM, and, now and then, a changed bit of any codec. So WebM is damaged here as disks
and networks do it, by runs of bytes.
"""

import numpy as np
import pytest

from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from infra.presets import load_preset
from tests.worlds.media.damage import RUNS, WAYS, damaged
from tests.worlds.media.numbered import Numbered, write_numbered
from tests.worlds.media.numbered_kinds import NO_EDITS

pytestmark = pytest.mark.thorough
CORPUS = pytest.mark.corpus
RATE = 16_000
SECONDS = 4.0
# Bytes lie in the order of time, but for what a container puts in between. A checksum of Matroska
# tells that some byte of a cluster is wrong, and not which: a cluster lasts up to five seconds.
CLEAR_S = 1.5
CLUSTER_S = 5.0
CLIPS = [
    Numbered("damaged.mp4", seconds=SECONDS),
    Numbered("fragments.mp4", seconds=SECONDS, options=NO_EDITS),
    Numbered("damaged.mkv", seconds=SECONDS),
    Numbered("damaged.ts", seconds=SECONDS),
    Numbered("damaged.webm", "libvpx-vp9", "libopus", seconds=SECONDS),
    Numbered("vp8.webm", "libvpx", "libvorbis", seconds=SECONDS),
]
SEEDS = 20
SHORT = {"damaged.mp4", "damaged.webm"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(making, id=making.name, marks=() if making.name in SHORT else CORPUS)
        for making in CLIPS
    ],
)
def clip(request, tmp_path_factory, maker):
    """A folder, the path of a whole clip in it, and its windows by their start."""
    folder = tmp_path_factory.mktemp("damage")
    path = write_numbered(folder, request.param)
    return folder, path, windows(folder, path.name)


def windows(folder, name):
    """Every window that the clip is said to have; none if it is condemned as a whole."""
    data = load_preset("tiny", ["data.seconds=1", "data.split.kind=fixed"]).data
    survey = ClipSurveyor(data, str(folder)).survey(name)
    decoder = ClipDecoder(data, str(folder), RATE)
    return {start_s: decoder.decode(name, start_s) for start_s in survey.starts_s}


def is_same(window, whole):
    return np.array_equal(window.frames, whole.frames) and np.allclose(
        window.waveform, whole.waveform, rtol=0, atol=1e-3
    )


def test_an_undamaged_clip_is_ok_throughout(clip):
    _, _, whole = clip
    assert list(whole) == [0.0, 1.0, 2.0, 3.0]
    assert {(window.outcome, window.error) for window in whole.values()} == {("ok", "")}


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=CORPUS) for n in range(1, SEEDS))])
def test_no_window_that_lost_something_is_ok(clip, seed):
    folder, path, whole = clip
    ways = RUNS if path.suffix == ".webm" else WAYS
    content, place = damaged(path.read_bytes(), seed, ways=ways)
    harmed = folder / f"seed {seed}{path.suffix}"
    harmed.write_bytes(content)
    for start_s, window in windows(folder, harmed.name).items():
        if window.outcome == "ok":
            assert is_same(window, whole[start_s]), start_s
        else:
            assert window.outcome == "quarantined"
            assert window.reason in ("damaged", "unreadable")
            # The file still opens, and so what lies well before the damage is good.
            clear_s = CLUSTER_S if path.suffix == ".mkv" else CLEAR_S
            assert start_s + clear_s > place / len(content) * SECONDS, window.error
