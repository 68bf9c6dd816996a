"""What a stream's reader has and gets: a header, a fragment per block, a tail.

Fragments that were sent are kept for a while. A client whose connection broke comes back for those
that it does not have, also before this end has noticed: then it takes its old connection's place.
"""

from collections.abc import Callable
from typing import NamedTuple

from infra.errors import RefusedError, ServerError

# That were sent, and may have been lost on their way, or with a player's buffer.
KEPT_BLOCKS = 32


class Chunk(NamedTuple):
    """Bytes for the reader; `block` is the one they carry, None for header and tail."""

    block: int | None
    data: bytes


def over() -> RefusedError:
    """Of a stream whose media is asked for too late."""
    return RefusedError("expected an open stream, got one that is over; create another", status=410)


class Delivery:
    """The chunks of one stream, and who reads them; `announce` is called when that changes."""

    def __init__(self, header: bytes, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._header = header
        self._fragments: dict[int, bytes] = {}
        self._count = 0  # blocks that there are
        self._tail: bytes | None = None
        self._wants_header = self._wants_tail = True
        self._next = 0  # block that the reader gets next
        self._reader = 0  # its number; earlier ones are over
        self.had_reader = self.has_reader = False
        self.taken_chunks = 0
        self.is_whole = False  # everything is taken
        self.gave_up = False

    @property
    def taken_blocks(self) -> int:
        """Blocks that the reader has, or had before."""
        return self._next

    @property
    def is_left(self) -> bool:
        """Whether there was a reader, and is none, for what is not all taken."""
        return self.had_reader and not self.has_reader and not self.is_whole

    def add(self, fragment: bytes) -> None:
        """The next block's fragment."""
        self._fragments[self._count] = fragment
        self._count += 1
        self._announce()

    def end(self, tail: bytes = b"") -> None:
        """Nothing comes after what there is, and `tail`."""
        self._tail = tail
        self._announce()

    def give_up(self) -> None:
        """Nothing is kept for a reader any more; one that stalled does not get the rest."""
        self.gave_up = True
        self._fragments.clear()
        self._announce()

    def claim(self, block: int | None = None) -> int:
        """Become the reader, from the header on, or of what follows from `block` on.

        Returns the reader's number. With a `block` it takes the place of one that may be there.

        Raises:
            RefusedError: 409 there is, or was, another one; 410 nothing is kept, or not that block;
                422 there is no such block yet.
        """
        if self.gave_up:
            raise over()
        if block is None:
            if self.had_reader:
                raise RefusedError(
                    "expected one reader per stream, got a second one; create another stream, or"
                    " go on with ?block=N where its connection broke",
                    status=409,
                )
        else:
            self._seek(block)
        self.had_reader = self.has_reader = True
        self._reader += 1
        self._announce()
        return self._reader

    def leave(self, reader: int) -> None:
        """The reader went away; of no effect for one whose place another has."""
        if reader == self._reader:
            self.has_reader = False
            self._announce()

    def has_chunk(self, reader: int) -> bool:
        """Whether `next_chunk` need not wait."""
        return (
            reader != self._reader
            or self.gave_up
            or self._wants_header
            or self._next < self._count
            or self._tail is not None
        )

    def next_chunk(self, reader: int) -> Chunk | None:
        """What the reader gets next; None after the last.

        ServerError if another one has its place.
        """
        if reader != self._reader:
            raise ServerError("expected to go on, got another reader with ?block=N in its place")
        if self.gave_up:
            return None
        if self._wants_header:
            return Chunk(None, self._header)
        if self._next < self._count:
            return Chunk(self._next, self._fragments[self._next])
        if self._wants_tail and self._tail:
            return Chunk(None, self._tail)
        self.is_whole = True
        return None

    def mark_taken(self, reader: int, chunk: Chunk) -> None:
        """The reader has a chunk of `next_chunk`."""
        if reader != self._reader:
            return
        self.taken_chunks += 1
        if chunk.block is not None:
            self._next = chunk.block + 1
            self._forget()
        elif self._wants_header:
            self._wants_header = False
        else:
            self._wants_tail = False
        self._announce()

    def _seek(self, block: int) -> None:
        if block > self._count:
            raise RefusedError(
                f"expected one of the {self._count} blocks that there are, or the next, got block"
                f" {block}"
            )
        if block < min(self._fragments, default=self._count):
            raise RefusedError(
                f"expected one of the last {KEPT_BLOCKS} blocks, got block {block}, which is not"
                " kept any more; create another stream with the same seed",
                status=410,
            )
        self._next, self._wants_header, self._wants_tail = block, block == 0, True

    def _forget(self) -> None:
        for block in [one for one in self._fragments if one < self._next - KEPT_BLOCKS]:
            del self._fragments[block]
