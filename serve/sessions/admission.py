"""Which streams are accepted, and which are open.

A refusal carries the HTTP status that says so; the routes (api.py) only pass it on.
"""

import asyncio
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

from actors.streaming.media_muxer import MediaMuxer
from infra.config import RunConfig
from infra.errors import RefusedError, ServerError
from infra.stream_limits import exceeded_limit
from serve.sessions.leased_pair import LeasedPair, Replicas
from serve.sessions.metrics import Metrics
from serve.sessions.protocol import StreamRequest, StreamStatus
from serve.sessions.session import Session, StreamOrder

T = TypeVar("T")

LOG = logging.getLogger(__name__)
# What is drawn is shown, and asked for again: JavaScript's numbers are exact up to here.
DRAWN_SEEDS = 2**53
PAIR_RETRY_S = 5
# While others wait for its place; otherwise a stream waits serve.session_timeout_s for its reader.
UNFETCHED_S = 5.0


class _Ended(NamedTuple):
    """What is remembered of a stream."""

    owner: str | None
    status: StreamStatus


class Admission:
    """Accepts streams within the limits and remembers the last ones."""

    def __init__(self, config: RunConfig, model: str, replicas: Replicas) -> None:
        """`model` is the name that streams carry, with the weights' digest."""
        self.config = config
        self.model = model
        self.replicas = replicas
        self.metrics = Metrics(lambda: self.open_streams)
        self._sessions: dict[str, Session] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = 0

    @property
    def open_streams(self) -> int:
        """Streams that are accepted and not over."""
        return len(self._sessions) + self._accepting

    async def accept(self, request: StreamRequest, owner: str | None = None) -> Session:
        """Begin a stream, which nobody but `owner`, where there is one, finds again.

        Raises:
            RefusedError: 422 beyond a limit, 429 as many streams as allowed are open, 503 no pair
                is ready.
        """
        accepted = time.perf_counter()
        try:
            seconds = self._check(request)
        except RefusedError as refusal:
            self.metrics.count_refused(refusal.status)
            raise
        self._accepting += 1
        try:
            session = await self._begin(request, seconds, accepted, owner)
        finally:
            self._accepting -= 1
        self._sessions[session.order.stream_id] = session
        task = asyncio.create_task(self._follow(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    def find(self, stream_id: str, owner: str | None = None) -> Session | None:
        """An open stream of this owner."""
        session = self._sessions.get(stream_id)
        return session if session is not None and session.order.owner == owner else None

    def status(
        self, stream_id: str, owner: str | None = None, first_block: int = 0
    ) -> StreamStatus | None:
        """Of an open stream or one of the last that ended, with its blocks from `first_block`."""
        session = self.find(stream_id, owner)
        if session is not None:
            return session.status(first_block)
        past = self._ended.get(stream_id)
        if past is None or past.owner != owner:
            return None
        return past.status.model_copy(update={"blocks": past.status.blocks[first_block:]})

    async def metrics_text(self) -> bytes:
        """What /metrics says."""
        pairs = await self.replicas.pairs()
        return self.metrics.text(sum(pair.ready for pair in pairs))

    def _check(self, request: StreamRequest) -> int:
        limits = self.config.serve
        seconds = limits.max_seconds if request.seconds is None else request.seconds
        problem = exceeded_limit(request.prompt, seconds, limits)
        if problem is not None:
            raise RefusedError(problem)
        if self.open_streams >= limits.max_sessions:
            for session in self._sessions.values():
                session.give_up_unfetched(UNFETCHED_S)
            raise RefusedError(
                f"expected fewer than {limits.max_sessions} open streams, got"
                f" {self.open_streams}; try again when one has ended",
                status=429,
                retry_after_s=self._seconds_until_one_is_free(),
            )
        return seconds

    async def _begin(
        self, request: StreamRequest, seconds: int, accepted: float, owner: str | None
    ) -> Session:
        pair = await self.replicas.lease()
        if pair is None:
            raise self._no_pair()
        facts = await self._of_pair(pair, pair.facts())
        order = StreamOrder(
            stream_id=secrets.token_urlsafe(12),
            prompt=request.prompt,
            seconds=seconds,
            seed=secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed,
            model=self.model,
            kernels=facts.kernels,
            accepted=accepted,
            owner=owner,
        )
        size = self.config.data
        muxer = await self._of_pair(
            pair,
            asyncio.to_thread(MediaMuxer, size.height, size.width, facts.sample_rate, self.model),
        )
        limits = self.config.serve
        return Session(order, limits, self.replicas, pair, facts.history, muxer, self.metrics)

    async def _of_pair(self, pair: LeasedPair, work: Awaitable[T]) -> T:
        """What a stream through `pair` begins with; gives the lease back if it fails."""
        try:
            return await work
        except ServerError as error:
            await self.replicas.give_back(pair, True)
            raise self._no_pair() from error
        except BaseException:
            await self.replicas.give_back(pair, False)
            raise

    def _no_pair(self) -> RefusedError:
        self.metrics.count_refused(503)
        return RefusedError(
            "expected a ready pair of replicas, got none; they are starting, or being"
            " replaced: try again shortly",
            status=503,
            retry_after_s=PAIR_RETRY_S,
        )

    async def _follow(self, session: Session) -> None:
        stream_id = session.order.stream_id
        try:
            await session.run()
        finally:
            self._sessions.pop(stream_id)
            status = session.status()
            self._ended[stream_id] = _Ended(session.order.owner, status)
            self.metrics.count_ended(status.state)
            while len(self._ended) > self.config.serve.remembered_streams:
                self._ended.popitem(last=False)

    def _seconds_until_one_is_free(self) -> int:
        """Seconds until the first open stream is over, by its pace so far; at least 1."""
        waits = [session.free_in_s(UNFETCHED_S) for session in self._sessions.values()]
        return max(1, math.ceil(min(waits, default=1.0)))
