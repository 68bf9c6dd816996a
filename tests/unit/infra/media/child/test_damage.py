"""Checks of what files say twice: checksums of Matroska, headers of MPEG-TS."""

import struct
import zlib
from types import SimpleNamespace

import pytest
from av import logging

from infra.media.child.damage import Damage, FileChecks

TRACK = 0x100


def element(identity, body):
    return identity + (1 << 56 | len(body)).to_bytes(8, "big") + body


def cluster(body, checksum=None):
    value = zlib.crc32(body) if checksum is None else checksum
    return element(b"\x1f\x43\xb6\x75", b"\xbf\x84" + struct.pack("<I", value) + body)


def checked(path, container, first, last):
    damage = Damage([])
    tracks = (SimpleNamespace(id=TRACK), None)
    named = SimpleNamespace(format=SimpleNamespace(name=container))
    FileChecks(named, str(path), tracks).check(first, last, damage)
    return damage.sentence


def matroska(path, *clusters):
    path.write_bytes(
        element(b"\x1a\x45\xdf\xa3", b"head") + element(b"\x18\x53\x80\x67", b"".join(clusters))
    )
    return path


def test_a_cluster_with_its_checksum_is_whole(tmp_path):
    path = matroska(tmp_path / "a.mkv", cluster(b"one"), cluster(b"two"))
    assert checked(path, "matroska,webm", 0, path.stat().st_size) == ""


def test_a_changed_byte_in_a_cluster_is_found_where_its_packets_are_used(tmp_path):
    good, bad = cluster(b"one"), cluster(b"two", checksum=1)
    path = matroska(tmp_path / "a.mkv", good, bad, good)
    begin = path.read_bytes().index(bad)
    expected = "a checksum of the file does not fit"
    assert checked(path, "matroska,webm", begin + 20, begin + 21) == expected
    assert checked(path, "matroska,webm", begin - 2, begin - 1) == ""
    assert checked(path, "matroska,webm", begin + len(bad) + 2, begin + len(bad) + 3) == ""


def test_a_cluster_that_states_no_checksum_is_taken_as_it_is(tmp_path):
    path = matroska(tmp_path / "a.mkv", element(b"\x1f\x43\xb6\x75", b"no checksum here"))
    assert checked(path, "matroska,webm", 0, path.stat().st_size) == ""


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67\xff"])
def test_what_is_no_matroska_has_no_clusters(tmp_path, content):
    (tmp_path / "a.mkv").write_bytes(content)
    assert checked(tmp_path / "a.mkv", "matroska,webm", 0, 10) == ""


def packet(track=TRACK, flags=0x40, payload=b"\x00\x00\x01\xe0"):
    head = bytes([0x47, flags | track >> 8, track & 0xFF, 0x10])
    return head + payload + bytes(184 - len(payload))


@pytest.mark.parametrize(
    ("changed", "is_whole"),
    [
        (packet(), True),
        (packet(flags=0, payload=b"anything"), True),
        (packet(track=0x11, payload=b"a table"), True),
        (packet(payload=b"\x00\x01\x01\xe0"), False),
        (packet(flags=0x80, payload=b"anything"), False),
        (b"H" + packet()[1:], False),
    ],
)
def test_packets_of_a_transport_stream_begin_as_such(tmp_path, changed, is_whole):
    path = tmp_path / "a.ts"
    path.write_bytes(packet() + changed + packet())
    found = checked(path, "mpegts", 0, 2 * 188)
    assert found == ("" if is_whole else "a packet of the transport stream does not begin as one")
    assert checked(path, "mpegts", 2 * 188, 2 * 188) == ""


@pytest.mark.parametrize("more", [4, 16])
def test_packets_may_have_some_bytes_more(tmp_path, more):
    path = tmp_path / "a.ts"
    one = packet() + bytes(more)
    path.write_bytes(one * 5)
    assert checked(path, "mpegts", 0, 4 * len(one)) == ""
    path.write_bytes(one * 3 + b"H" + one[1:] + one)
    assert checked(path, "mpegts", 0, 4 * len(one)) != ""


def test_errors_of_the_demuxer_are_heard_once_and_those_of_others_are_not():
    logs = [(logging.ERROR, "h264", "co located POCs unavailable"), (logging.WARNING, "avi", "hm")]
    damage = Damage(logs)
    damage.listen("avi")
    assert damage.sentence == ""
    logs.append((logging.ERROR, "avi", "broken\n"))
    damage.listen("avi")
    assert damage.sentence == "avi says: broken"
    damage.forget()
    damage.listen("avi")
    assert damage.sentence == ""
