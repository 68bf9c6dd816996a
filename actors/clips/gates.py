"""The gates of a dataset: what a clip and its windows must be like, as one table.

What a gate looks at is measured once and kept in the commit log; whether it passes is decided anew
by each run, so no gate is part of any key, and a changed one measures and encodes nothing again.
Stages decide too, as soon as they have measured: what is refused is not worked on any further.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.config import DataConfig
from infra.dataset.columns import Column
from infra.dataset.reasons import Reason
from omniforcing_model.latent_clock import frames_for_seconds

# Clips are cut by people and programs who round.
ROUNDING_S = 0.01
# A clip of 5.0 s at 24 fps holds 120 frames, and the clip we train on 121: one may be repeated.
REPEATABLE_FRAMES = 1
_MB = 1_000_000

# The limit of each gate, by its setting.
Limits = dict[str, float]


class Gate(NamedTuple):
    """What `column` must be: `at least` or `at most` the limit called `setting`.

    `expected` is the sentence for what is refused, with {limit} and {got}, which is rounded to
    `digits`; `unit`: of the column, in units of the limit; `slack`: by which it may be missed.
    A value that was not measured (NaN or null) passes.
    """

    reason: Reason
    column: str
    side: Literal["at least", "at most"]
    setting: str
    expected: str
    digits: int = 0
    unit: float = 1.0
    slack: float = 0.0


def _length(column: str) -> tuple[Gate, Gate]:
    """Of clips; by the header, so that a long one is not read on, then by its packets."""
    return (
        Gate(
            Reason.TOO_SHORT,
            column,
            "at least",
            "seconds",
            "expected at least {limit} s, got {got} s",
            digits=2,
            slack=ROUNDING_S,
        ),
        Gate(
            Reason.TOO_LONG,
            column,
            "at most",
            "max_seconds",
            "expected at most {limit} s, got {got} s",
            digits=2,
        ),
    )


# What the listing knows.
FILE_GATES = (
    Gate(
        Reason.TOO_LARGE,
        Column.CLIP_BYTES,
        "at most",
        "max_file_mb",
        "expected at most {limit} MB, got {got} MB",
        digits=3,
        unit=_MB,
    ),
)
HEADER_GATES = (
    Gate(
        Reason.TOO_MANY_PIXELS,
        Column.SOURCE_PIXELS,
        "at most",
        "max_source_pixels",
        "expected at most {limit} pixels, got {got}",
    ),
    Gate(
        Reason.LOW_RESOLUTION,
        Column.SOURCE_HEIGHT,
        "at least",
        "min_height",
        "expected pictures of a height of at least {limit}, got {got}",
    ),
    Gate(
        Reason.LOW_RESOLUTION,
        Column.SOURCE_WIDTH,
        "at least",
        "min_width",
        "expected pictures of a width of at least {limit}, got {got}",
    ),
    *_length(Column.HEADER_S),
)
# What is certain only once all packets were read.
PACKET_GATES = (
    *_length(Column.PICTURE_S),
    Gate(
        Reason.NO_AUDIO,
        Column.SOUND_TRACKS,
        "at least",
        "one",
        "expected a sound track, got none",
    ),
    Gate(
        Reason.VARIABLE_FRAME_RATE,
        Column.PICTURE_JITTER,
        "at most",
        "max_frame_jitter",
        "expected frames of one spacing within {limit} of it, got {got}",
        digits=2,
    ),
)
CUT_GATES = (
    Gate(
        Reason.NO_WHOLE_SHOT,
        Column.WINDOW_COUNT,
        "at least",
        "one",
        "expected a shot of data.seconds or more, got none",
    ),
)
CLIP_GATES = (*FILE_GATES, *HEADER_GATES, *PACKET_GATES, *CUT_GATES)
# What is known of a row before it is decoded.
ROW_GATES = (
    Gate(
        Reason.CAPTION_TOO_LONG,
        Column.CAPTION_CHARS,
        "at most",
        "max_caption_chars",
        "expected at most {limit} characters of caption, got {got}",
    ),
    Gate(
        Reason.SOUND_MISSING,
        Column.SOUND_MISSING_S,
        "at most",
        "max_missing_sound_s",
        "expected sound in the window but for {limit} s, got {got} s without: the sound track"
        " begins later or ends before",
        digits=2,
    ),
)
SIGNAL_GATES = (
    Gate(
        Reason.TOO_SHORT,
        Column.DECODED_FRAMES,
        "at least",
        "whole_window",
        "expected {limit} frames at 24 fps, got {got}",
        slack=REPEATABLE_FRAMES,
    ),
    Gate(
        Reason.SILENCE,
        Column.RMS_DBFS,
        "at least",
        "silence_dbfs",
        "expected sound above {limit} dBFS, got {got} dBFS",
    ),
    Gate(
        Reason.CLIPPING,
        Column.CLIPPED_SHARE,
        "at most",
        "max_clipped_share",
        "expected at most {limit} of samples at full scale, got {got}",
        digits=3,
    ),
    Gate(
        Reason.FROZEN_PICTURE,
        Column.FROZEN_SHARE,
        "at most",
        "max_frozen_share",
        "expected at most {limit} of frames to repeat the one before, got {got}",
        digits=3,
    ),
)
GATES = (*CLIP_GATES, *ROW_GATES, *SIGNAL_GATES)


class Refusal(NamedTuple):
    """Why a gate refuses a clip or a window."""

    reason: str
    sentence: str


def limits_of(data: DataConfig) -> Limits:
    """The limit of every gate."""
    own = {"one": 1.0, "seconds": data.seconds, "whole_window": frames_for_seconds(data.seconds)}
    settings = {gate.setting for gate in GATES}
    return own | {name: data.gates.limit(name) for name in sorted(settings - own.keys())}


def refused(rows: pa.Table, gates: Sequence[Gate], limits: Limits) -> tuple[Any, Any]:
    """Reason and sentence of each row that one of `gates` refuses, the first of them; else nulls.

    rows: with the gates' columns.
    """
    nothing = pa.nulls(rows.num_rows, pa.string())
    reasons, sentences = nothing, nothing
    for gate in reversed(gates):
        limit = limits[gate.setting]
        fails = _fails(rows[gate.column], gate, limit)
        reasons = pc.if_else(fails, pa.scalar(gate.reason.value, pa.string()), reasons)
        sentences = pc.if_else(fails, _sentences(rows[gate.column], gate, limit), sentences)
    return reasons, sentences


def refusal(measures: Mapping[str, float], gates: Sequence[Gate], limits: Limits) -> Refusal | None:
    """Of one clip or window: why the first of `gates` that refuses it does so, None if none."""
    names = {gate.column for gate in gates}
    row = pa.table({name: pa.array([measures[name]], pa.float64()) for name in names})
    reasons, sentences = (column.to_pylist()[0] for column in refused(row, gates, limits))
    return None if reasons is None else Refusal(reasons, sentences)


def sound_missing_s(start_s: Any, seconds: float, sound_start_s: Any, sound_end_s: Any) -> Any:
    """How much of windows of `seconds` from `start_s` on has no sound track; arrays or numbers."""
    late_s = np.clip(np.subtract(sound_start_s, start_s), 0.0, seconds)
    early_s = np.clip(np.add(start_s, seconds) - sound_end_s, 0.0, seconds)
    return np.minimum(late_s + early_s, seconds)


def _fails(values: Any, gate: Gate, limit: float) -> Any:
    scaled = pc.divide(pc.cast(values, pa.float64()), gate.unit)
    if gate.side == "at most":
        fails = pc.greater(scaled, limit + gate.slack)
    else:
        fails = pc.less(scaled, limit - gate.slack)
    return pc.fill_null(fails, False)


def _sentences(values: Any, gate: Gate, limit: float) -> Any:
    before, _, after = gate.expected.replace("{limit}", _plain(limit)).partition("{got}")
    if not after and before == gate.expected:
        return before
    got = pc.round(pc.divide(pc.cast(values, pa.float64()), gate.unit), gate.digits)
    return pc.binary_join_element_wise(before, pc.cast(got, pa.string()), after, "")


def _plain(limit: float) -> str:
    return f"{limit:.0f}" if float(limit).is_integer() else f"{limit:g}"
