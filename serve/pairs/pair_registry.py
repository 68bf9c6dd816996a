"""Joins one video and one audio replica into a pair, and lends pairs to sessions.

Replicas report in every half second (`beat`). A video and an audio replica without a partner form
a pair with a new epoch: the number of this partnership, never used again. A pair that loses a
member is dissolved; what is left of it pairs anew under another epoch. Every call to a replica and
every exchange between two carries the epoch, so what is late from an old partnership finds no place
to go. A replica that holds both streams is a pair by itself.

One process, no I/O, no waiting: the callers poll, from several threads.
"""

import functools
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

REMEMBERED_EPOCHS = 64
Half = Literal["video", "audio", "both"]
Arguments = ParamSpec("Arguments")
T = TypeVar("T")


class Address(NamedTuple):
    """Where a replica's rendezvous listens."""

    host: str
    port: int


class Assignment(NamedTuple):
    """A replica's place in a pair: rank 0 is video, whose address is the rendezvous."""

    pair: str
    epoch: int
    rank: int
    rendezvous: Address | None


class Lease(NamedTuple):
    """The right to stream through a pair: which replica holds which half, and the epoch."""

    lease_id: str
    pair: str
    epoch: int
    members: dict[Half, str]


class PairState(NamedTuple):
    """One pair, for people and monitoring."""

    pair: str
    epoch: int
    members: dict[Half, str]
    ready: bool
    leases: int


@dataclass
class _Replica:
    half: Half
    address: Address | None
    last_beat: float
    claimed: int | None


@dataclass
class _Pair:
    name: str
    epoch: int
    members: dict[Half, str]
    joined: set[str] = field(default_factory=set)
    leases: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.joined == set(self.members.values())


def _synchronised(
    method: "Callable[Concatenate[PairRegistry, Arguments], T]",
) -> "Callable[Concatenate[PairRegistry, Arguments], T]":
    """Ray Serve calls methods that are not coroutines from a pool of threads."""

    @functools.wraps(method)
    def call_locked(
        self: "PairRegistry", /, *args: Arguments.args, **options: Arguments.kwargs
    ) -> T:
        with self.lock:
            return method(self, *args, **options)

    return call_locked


class PairRegistry:
    """Who is paired with whom, and who holds a lease."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            timeout_s: a replica or gateway that was silent for longer counts as gone.
            clock: seconds, monotonic.
        """
        self.lock = threading.Lock()
        self._timeout_s = timeout_s
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}
        self._gateways: dict[str, float] = {}
        self._pairs: dict[str, _Pair] = {}
        self._over: deque[int] = deque(maxlen=REMEMBERED_EPOCHS)
        # Greater than any epoch of a registry that ran here before.
        self._epoch = self._first_epoch = int(time.time() * 1000)
        self._adopts_until = clock() + timeout_s

    @_synchronised
    def beat(
        self, half: Half, replica: str, address: Address | None, joined_epoch: int | None
    ) -> Assignment | None:
        """A replica is alive; returns its place in a pair, None while it has no partner.

        Args:
            half: the streams it holds.
            replica: its id.
            address: of its rendezvous, for a video replica.
            joined_epoch: the epoch whose exchange is open on its side.
        """
        claimed = self._older_epoch(joined_epoch)
        self._replicas[replica] = _Replica(half, address, self._clock(), claimed)
        self._forget_the_silent()
        self._adopt_pairs()
        self._form_pairs()
        pair = self._pair_of(replica)
        if pair is None:
            return None
        if joined_epoch == pair.epoch:
            pair.joined.add(replica)
        video = pair.members.get("video")
        rendezvous = self._replicas[video].address if video else None
        return Assignment(pair.name, pair.epoch, 1 if half == "audio" else 0, rendezvous)

    @_synchronised
    def lease(self, gateway: str) -> Lease | None:
        """Lend the least used ready pair to a session of `gateway`; None if there is none.

        Sessions of one gateway may share a pair, because it makes them take turns; two gateways
        may not.
        """
        self._gateways[gateway] = self._clock()
        self._forget_the_silent()
        free = [
            pair
            for pair in self._pairs.values()
            if pair.ready and set(pair.leases.values()) <= {gateway}
        ]
        if not free:
            return None
        pair = min(free, key=lambda candidate: len(candidate.leases))
        lease_id = uuid.uuid4().hex
        pair.leases[lease_id] = gateway
        return Lease(lease_id, pair.name, pair.epoch, dict(pair.members))

    @_synchronised
    def renew(self, gateway: str) -> tuple[int, ...]:
        """`gateway` is alive, and so are its leases; returns the last epochs that are over."""
        self._gateways[gateway] = self._clock()
        self._forget_the_silent()
        return tuple(self._over)

    @_synchronised
    def release(self, lease_id: str) -> None:
        """Give a lease back; one that is unknown was lost with its pair."""
        for pair in self._pairs.values():
            pair.leases.pop(lease_id, None)

    @_synchronised
    def dissolve(self, epoch: int) -> None:
        """The partnership failed: both replicas are to be paired anew. Old epochs are ignored.

        Either may be dead: it counts again when it reports in.
        """
        for pair in list(self._pairs.values()):
            if pair.epoch == epoch:
                self._end(pair)
                for replica in pair.members.values():
                    self._replicas.pop(replica, None)

    @_synchronised
    def states(self) -> list[PairState]:
        """All pairs as they are now."""
        self._forget_the_silent()
        return [
            PairState(pair.name, pair.epoch, dict(pair.members), pair.ready, len(pair.leases))
            for pair in self._pairs.values()
        ]

    def _forget_the_silent(self) -> None:
        oldest = self._clock() - self._timeout_s
        for replica in [name for name, known in self._replicas.items() if known.last_beat < oldest]:
            del self._replicas[replica]
        for gateway in [name for name, renewed in self._gateways.items() if renewed < oldest]:
            del self._gateways[gateway]
        for pair in list(self._pairs.values()):
            whole = all(member in self._replicas for member in pair.members.values())
            # A vanished gateway may have left a half in the middle of a block.
            if not whole or not all(holder in self._gateways for holder in pair.leases.values()):
                self._end(pair)

    def _end(self, pair: _Pair) -> None:
        del self._pairs[pair.name]
        self._over.append(pair.epoch)

    def _older_epoch(self, joined_epoch: int | None) -> int | None:
        """`joined_epoch` if a registry before this one gave it, and this one is young."""
        if joined_epoch is None or joined_epoch > self._first_epoch or joined_epoch in self._over:
            return None
        return joined_epoch if self._clock() < self._adopts_until else None

    def _adopt_pairs(self) -> None:
        """Keep the pairs that a registry before this one has formed: their streams go on."""
        claims: dict[int, dict[Half, str]] = {}
        for name, known in self._replicas.items():
            if known.claimed is not None and self._pair_of(name) is None:
                claims.setdefault(known.claimed, {})[known.half] = name
        for epoch, members in claims.items():
            if set(members) in ({"both"}, {"video", "audio"}):
                self._add(members, epoch).joined = set(members.values())

    def _form_pairs(self) -> None:
        for both in self._unpaired_replicas("both"):
            self._add({"both": both}, self._next_epoch())
        for video, audio in zip(
            self._unpaired_replicas("video"), self._unpaired_replicas("audio"), strict=False
        ):
            self._add({"video": video, "audio": audio}, self._next_epoch())

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def _add(self, members: dict[Half, str], epoch: int) -> _Pair:
        pair = _Pair("-".join(members.values()), epoch, members)
        self._pairs[pair.name] = pair
        return pair

    def _unpaired_replicas(self, half: Half) -> Sequence[str]:
        return [
            name
            for name, known in self._replicas.items()
            if known.half == half and known.claimed is None and self._pair_of(name) is None
        ]

    def _pair_of(self, replica: str) -> _Pair | None:
        pairs = self._pairs.values()
        return next((pair for pair in pairs if replica in pair.members.values()), None)
