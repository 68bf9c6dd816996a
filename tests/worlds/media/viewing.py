"""Clips whose pictures must be brought to what a viewer sees: fields, wide gamuts, tags left out.

All samples are computed here and only stored by ffmpeg, so that what they mean is known.
"""

from typing import NamedTuple

import numpy as np

from tests.worlds.media.ffmpeg import run_ffmpeg

FRAMES = 30
HEIGHT = 64
PATCH = 32
_FORMATS = {"mkv": "matroska", "ts": "mpegts"}
_SOUND = ("-f", "lavfi", "-i", "aevalsrc=0.3*sin(2000*t*t):s=48000")
_RED, _GREEN, _BLUE = 0, 1, 2
# Light of BT.709's red, green and blue in BT.2020's.
_TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
_LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


class Coding(NamedTuple):
    """How colours are coded: the matrix, bits of a sample, and the tags, as ffmpeg names them."""

    matrix: str
    bits: int = 8
    tags: str = ""


_WIDE = "color_primaries=bt2020:colorspace=bt2020nc"
PQ = Coding("bt2020", 10, f"{_WIDE}:color_trc=smpte2084")
HLG = Coding("bt2020", 10, f"{_WIDE}:color_trc=arib-std-b67")


def pq(nits):
    """The signal of SMPTE ST 2084 for light."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (np.asarray(nits) / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def in_2020(light):
    """Light of BT.709's primaries in those of BT.2020."""
    return _TO_2020 @ np.asarray(light, float)


def planes(signals, coding, height=HEIGHT, patch=PATCH):
    """Samples of a picture of upright patches, one of each R'G'B' signal: planar 4:2:0."""
    red_share, blue_share = _LUMA[coding.matrix]
    signals = np.asarray(signals, float)
    luma = signals @ (red_share, 1 - red_share - blue_share, blue_share)
    blue = (signals[:, _BLUE] - luma) / (2 * (1 - blue_share))
    red = (signals[:, _RED] - luma) / (2 * (1 - red_share))
    scale = 1 << coding.bits - 8
    kind = "<u2" if coding.bits > 8 else "u1"
    rows = [(16 + 219 * luma, patch, height)]
    rows += [(128 + 224 * part, patch // 2, height // 2) for part in (blue, red)]
    return b"".join(
        np.tile(np.repeat(np.rint(levels * scale), width), (lines, 1)).astype(kind).tobytes()
        for levels, width, lines in rows
    )


def write_patches(path, signals, coding, height=HEIGHT, patch=PATCH, video="libx265"):
    """A clip of upright patches of known colours; a black and a white one at the end change places
    from picture to picture, so that it is not frozen."""
    ends = ([[0.0] * 3, [0.5] * 3], [[0.5] * 3, [0.0] * 3])
    both = [planes([*signals, *end], coding, height, patch) for end in ends]
    pixels = "yuv420p10le" if coding.bits > 8 else "yuv420p"
    size = f"{patch * (len(signals) + 2)}x{height}"
    raw = ("-f", "rawvideo", "-pix_fmt", pixels, "-s", size, "-framerate", 24, "-i", "pipe:")
    # A filter, not options of the encoder: for those, newer versions convert the samples as well.
    tags = ("-vf", f"setparams={coding.tags}") if coding.tags else ()
    codec = ("-c:v", video, "-preset", "ultrafast", *tags, "-c:a", "aac", "-shortest")
    form = _FORMATS.get(path.suffix[1:], path.suffix[1:])
    feed = b"".join(both[number % 2] for number in range(FRAMES))
    run_ffmpeg(*raw, *_SOUND, *codec, "-f", form, path, feed=feed)
    return path


def patches_in(frame, count):
    """The mean colour of the middle of each of the first `count` patches: (count, 3)."""
    height, width = frame.shape[:2]
    patch = width // (count + 2)
    middle = frame[height // 4 : -height // 4]
    starts = [number * patch + patch // 4 for number in range(count)]
    return np.array([middle[:, begin : begin + patch // 2].mean(axis=(0, 1)) for begin in starts])


def moving_bar(number, width, height):
    """A white bar on black, 8 pixels further to the right in each picture."""
    picture = np.full((height, width), 16, np.uint8)
    begin = number * 8 % (width - 16)
    picture[:, begin : begin + 16] = 235
    return picture


def write_interlaced(path, video, width=128, height=96):
    """25 pictures a second of two fields each, the upper one first, between which a bar moves."""
    pictures = []
    for number in range(FRAMES):
        picture = moving_bar(2 * number, width, height)
        picture[1::2] = moving_bar(2 * number + 1, width, height)[1::2]
        pictures.append(picture.tobytes() + bytes([128]) * (width * height // 2))
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-framerate", 25)
    fields = ("-vf", "setfield=tff", "-flags", "+ilme+ildct")
    codec = ("-c:v", video, "-b:v", "3M", "-bf", 0, "-c:a", "aac", "-shortest")
    form = _FORMATS.get(path.suffix[1:], path.suffix[1:])
    run_ffmpeg(
        *raw, "-i", "pipe:", *_SOUND, *fields, *codec, "-f", form, path, feed=b"".join(pictures)
    )
    return path


def comb_energy(frame):
    """How much a line differs from the mean of its neighbours, squared: (height, width, 3)."""
    grey = frame.mean(axis=2)
    return float(np.mean((grey[1:-1] - (grey[:-2] + grey[2:]) / 2) ** 2))
