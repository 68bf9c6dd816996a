"""Bytes of a file that are no longer those that were written."""

import numpy as np

SECTOR = 512


def _overwritten(content, rng, place, length):
    content[place : place + length] = rng.bytes(length)


def _zeroed_sectors(content, rng, place, _):
    begin = place // SECTOR * SECTOR
    length = SECTOR * int(rng.integers(1, 9))
    content[begin : begin + length] = bytes(len(content[begin : begin + length]))


def _foreign_sectors(content, rng, place, _):
    """Sectors that hold what belongs elsewhere in the file."""
    begin, length = place // SECTOR * SECTOR, SECTOR * int(rng.integers(1, 9))
    other = int(rng.integers(len(content) // 8, len(content) // 4)) // SECTOR * SECTOR
    content[begin : begin + length] = content[other : other + length]


def _scattered(content, rng, place, length):
    for spot in rng.integers(place, place + length, int(rng.integers(4, 33))):
        content[spot] ^= int(rng.integers(1, 256))


def _missing(content, _, place, length):
    del content[place : place + length]


RUNS = (_overwritten, _zeroed_sectors, _foreign_sectors, _missing)
WAYS = (*RUNS, _scattered)


def damaged(content, seed, between=(0.35, 0.65), ways=WAYS):
    """A copy of `content` with up to 4096 bytes damaged in its middle, and where that begins.

    between: the shares of the content among which the place is drawn.
    """
    rng = np.random.default_rng(seed)
    harmed = bytearray(content)
    place = int(rng.uniform(*between) * len(content))
    length = int(2 ** rng.uniform(6, 12))
    ways[seed % len(ways)](harmed, rng, place, length)
    return bytes(harmed), place
