"""A decoded picture as a viewer sees it: RGB, upright, square pixels, scaled to cover, cropped."""

import math
import struct
from contextlib import nullcontext
from fractions import Fraction
from typing import Any, NamedTuple

from av.filter import Graph

from infra.media.child.colours import needs_table, table_file

RGB = 3
_LONGEST_SIDE = 16_384
# Spelled out, so that bits depend on the processor as little as can be.
_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
# From there on what has no colour tag is BT.709, as players take it.
_HD_LINES, _HD_WIDTH = 720, 1280
# Numbers of ITU-T H.273 to names of the scale filter's.
_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
_MATRIX_BYTES = 36


class Turn(NamedTuple):
    """How a stored picture is turned to be upright; filters in order."""

    filters: tuple[str, ...]
    swaps_sides: bool


def turn_of(frame: Any) -> Turn:
    """The turn that the display matrix of a picture asks for: in quarters, mirrored or not."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < _MATRIX_BYTES:
        return Turn((), False)
    matrix = struct.unpack("<9i", bytes(data)[:_MATRIX_BYTES])
    across, down = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not across or not down:
        return Turn((), False)
    degrees = round(math.degrees(math.atan2(matrix[1] / down, matrix[0] / across))) % 360
    if abs(degrees - 90) <= 1:
        return Turn(("transpose=" + ("cclock_flip" if matrix[3] > 0 else "clock"),), True)
    if abs(degrees - 180) <= 1:
        flips = ("hflip",) if matrix[0] < 0 else ()
        return Turn((*flips, *(("vflip",) if matrix[4] < 0 else ())), False)
    if abs(degrees - 270) <= 1:
        return Turn(("transpose=" + ("clock_flip" if matrix[3] < 0 else "cclock"),), True)
    return Turn(("vflip",) if matrix[4] < 0 else (), False)


def shown_aspect(frame: Any, stream: Any) -> float:
    """Width over height of a picture as a viewer sees it."""
    shape = Fraction(frame.width, frame.height) * (stream.sample_aspect_ratio or 1)
    return float(1 / shape if turn_of(frame).swaps_sides else shape)


class Scaler:
    """Scales pictures of one stream to (height, width) RGB."""

    def __init__(self, stream: Any, height: int, width: int) -> None:
        self._stream = stream
        self._height, self._width = height, width
        self._graph: Any = None
        self._made_for: tuple[Any, ...] = ()

    def rgb(self, frame: Any) -> bytes:
        """The bytes of a picture, (height, width, 3)."""
        kind = (frame.width, frame.height, frame.format.name, *_colours(frame), turn_of(frame))
        if kind != self._made_for:
            self._graph, self._made_for = self._make_graph(frame), kind
        frame.pts = None
        self._graph.push(frame)
        plane = self._graph.pull().planes[0]
        pixels, row = memoryview(plane), self._width * RGB
        if plane.line_size == row:
            return bytes(pixels[: row * self._height])
        starts = range(0, plane.line_size * self._height, plane.line_size)
        return b"".join(pixels[start : start + row] for start in starts)

    def _make_graph(self, frame: Any) -> Any:
        matrix, transfer, primaries, levels = _colours(frame)
        turn, aspect = turn_of(frame), shown_aspect(frame, self._stream)
        wide = min(_LONGEST_SIDE, max(self._width, math.ceil(self._height * aspect - 1e-9)))
        high = min(_LONGEST_SIDE, max(self._height, math.ceil(self._width / aspect - 1e-9)))
        size = f"{high}:{wide}" if turn.swaps_sides else f"{wide}:{high}"
        has_table = needs_table(transfer, primaries)
        steps = [f"scale={size}:flags={_FLAGS}:out_range=full{_input_matrix(frame, matrix)}"]
        with table_file(transfer, primaries) if has_table else nullcontext() as table:
            if table:
                name = table.replace("\\", "\\\\").replace(":", "\\:")
                steps += ["format=rgb48le", f"lut3d=file={name}:interp=tetrahedral"]
                steps += [f"scale=flags={_FLAGS}"]
            steps += ["format=rgb24", *turn.filters, f"crop={self._width}:{self._height}"]
            return make_graph(frame, f"colorspace={matrix}:range={levels}", steps)


def make_graph(frame: Any, properties: str, steps: list[str]) -> Any:
    """A chain of filters for pictures like `frame`."""
    graph = Graph()
    graph.threads = 1
    size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
    time_base = frame.time_base or Fraction(1, 1000)
    arguments = f"{size}:time_base={time_base.numerator}/{time_base.denominator}:{properties}"
    nodes = [graph.add("buffer", arguments)]
    for step in steps:
        name, _, options = step.partition("=")
        nodes.append(graph.add(name, options or None))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


def _colours(frame: Any) -> tuple[int, int, int, int]:
    """Matrix, transfer function and primaries by their numbers, and the range of levels."""
    return (
        int(frame.colorspace),
        int(frame.color_trc),
        int(frame.color_primaries),
        int(frame.color_range),
    )


def _input_matrix(frame: Any, matrix: int) -> str:
    if frame.format.is_rgb:
        return ""
    is_hd = frame.height >= _HD_LINES or frame.width >= _HD_WIDTH
    return f":in_color_matrix={_MATRICES.get(matrix, 'bt709' if is_hd else 'bt601')}"
