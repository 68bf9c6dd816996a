"""Clips changed below what ffmpeg's options say: packets left out, boxes of MP4 rewritten."""

import struct

import av
import numpy as np

_MOVIE_SCALE = 1000


def without_sound_packets(source, target, lost, **options):
    """Copy all packets but these of the sound, numbered from 0; times stay as they are."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        tracks = {track: new.add_stream_from_template(track) for track in old.streams}
        heard = 0
        for packet in old.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio":
                heard += 1
                if heard - 1 in lost:
                    continue
            packet.stream = tracks[packet.stream]
            new.mux(packet)
    return target


def boxes(content, name):
    """Where the bodies of an MP4's boxes of this name begin."""
    place = content.find(name)
    while place >= 0:
        yield place + len(name)
        place = content.find(name, place + 1)


def beginning_later(path, seconds, scales):
    """Let the edit lists of an MP4 begin later, as a cut without decoding does.

    scales: ticks in a second of its tracks, in their order.
    """
    content = bytearray(path.read_bytes())
    for body, scale in zip(boxes(content, b"elst"), scales, strict=True):
        count, length, begin = struct.unpack_from(">III", content, body + 4)
        assert count == 1
        cut = (length - round(seconds * _MOVIE_SCALE), begin + round(seconds * scale))
        struct.pack_into(">II", content, body + 8, *cut)
    path.write_bytes(content)


def with_a_wrong_index(source, target):
    """An MP4 whose last track says of other samples than its own where they lie."""
    content = bytearray(source.read_bytes())
    *_, body = boxes(content, b"stsc")
    content[body + 15] ^= 64  # samples in each piece of the file
    target.write_bytes(content)
    return target


def turned(path, degrees):
    """Let an MP4's picture be shown turned by so many degrees, counter-clockwise."""
    content = bytearray(path.read_bytes())
    cosine, sine = (round(part(np.deg2rad(degrees))) << 16 for part in (np.cos, np.sin))
    for body in boxes(content, b"tkhd"):
        matrix = body + 40
        if struct.unpack_from(">II", content, matrix + 36) != (0, 0):  # a picture has a size
            struct.pack_into(
                ">9i", content, matrix, cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30
            )
    path.write_bytes(content)
