"""First looks at a stranger's file, in a child of limited time and memory.

`infra.media.files.probe` reads headers in this process, which a file made for it could exhaust or
bring down: `check_opens` comes before the first one.
"""

from pathlib import Path

from infra.errors import MediaError
from infra.media.files import ClipProbe, clip_input, decode_command
from infra.media.limits import ChildLimits, decoded_pieces

_METADATA_BYTES = 1 << 20
_OPEN_MEMORY_MB = 2048
# A picture squeezed to this height, and so many pixels wide as its shape says, tells its shape.
_TOLD_HEIGHT = 2
_TOLD_WIDTH = 1000
_WIDEST = 16


def check_opens(path: Path, timeout_s: float = 30.0) -> None:
    """Open a clip; MediaError unless it ends well."""
    limits = ChildLimits(timeout_s, _METADATA_BYTES, _OPEN_MEMORY_MB)
    for _ in decoded_pieces(decode_command(clip_input(path), format="ffmetadata"), path, limits):
        pass


def shape_seen(path: Path, found: ClipProbe, timeout_s: float = 30.0) -> float:
    """Width over height of the first picture as a viewer sees it: upright, its pixels square.

    Headers hold the stored size; rotation and the shape of pixels are ffmpeg's to apply. MediaError
    if there is no picture.
    """
    wide = f"max(1,min({_WIDEST * _TOLD_WIDTH},round({_TOLD_WIDTH}*dar)))"
    stream = clip_input(path)[str(found.video_track)]
    stream = stream.filter("scale", wide, _TOLD_HEIGHT, flags="neighbor")
    gray = {"format": "rawvideo", "pix_fmt": "gray", "frames:v": 1}
    limits = ChildLimits(timeout_s, _WIDEST * _TOLD_WIDTH * _TOLD_HEIGHT)
    told = sum(len(piece) for piece in decoded_pieces(decode_command(stream, **gray), path, limits))
    if not told:
        raise MediaError(f"expected a picture in {path}, got none; the file is damaged, drop it")
    return told / (_TOLD_HEIGHT * _TOLD_WIDTH)
