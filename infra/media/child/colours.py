"""Colours of high dynamic range, or of wide gamut, as they look on a BT.709 screen.

A table of three dimensions maps R'G'B' of a source to R'G'B' of BT.709: transfer function to light,
primaries, highlights rolled off, transfer function back. Reference white of a picture of high
dynamic range is 203 cd/m2 (ITU-R BT.2408); light above it is rolled off, not cut.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from tempfile import NamedTemporaryFile

# Numbers of ITU-T H.273.
PQ, HLG = 16, 18
BT2020 = 9
_REFERENCE_WHITE_NITS = 203.0
_PQ_PEAK_NITS = 10_000.0
# What most is mastered for; light above it is white.
_PEAK_NITS = 1_000.0
_PEAK = _PEAK_NITS / _REFERENCE_WHITE_NITS
# Light up to here is kept (1: reference white), above it rolled off towards the peak.
_KNEE = 0.7
_HLG_SYSTEM_GAMMA = 1.2
# BT.1886 on an ideal screen.
_SCREEN_GAMMA = 2.4
_SIDE = 33

# From the primaries of BT.2020 to those of BT.709 (ITU-R BT.2087).
_TO_BT709 = (
    (1.6605, -0.5876, -0.0728),
    (-0.1246, 1.1329, -0.0083),
    (-0.0182, -0.1006, 1.1187),
)
_LUMA_2020 = (0.2627, 0.6780, 0.0593)


def needs_table(transfer: int, primaries: int) -> bool:
    """Whether a screen for BT.709 would show these colours wrong."""
    return transfer in (PQ, HLG) or primaries == BT2020


@contextmanager
def table_file(transfer: int, primaries: int) -> Iterator[str]:
    """The path of a table as FFmpeg's lut3d reads it, by the end of its name; then it is gone."""
    with NamedTemporaryFile("w", suffix=".cube") as file:
        file.write(_table(transfer, primaries))
        file.flush()
        yield file.name


@cache
def _table(transfer: int, primaries: int) -> str:
    lines = [f"LUT_3D_SIZE {_SIDE}"]
    light = [_light(step / (_SIDE - 1), transfer) for step in range(_SIDE)]
    is_wide = primaries == BT2020
    for blue in light:
        for green in light:
            for red in light:
                r, g, b = shown_colour((red, green, blue), transfer, is_wide)
                lines.append(f"{r:.5f} {g:.5f} {b:.5f}")
    return "\n".join(lines) + "\n"


def _light(signal: float, transfer: int) -> float:
    """Light of a signal in [0, 1]; 1 is reference white. Of HLG: of the scene, in [0, 1]."""
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        power = math.pow(signal, 1 / m2)
        share = math.pow(max(power - c1, 0.0) / (c2 - c3 * power), 1 / m1)
        return _PQ_PEAK_NITS * share / _REFERENCE_WHITE_NITS
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        if signal <= 0.5:
            return signal * signal / 3
        return (math.exp((signal - c) / a) + b) / 12
    return math.pow(signal, _SCREEN_GAMMA)


def shown_colour(
    light: tuple[float, float, float], transfer: int, is_wide: bool
) -> tuple[float, float, float]:
    """R'G'B' of BT.709 in [0, 1] for the light of a source's red, green and blue."""
    if transfer == HLG:
        luma = sum(w * v for w, v in zip(_LUMA_2020, light, strict=True))
        gain = _PEAK * luma ** (_HLG_SYSTEM_GAMMA - 1) if luma > 0 else 0.0
        light = (light[0] * gain, light[1] * gain, light[2] * gain)
    if is_wide:
        r, g, b = (sum(w * v for w, v in zip(row, light, strict=True)) for row in _TO_BT709)
        light = (r, g, b)
    r, g, b = (max(value, 0.0) for value in light)
    if transfer in (PQ, HLG):
        brightest = max(r, g, b)
        scale = _rolled_off(brightest) / brightest if brightest > 0 else 0.0
        r, g, b = r * scale, g * scale, b * scale
    r, g, b = (math.pow(min(value, 1.0), 1 / _SCREEN_GAMMA) for value in (r, g, b))
    return r, g, b


def _rolled_off(light: float) -> float:
    """The light of a screen whose peak is reference white: smooth from the knee on."""
    if light <= _KNEE:
        return light
    room, excess = 1 - _KNEE, (light - _KNEE) / (1 - _KNEE)
    most = (_PEAK - _KNEE) / (1 - _KNEE)
    # Reinhard's curve, with slope 1 at the knee and exactly 1 at the peak.
    shown = excess * (1 + excess / (most * most)) / (1 + excess) if excess < most else 1.0
    return _KNEE + room * min(shown, 1.0)
