"""The plain loop gives the good rows of every window, with their tensors."""

import pytest

from infra.presets import load_preset
from pipelines.benchmarks.preprocessing.plain_preprocessing import PlainPreprocessing
from tests.worlds.beacon_clips import (
    caption,
    truncated,
    without_sound,
    write_beacon_clip,
    write_captions,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two windows, one without sound, and half a clip."""
    folder = tmp_path_factory.mktemp("clips")
    write_beacon_clip(folder / "two.mp4", 0, seconds=2)
    without_sound(folder / "two.mp4", folder / "mute.mp4")
    truncated(folder / "two.mp4", folder / "half.mp4")
    write_captions(folder, {f"{name}.mp4": caption(0) for name in ("two", "mute", "half")})
    return folder


def test_every_window_that_is_good_is_a_row(clips):
    config = load_preset("tiny", ["data.seconds=1", "data.split.kind=fixed"])
    rows = list(PlainPreprocessing(config, str(clips)).rows())
    assert [(row["clip_uri"], row["start_s"]) for row in rows] == [("two.mp4", 0), ("two.mp4", 1)]
    for row in rows:
        assert (row["outcome"], row["text_outcome"]) == ("ok", "ok")
        assert row["video"].ndim == 4
        assert row["video_text"].shape[0] == config.codec.text_tokens
    assert (rows[0]["video"] != rows[1]["video"]).any()
