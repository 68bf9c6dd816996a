"""First looks at an untrusted file."""

from pathlib import Path

import pytest

from infra.errors import DamagedClipError, MediaError
from infra.media.files import probe
from tests.worlds.beacon_clips import write_beacon_clip
from tests.worlds.media.ffmpeg import run_ffmpeg
from tests.worlds.media.surgery import with_a_wrong_index
from tests.worlds.media.surveys import displayed_aspect
from tests.worlds.media_zoo import Making, write_flashes


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = write_beacon_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")
    return path


def test_the_first_look_ends_in_time_and_refuses_what_is_no_clip(
    clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(MediaError, match="within 0 s of processor time, got a timeout"):
        probe(clip, timeout_s=0)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(MediaError, match=r"expected a readable clip, .* for .*noise\.mp4"):
        probe(tmp_path / "noise.mp4")


@pytest.mark.parametrize(
    ("making", "aspect"),
    [
        (Making(), 1.0),
        (Making(width=96, height=64), 1.5),
        (Making(width=64, height=112), 64 / 112),
        (Making(width=96, height=64, rotation=90), 64 / 96),
        (Making(width=96, height=64, rotation=180), 1.5),
        (Making(width=71, height=53, container="mkv"), 71 / 53),
    ],
)
def test_the_shape_of_a_picture_is_the_one_that_a_viewer_sees(tmp_path, making, aspect):
    path = write_flashes(tmp_path / "clip", making)
    assert displayed_aspect(path) == pytest.approx(aspect, abs=1e-3)


def test_pixels_that_are_not_square_count(clip, tmp_path):
    wide = tmp_path / "wide.mp4"
    run_ffmpeg("-i", clip, "-c", "copy", "-aspect", "16:9", wide)
    assert probe(wide).width == probe(wide).height
    assert displayed_aspect(wide) == pytest.approx(16 / 9, abs=1e-3)


def test_headers_that_contradict_each_other_are_damage(clip, tmp_path):
    path = with_a_wrong_index(clip, tmp_path / "wrong.mp4")
    with pytest.raises(DamagedClipError, match=r"wrong\.mp4 \(mov,.* says: wrong sample count\)"):
        displayed_aspect(path)


def test_a_clip_without_a_picture_has_no_shape(clip, tmp_path):
    content = clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: content.index(b"mdat") + 8])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        displayed_aspect(cut)
