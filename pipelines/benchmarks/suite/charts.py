"""Charts as plain shapes, to be drawn as SVG by a template: block times, first seconds, a roofline.

Coordinates are in pixels from the upper left. A class of a shape names its colour, which the page
gives for light and for dark.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

WIDTH = 1020.0
LEFT, RIGHT, TOP, BOTTOM = 92.0, 8.0, 10.0, 30.0
GAP = 0.25  # of a bar's place
MOST_TICKS = 5
MOST_NUMBERS = 16
MS = 1e3
SECONDS_FROM = 2.0

Anchor = Literal["start", "middle", "end"]


class Box(NamedTuple):
    """A filled rectangle; `note` is shown to whoever points at it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    note: str


class Line(NamedTuple):
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


class Dot(NamedTuple):
    """A point of a plot."""

    x: float
    y: float
    kind: str
    note: str


class Words(NamedTuple):
    """A text; `y` is its base line."""

    x: float
    y: float
    text: str
    anchor: Anchor


class Chart(NamedTuple):
    """A picture; `text` is for those who do not see it, `legend` its kinds by name."""

    width: float
    height: float
    text: str
    boxes: list[Box]
    lines: list[Line]
    dots: list[Dot]
    words: list[Words]
    legend: list[tuple[str, str]]


def block_chart(
    parts: Mapping[str, Sequence[float]], levels: Mapping[str, float], height: float = 190.0
) -> Chart:
    """Seconds of each block as a bar of its parts, from below, and named levels as lines.

    `parts` are kinds by name, a value per block each.
    """
    sums = [sum(values) for values in zip(*parts.values(), strict=True)]
    top: float = max([*sums, *levels.values()]) * 1.05
    plot = height - TOP - BOTTOM
    place = (WIDTH - LEFT - RIGHT) / len(sums)

    def y_of(seconds: float) -> float:
        return TOP + plot * (1.0 - seconds / top)

    boxes = []
    for index in range(len(sums)):
        below = 0.0
        for kind, values in parts.items():
            above = below + values[index]
            boxes.append(
                Box(
                    LEFT + place * (index + GAP / 2),
                    y_of(above),
                    place * (1 - GAP),
                    y_of(below) - y_of(above),
                    kind,
                    f"block {index}: {kind} {values[index] * MS:,.1f} ms",
                )
            )
            below = above
    ticks = nice_ticks(top * MS)
    lines = [Line(LEFT, y_of(t / MS), WIDTH - RIGHT, y_of(t / MS), "grid") for t in ticks]
    lines += [Line(LEFT, y_of(s), WIDTH - RIGHT, y_of(s), "level") for s in levels.values()]
    words = [Words(LEFT - 6, y_of(t / MS) + 4, in_time(t, top), "end") for t in ticks]
    every = math.ceil(len(sums) / MOST_NUMBERS)
    words += [
        Words(LEFT + place * (index + 0.5), height - 12, str(index), "middle")
        for index in range(0, len(sums), every)
    ]
    return Chart(
        WIDTH,
        height,
        f"{len(sums)} blocks, at most {max(sums) * MS:,.1f} ms",
        boxes,
        lines,
        [],
        words,
        [(kind, kind) for kind in parts],
    )


def pair_chart(series: Mapping[str, Sequence[float]]) -> Chart:
    """Seconds of each block in several ways, as bars side by side."""
    height = 170.0
    top: float = max(max(values) for values in series.values()) * 1.05
    plot = height - TOP - BOTTOM
    blocks = len(next(iter(series.values())))
    place = (WIDTH - LEFT - RIGHT) / blocks
    bar = place * (1 - GAP) / len(series)
    boxes = [
        Box(
            LEFT + place * (index + GAP / 2) + bar * number,
            TOP + plot * (1.0 - seconds / top),
            bar * 0.94,
            plot * seconds / top,
            f"part{number}",
            f"block {index}, {name}: {seconds * MS:,.1f} ms",
        )
        for number, (name, values) in enumerate(series.items())
        for index, seconds in enumerate(values)
    ]
    ticks = [(TOP + plot * (1.0 - t / MS / top), t) for t in nice_ticks(top * MS)]
    words = [Words(LEFT - 6, y + 4, in_time(t, top), "end") for y, t in ticks]
    words += [
        Words(LEFT + place * (index + 0.5), height - 12, str(index), "middle")
        for index in range(0, blocks, math.ceil(blocks / MOST_NUMBERS))
    ]
    return Chart(
        WIDTH,
        height,
        f"{blocks} blocks, {' and '.join(series)}",
        boxes,
        [Line(LEFT, y, WIDTH - RIGHT, y, "grid") for y, _ in ticks],
        [],
        words,
        [(f"part{number}", name) for number, name in enumerate(series)],
    )


def kinds_chart(counts: Mapping[str, int]) -> Chart:
    """Counts by kind, as parts of one bar."""
    height, bar = 44.0, 24.0
    whole = sum(counts.values()) or 1
    boxes, x = [], 0.0
    kinds = {name: f"part{number % 10}" for number, name in enumerate(counts)}
    for name, count in counts.items():
        width = WIDTH * count / whole
        boxes.append(Box(x, TOP, width, bar, kinds[name], f"{name}: {count:,}"))
        x += width
    legend = [(kind, f"{name} {counts[name]:,}") for name, kind in kinds.items()]
    return Chart(WIDTH, height, f"{whole:,} in {len(counts)} kinds", boxes, [], [], [], legend)


def first_second_chart(firsts: Mapping[str, Mapping[str, float]]) -> Chart:
    """A bar per stream, of the parts of its first second in order."""
    row, bar = 34.0, 20.0
    height = TOP + row * len(firsts) + BOTTOM - 8
    longest = max(sum(parts.values()) for parts in firsts.values())
    scale = (WIDTH - LEFT - RIGHT) / (longest * 1.02)
    names = list(dict.fromkeys(name for parts in firsts.values() for name in parts))
    kinds = {name: f"part{number % 10}" for number, name in enumerate(names)}
    boxes, words = [], []
    for number, (label, parts) in enumerate(firsts.items()):
        y, x = TOP + row * number, LEFT
        words.append(Words(LEFT - 6, y + bar * 0.72, label, "end"))
        for name, seconds in parts.items():
            note = f"{label}: {name} {seconds * MS:,.1f} ms"
            boxes.append(Box(x, y, scale * max(0.0, seconds), bar, kinds[name], note))
            x += scale * max(0.0, seconds)
    ticks = nice_ticks(longest * MS)
    floor = TOP + row * len(firsts)
    lines = [Line(LEFT + scale * t / MS, TOP, LEFT + scale * t / MS, floor, "grid") for t in ticks]
    words += [
        Words(LEFT + scale * t / MS, height - 6, in_time(t, longest), "middle") for t in ticks
    ]
    text = ", ".join(
        f"{label} {sum(parts.values()) * MS:,.0f} ms" for label, parts in firsts.items()
    )
    return Chart(
        WIDTH, height, text, boxes, lines, [], words, [(kinds[name], name) for name in names]
    )


def roofline_chart(
    points: Mapping[str, tuple[float, float]], peak: float, bandwidth: float, ridge: float
) -> Chart:
    """Operations a second over operations per byte, both logarithmic, below the machine's limits.

    Args:
        points: (operations per byte, operations a second) by name.
        peak: operations a second of one large product.
        bandwidth: bytes a second.
        ridge: operations per byte from which on products are the limit.
    """
    height = 260.0
    intensities = [x for x, _ in points.values()]
    left, right = min(*intensities, ridge) / 8, max(*intensities, ridge) * 4
    low = min([bandwidth * left, *(y for _, y in points.values())]) / 1.5
    high = peak * 2

    def x_of(intensity: float) -> float:
        share = math.log(intensity / left) / math.log(right / left)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y_of(rate: float) -> float:
        share = math.log(rate / low) / math.log(high / low)
        return TOP + (height - TOP - BOTTOM) * (1 - share)

    corner = Line(x_of(ridge), y_of(peak), x_of(right), y_of(peak), "roof")
    slope = Line(x_of(left), y_of(bandwidth * left), corner.x1, corner.y1, "roof")
    lines, words = [], []
    for power in _powers(low, high):
        lines.append(Line(LEFT, y_of(power), WIDTH - RIGHT, y_of(power), "grid"))
        words.append(Words(LEFT - 6, y_of(power) + 4, f"{si(power)}FLOP/s", "end"))
    for power in _powers(left, right):
        lines.append(Line(x_of(power), TOP, x_of(power), height - BOTTOM, "grid"))
        words.append(Words(x_of(power), height - 12, f"{power:,g} FLOP/byte", "middle"))
    words.append(Words(corner.x2 - 4, corner.y2 - 6, "one large product", "end"))
    words.append(Words(slope.x1 + 8, slope.y1 - 18, "memory", "start"))
    dots = [
        Dot(x_of(x), y_of(y), f"part{number % 10}", f"{name}: {si(y)}FLOP/s")
        for number, (name, (x, y)) in enumerate(points.items())
    ]
    text = "; ".join(dot.note for dot in dots)
    legend = [(dot.kind, name) for dot, name in zip(dots, points, strict=True)]
    return Chart(WIDTH, height, text, [], [*lines, slope, corner], dots, words, legend)


def nice_ticks(top: float) -> list[float]:
    """At most five round values from 0 on, up to `top`."""
    rough = top / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    return [step * number for number in range(int(top / step) + 1)]


def in_time(milliseconds: float, longest_s: float) -> str:
    """A round time with the unit of an axis that long."""
    if longest_s >= SECONDS_FROM:
        return f"{milliseconds / MS:,g} s"
    return f"{milliseconds:,g} ms"


def _powers(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    return [10.0**exponent for exponent in range(first, last + 1)]


def si(value: float) -> str:
    """Three digits and a letter of the international system, to be followed by a unit."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g} {letter}"
    return f"{value:,.3g} "
