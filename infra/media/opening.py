"""First looks at an untrusted file, in a child of limited time and memory.

`infra.media.files.probe` reads headers in this process, which a file made for it could exhaust or
bring down: `check_opens` comes before the first one.
"""

from pathlib import Path

from infra.errors import MediaError
from infra.media.files import ClipProbe, clip_input, decode_command
from infra.media.limits import ChildLimits, decoded_pieces

_METADATA_BYTES = 1 << 20
_OPEN_MEMORY_MB = 2048
# A picture is scaled to this height, and to this width times its aspect: its pixels are counted.
_SAMPLE_HEIGHT = 2
_SAMPLE_WIDTH = 1000
_WIDEST = 16


def check_opens(path: Path, timeout_s: float = 30.0) -> None:
    """Open a clip; MediaError unless it ends well."""
    limits = ChildLimits(timeout_s, _METADATA_BYTES, _OPEN_MEMORY_MB)
    for _ in decoded_pieces(decode_command(clip_input(path), format="ffmetadata"), path, limits):
        pass


def displayed_aspect(path: Path, clip: ClipProbe, timeout_s: float = 30.0) -> float:
    """Width over height of the first picture as a viewer sees it: upright, its pixels square.

    Headers hold the stored size; rotation and the shape of pixels are ffmpeg's to apply. MediaError
    if there is no picture.
    """
    wide = f"max(1,min({_WIDEST * _SAMPLE_WIDTH},round({_SAMPLE_WIDTH}*dar)))"
    stream = clip_input(path)[str(clip.video_track)]
    stream = stream.filter("scale", wide, _SAMPLE_HEIGHT, flags="neighbor")
    gray = {"format": "rawvideo", "pix_fmt": "gray", "frames:v": 1}
    limits = ChildLimits(timeout_s, _WIDEST * _SAMPLE_WIDTH * _SAMPLE_HEIGHT)
    pixels = sum(
        len(piece) for piece in decoded_pieces(decode_command(stream, **gray), path, limits)
    )
    if not pixels:
        raise MediaError(f"expected a picture in {path}, got none; the file is damaged, drop it")
    return pixels / (_SAMPLE_HEIGHT * _SAMPLE_WIDTH)
