"""Tickets: the media and events of one stream, for a browser that cannot send a key with them.

A ticket stands in a URL, where logs and histories keep it. So it is good for one stream, to begin
with within a minute, and gives nothing of the key away.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs

TICKET_S = 60
QUERY = "ticket"
STREAMS = "/v1/streams/"
SECONDS = re.compile(r"[0-9]{1,12}")
OPENED = frozenset(("media.mp4", "control"))


def owner_of(key: bytes) -> str:
    """Who asks, as streams know it: a digest of the key."""
    return hashlib.sha256(key).hexdigest()


class Tickets:
    """Issues and takes tickets; every gateway with the same keys takes those of the others."""

    def __init__(self, keys: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self._keys = {owner_of(key.encode()): key.encode() for key in keys}
        self._clock = clock

    def query(self, stream_id: str, owner: str | None) -> str:
        """What makes a URL of a stream hold without its owner's key; empty where none is wanted."""
        if owner is None:
            return ""
        until = str(int(self._clock()) + TICKET_S)
        return f"?{QUERY}={until}.{self._sign(self._keys[owner], stream_id, until)}"

    def owner(self, path: str, query: str) -> str | None:
        """Whose ticket a request carries; None without a good one for what it asks for."""
        stream_id, _, opened = path.removeprefix(STREAMS).partition("/")
        ticket = parse_qs(query).get(QUERY, [""])[-1]
        until, _, signature = ticket.partition(".")
        if not path.startswith(STREAMS) or opened not in OPENED or not SECONDS.fullmatch(until):
            return None
        # Compares with every key in full: the time taken gives nothing of them away.
        good = [
            owner
            for owner, key in self._keys.items()
            if hmac.compare_digest(signature.encode(), self._sign(key, stream_id, until).encode())
        ]
        return good[0] if good and self._clock() <= int(until) else None

    def _sign(self, key: bytes, stream_id: str, until: str) -> str:
        return hmac.new(key, f"{stream_id} {until}".encode(), hashlib.sha256).hexdigest()
