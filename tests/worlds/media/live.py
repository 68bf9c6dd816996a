"""Matroska as browsers record it: nobody goes back to write how long anything is."""

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_INFO, _TRACKS, _DURATION = 0x1549A966, 0x1654AE6B, 0x4489
_KEPT = {_TRACKS, _CLUSTER}
_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7


def _number(content, place, keep_marker):
    """A number of variable length and where it ends."""
    length = 9 - content[place].bit_length()
    value = int.from_bytes(content[place : place + length])
    return value if keep_marker else value & ~(1 << 7 * length), place + length


def _elements(content, place, end):
    """Identity, start and end of the content of each element."""
    while place < end:
        identity, place = _number(content, place, keep_marker=True)
        size, place = _number(content, place, keep_marker=False)
        yield identity, place, min(place + size, end)
        place = min(place + size, end)


def _element(identity, size, body):
    return identity.to_bytes((identity.bit_length() + 7) // 8) + size + body


def _sized(identity, body):
    return _element(identity, (1 << 56 | len(body)).to_bytes(8), body)


def as_recorded_live(content):
    """The same clip without its length and index; segment and clusters are of unknown size."""
    header, (segment, begin, end) = list(_elements(content, 0, len(content)))[:2]
    assert segment == _SEGMENT
    live = _sized(header[0], content[header[1] : header[2]])
    live += _element(_SEGMENT, _UNKNOWN_SIZE, b"")
    for identity, start, stop in _elements(content, begin, end):
        body = content[start:stop]
        if identity == _INFO:
            parts = [part for part in _elements(content, start, stop) if part[0] != _DURATION]
            live += _sized(_INFO, b"".join(_sized(i, content[a:b]) for i, a, b in parts))
        elif identity == _CLUSTER:
            live += _element(_CLUSTER, _UNKNOWN_SIZE, body)
        elif identity in _KEPT:
            live += _sized(identity, body)
    return live
