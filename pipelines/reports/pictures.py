"""Pictures of reports: a clip seen and heard, losses, distributions, and when blocks were ready.

All are readable on a white page and on a black one.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from omniforcing_model.beacons.metrics import ClipMeasures
from omniforcing_model.codecs.mel import BANDS, LogMel
from omniforcing_model.latent_clock import MEL_FRAMES_PER_SECOND, VIDEO_FPS
from pipelines.evaluation.sampled_clips import Clip
from pipelines.generate import BlockTimes

SHOWN_S = 2.5
FRAMES_PER_PICTURE = 3  # of the clip: a strip of 8 pictures a second
MEL_FLOOR = 1e-2
DPI = 110
FINE_DPI = 200
MUTED = "#8a909c"
VIDEO, AUDIO = "#6366f1", "#0d9488"
LINES = (VIDEO, AUDIO, "#d97706", "#be185d", MUTED)

STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": MUTED,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "savefig.transparent": True,
}

Curve = Sequence[tuple[int, float]]


def clip_figure(clip: Clip, measures: ClipMeasures) -> Figure:
    """A clip's first seconds: frames, waveform and mel bands over one time axis.

    Lines mark the measured flashes on the waveform, and the beeps on the mel bands.
    """
    with mpl.rc_context(STYLE):
        # The heights make a picture of the strip as high as it is wide.
        figure = Figure(figsize=(10.4, 1.62), dpi=DPI)
        frames, wave, mel = figure.subplots(
            3, 1, sharex=True, height_ratios=(0.5, 0.38, 0.42), gridspec_kw={"hspace": 0.12}
        )
        _draw_frames(frames, clip.frames)
        _draw_waveform(wave, clip)
        _draw_mel(mel, clip)
        for time in measures.video_onsets_s:
            wave.axvline(time, color=VIDEO, linewidth=1.0)
        for time in measures.audio_onsets_s:
            mel.axvline(time, color="white", linewidth=1.0)
        mel.set_xlim(0, SHOWN_S)
        mel.set_xticks(np.arange(0, SHOWN_S + 0.01, 0.5))
        mel.tick_params(length=2)
        figure.subplots_adjust(left=0.045, right=0.985, top=0.99, bottom=0.13)
        return figure


def _draw_frames(axes: Axes, frames: NDArray[np.uint8]) -> None:
    step_s = FRAMES_PER_PICTURE / VIDEO_FPS
    for number, picture in enumerate(frames[: round(SHOWN_S * VIDEO_FPS) : FRAMES_PER_PICTURE]):
        start = number * step_s
        axes.imshow(picture, extent=(start, start + step_s * 0.96, 0, 1), aspect="auto")
    axes.set_ylim(0, 1)
    _hide_axes(axes, "picture")


def _draw_waveform(axes: Axes, clip: Clip) -> None:
    mono = clip.waveform.mean(axis=0)[: round(SHOWN_S * clip.sample_rate)]
    width = max(1, clip.sample_rate // 400)
    peaks = np.abs(mono[: len(mono) // width * width]).reshape(-1, width).max(axis=1)
    times = np.arange(len(peaks)) * width / clip.sample_rate
    axes.fill_between(times, -peaks, peaks, color=AUDIO, linewidth=0)
    axes.set_ylim(-1, 1)
    _hide_axes(axes, "wave")


def _draw_mel(axes: Axes, clip: Clip) -> None:
    mono = torch.from_numpy(clip.waveform.mean(axis=0, keepdims=True).astype(np.float32))
    bands = LogMel(MEL_FLOOR)(mono)[0, : round(SHOWN_S * MEL_FRAMES_PER_SECOND)].numpy().T
    extent = (0, bands.shape[1] / MEL_FRAMES_PER_SECOND, 0, BANDS)
    axes.imshow(bands, origin="lower", extent=extent, aspect="auto", cmap="magma")
    _hide_axes(axes, "mel")


def _hide_axes(axes: Axes, label: str) -> None:
    axes.set_yticks([])
    axes.tick_params(bottom=False)
    axes.set_ylabel(label, rotation=0, ha="right", va="center")
    for spine in axes.spines.values():
        spine.set_visible(False)


def loss_figure(curves: Mapping[str, Curve]) -> Figure:
    """Named losses over steps."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9, 1.9), dpi=DPI)
        axes = figure.subplots()
        for (name, curve), colour in zip(curves.items(), LINES, strict=False):
            steps, values = zip(*curve, strict=True)
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values, color=colour, linewidth=1.4, label=name, marker=marker)
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(
            frameon=False,
            fontsize=7,
            ncols=len(curves),
            loc="lower right",
            bbox_to_anchor=(1.0, 0.97),
            borderaxespad=0,
        )
        figure.subplots_adjust(left=0.11, right=0.98, top=0.87, bottom=0.2)
        return figure


def timeline_figure(blocks: Sequence[BlockTimes]) -> Figure:
    """Every block: while it was computed, when it was sent, when playback needs it.

    Playback is taken to begin when the first whole second is there.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.6 + 0.26 * len(blocks)), dpi=DPI)
        axes = figure.subplots()
        started = [block.sent_at_s for block in blocks if block.media_s < 1][-1]
        rows = [block.index for block in blocks]
        axes.barh(
            rows,
            [block.block_s for block in blocks],
            left=[block.computed_at_s - block.block_s for block in blocks],
            height=0.5,
            color=VIDEO,
            label="computing",
        )
        sent = [block.sent_at_s for block in blocks]
        needed = [started + block.media_s for block in blocks]
        axes.plot(sent, rows, "o", color=AUDIO, markersize=4, label="sent")
        axes.plot(needed, rows, "|", color=MUTED, markersize=9, label="needed by the player")
        axes.set_yticks(rows, [f"block {row}" for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("seconds since the request")
        axes.set_xlim(0, None)
        axes.grid(axis="x")
        axes.legend(frameon=False, fontsize=7, loc="upper right")
        figure.subplots_adjust(
            left=0.07, right=0.99, top=0.97, bottom=0.38 / figure.get_figheight()
        )
        return figure


def histogram_figure(
    edges: Sequence[float], counts: Sequence[int], median: float, unit: str
) -> Figure:
    """How many rows have which value, and a line at the median."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9, 1.9), dpi=FINE_DPI)
        axes = figure.subplots()
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.9, align="edge", color=AUDIO)
        axes.axvline(median, color=MUTED, linewidth=1.0, linestyle="--")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel(unit)
        axes.set_ylabel("rows")
        figure.subplots_adjust(left=0.11, right=0.98, top=0.95, bottom=0.22)
        return figure


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    with mpl.rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()
