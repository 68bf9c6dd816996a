"""What the pictures of a report draw, read back from their axes."""

import io

import numpy as np
import pytest
from PIL import Image

from omniforcing_model.beacons.metrics import ClipMeasures
from pipelines.evaluation.sampled_clips import Clip
from pipelines.generate import BlockTimes
from pipelines.reports.pictures import (
    clip_figure,
    histogram_figure,
    loss_figure,
    png,
    timeline_figure,
)

RATE = 16_000


def bars(axes):
    return [(bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()) for bar in axes.patches]


def lines(axes):
    return [line.get_xdata()[0] for line in axes.get_lines()]


@pytest.fixture(scope="module")
def clip_axes():
    waveform = np.zeros((2, 4 * RATE), np.float32)
    waveform[:, RATE] = (0.5, -0.1)  # 0.2 in mono
    frames = np.zeros((96, 8, 8, 3), np.uint8)
    measures = ClipMeasures("red", 1, "high", 0.0, (0.5, 1.5), (0.75,))
    return clip_figure(Clip("", frames, waveform, RATE), measures).axes


def test_a_clip_is_eight_frames_a_second_of_its_first_seconds(clip_axes):
    frames, _, mel = clip_axes
    starts = [picture.get_extent()[0] for picture in frames.images]
    assert starts == pytest.approx([number / 8 for number in range(20)])
    assert frames.images[0].get_extent() == pytest.approx((0, 0.12, 0, 1))
    assert mel.get_xlim() == (0, 2.5)
    assert mel.get_xticks() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])
    assert mel.images[0].get_extent() == pytest.approx((0, 2.5, 0, 64))


def test_onsets_are_lines_on_the_other_stream(clip_axes):
    _, wave, mel = clip_axes
    assert lines(wave) == [0.5, 1.5]
    assert lines(mel) == [0.75]


def test_the_wave_is_the_loudest_sample_of_the_mean_of_both_channels(clip_axes):
    points = clip_axes[1].collections[0].get_paths()[0].vertices
    assert points[:, 1].max() == pytest.approx(0.2)
    assert points[:, 1].min() == pytest.approx(-0.2)
    assert points[points[:, 1].argmax(), 0] == pytest.approx(1.0, abs=0.003)
    assert points[:, 0].max() == pytest.approx(2.5, abs=0.003)


def test_every_loss_is_a_line_and_a_single_value_a_point():
    (axes,) = loss_figure({"a": [(1, 0.5), (2, 0.25)], "b": [(2, 1.0)]}).axes
    first, second = axes.get_lines()
    assert list(first.get_xdata()) == [1, 2] and list(first.get_ydata()) == [0.5, 0.25]
    assert (first.get_label(), second.get_label()) == ("a", "b")
    assert (first.get_marker(), second.get_marker()) == ("None", "o")


def test_a_block_has_a_bar_a_sent_mark_and_a_needed_mark():
    blocks = [
        BlockTimes(0, 0.0, 0.1, 0.2, 0.25),
        BlockTimes(1, 0.5, 0.1, 0.3, 0.35),
        BlockTimes(2, 1.0, 0.2, 0.6, 0.65),
    ]
    figure = timeline_figure(blocks)
    (axes,) = figure.axes
    assert bars(axes) == [
        pytest.approx((0.1, -0.25, 0.1, 0.5)),
        pytest.approx((0.2, 0.75, 0.1, 0.5)),
        pytest.approx((0.4, 1.75, 0.2, 0.5)),
    ]
    sent, needed = axes.get_lines()
    assert list(sent.get_xdata()) == [0.25, 0.35, 0.65]
    # Playback begins when the blocks of the first second are there.
    assert list(needed.get_xdata()) == pytest.approx([0.35, 0.85, 1.35])
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "block 0",
        "block 1",
        "block 2",
    ]
    assert figure.get_figheight() == pytest.approx(1.38)


def test_a_histogram_has_a_bar_per_bin_and_a_line_at_the_median():
    (axes,) = histogram_figure([0.0, 1.0, 2.0], [3, 5], 1.25, "ms").axes
    assert bars(axes) == [pytest.approx((0, 0, 0.9, 3)), pytest.approx((1, 0, 0.9, 5))]
    assert lines(axes) == [1.25]
    assert axes.get_xlabel() == "ms"


def test_a_picture_is_a_png_on_no_background():
    picture = Image.open(io.BytesIO(png(histogram_figure([0.0, 1.0], [1], 0.5, "ms"))))
    assert picture.size == (980, 380)
    assert picture.mode == "RGBA" and picture.getpixel((0, 0))[3] == 0
