"""A session's view of the replicas it may stream through: one object, whatever the layout."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.serve.handle import DeploymentHandle

from actors.streaming.block_encoders import EncodedBlock
from actors.streaming.media_block import BlockTimings, MediaBlock, WorkerFacts
from actors.streaming.stream_history import HistoryRule, PastBlocks, StreamHistory
from infra.errors import ClusterError, PairLostError
from omniforcing_model.errors import ExchangeError, OmniForcingError
from omniforcing_model.per_stream import PerStream
from serve.pairs.pair_registry import Half, Lease, PairState
from serve.sessions.schedule import AT_ONCE, Schedule

T = TypeVar("T")

LOG = logging.getLogger(__name__)
# Blocks of a replay between which other streams have their turn: each is one pass of a block's few.
REPLAYED_AT_ONCE = 4
# In these the halves wait for each other.
SHARED_WORK = ("next_block", "replay")
# Of a call that waits for nothing: a replica that is there has answered long before.
SHORT_CALL_S = 5.0


class Opening(NamedTuple):
    """What a stream begins with: text features (tokens, width) per stream, seed, length."""

    text: PerStream[NDArray[np.float32]]
    seed: int
    seconds: int


class PairFacts(NamedTuple):
    """What the streams of a pair are made of.

    sample_rate: samples a second of the waveforms, as the audio codec makes them. kernels: of the
    halves, once where they are the same. history: what a stream needs of its past.
    """

    sample_rate: int
    kernels: str
    history: HistoryRule


class _Callee(TypedDict):
    """Which replica of a deployment a call is for, and in which partnership."""

    replica: str
    epoch: int


class LeasedPair:
    """The members of a lease, whose work has its turn by the schedule of their epoch."""

    def __init__(
        self,
        lease: Lease,
        handles: Mapping[Half, DeploymentHandle[Any]],
        schedule: Schedule,
        timeout_s: float,
    ) -> None:
        """`timeout_s` bounds every call; a replica that is gone answers nothing."""
        self.lease = lease
        self._handles = handles
        self._schedule = schedule
        self._timeout_s = timeout_s

    async def facts(self) -> PairFacts:
        """What the pair's streams are made of.

        Raises:
            PairLostError: a member failed; its epoch is over.
        """
        facts: list[WorkerFacts] = await self._call_members(
            "facts",
            lambda half, callee: self._handles[half].facts.remote(**callee),
            min(SHORT_CALL_S, self._timeout_s),
        )
        kernels = dict.fromkeys(member.kernels for member in facts)
        # The half that depends on more of the past decides.
        history = max((member.history for member in facts), key=lambda rule: rule.recent)
        return PairFacts(
            int(_first_present(member.sample_rate for member in facts)),
            "; ".join(kernels),
            history,
        )

    async def open(
        self, stream_id: str, opening: Opening, history: StreamHistory, deadline: float = AT_ONCE
    ) -> int:
        """Open the stream on every member, and let it go on after `history`; returns its number of
        blocks.

        deadline: when its player runs dry.

        Raises:
            PairLostError: a member failed; its epoch is over.
        """
        blocks = await self._call_members(
            "open",
            lambda half, callee: self._handles[half].open.remote(
                **callee,
                stream_id=stream_id,
                text=_part_for(half, opening.text),
                seed=opening.seed,
                seconds=opening.seconds,
                next_block=history.next_block,
            ),
        )
        for past in history.chunks(REPLAYED_AT_ONCE):
            await self._replay(stream_id, past, deadline)
        return int(blocks[0])

    async def next_block(self, stream_id: str, deadline: float = AT_ONCE) -> MediaBlock:
        """The next block, complete: committed by every member, or by none that counts.

        deadline: when the stream's player runs dry without it.

        Raises:
            PairLostError: a member failed; its epoch is over.
            OmniForcingError: this stream alone failed, for instance by latents that are not finite.
        """
        async with self._schedule.turn(deadline):
            ahead = not self._schedule.is_wanted
            parts = await self._call_members(
                "next_block",
                lambda half, callee: self._handles[half].next_block.remote(
                    **callee, stream_id=stream_id, ahead=ahead
                ),
            )
        return _merge(parts)

    async def finish(self, stream_id: str) -> EncodedBlock:
        """What the members' encoders still hold of a stream that ends before its last block.

        PairLostError: a member failed; its epoch is over.
        """
        parts: list[EncodedBlock] = await self._call_members(
            "finish",
            lambda half, callee: self._handles[half].finish.remote(**callee, stream_id=stream_id),
        )
        return _merge_encoded(parts)

    async def _replay(self, stream_id: str, past: PastBlocks, deadline: float) -> None:
        async with self._schedule.turn(deadline):
            await self._call_members(
                "replay",
                lambda half, callee: self._handles[half].replay.remote(
                    **callee,
                    stream_id=stream_id,
                    past={index: _part_for(half, latents) for index, latents in past.items()},
                ),
            )

    async def close(self, stream_id: str) -> None:
        """Close the stream on every member that is still there.

        It needs no turn: the halves do not wait for each other in it. So it is asked for at once,
        also by a session that is cancelled.
        """
        try:
            await self._call_members(
                "close",
                lambda half, callee: self._handles[half].close.remote(
                    **callee, stream_id=stream_id
                ),
            )
        except PairLostError:
            return  # the epoch is over, and its streams with it

    async def _call_members(
        self,
        method: str,
        call: Callable[[Half, _Callee], Awaitable[Any]],
        timeout_s: float | None = None,
    ) -> list[Any]:
        """What `call` returns for every member; they work at the same time."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        calls = [
            asyncio.ensure_future(
                asyncio.wait_for(
                    call(half, {"replica": name, "epoch": self.lease.epoch}), timeout_s
                )
            )
            for half, name in self.lease.members.items()
        ]
        # One half's failure does not end the other's work: wait until neither can touch the pair.
        answering = asyncio.gather(*calls, return_exceptions=True)
        losing = asyncio.ensure_future(self._schedule.lost.wait())
        try:
            await asyncio.wait((answering, losing), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise _lost(method, "a lost partner")
            answers = answering.result()
        finally:
            for waiting in (losing, *calls):
                waiting.cancel()
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if failures:
            raise _clearest_failure(failures, method, timeout_s) from failures[0]
        return answers


class Replicas(Protocol):
    """The rest of the application, as a gateway sees it."""

    async def encode(self, prompt: str) -> PerStream[NDArray[np.float32]]:
        """Text features of a prompt, (tokens, width) per stream."""
        ...

    async def lease(self) -> LeasedPair | None:
        """A pair to stream through; None if none is ready."""
        ...

    async def give_back(self, pair: LeasedPair, failed: bool) -> None:
        """End a lease; `failed` has the pair formed anew."""
        ...

    async def pairs(self) -> list[PairState]:
        """All pairs as they are now."""
        ...


def _lost(method: str, problem: str) -> PairLostError:
    return PairLostError(
        f"expected {method} to succeed, got {problem}; the pair is formed anew, ask again with the"
        " same seed"
    )


def _clearest_failure(
    failures: list[BaseException], method: str, timeout_s: float
) -> BaseException:
    """The failure that says most: what ends the pair, then what ends this stream alone.

    Clients read it: which replica it was, and where, is for the log.
    """
    for failure in failures:
        if isinstance(failure, asyncio.CancelledError):
            return failure
    for failure in failures:
        problem = _loss(failure, method, timeout_s)
        if problem is not None:
            LOG.warning("%s ended a pair: %s", method, failure)
            return _lost(method, problem)
    own = next((one for one in failures if isinstance(one, OmniForcingError)), failures[0])
    # Ray adds a traceback to the text of an error that crossed a process; its cause is clean.
    cause = getattr(own, "cause", None)
    return cause if isinstance(cause, BaseException) else own


def _loss(failure: BaseException, method: str, timeout_s: float) -> str | None:
    """What became of the pair; None where another stream may go on with it."""
    if isinstance(failure, (ExchangeError, ClusterError)):
        return "a broken exchange"
    if isinstance(failure, OmniForcingError):
        return None
    if isinstance(failure, TimeoutError) and not isinstance(failure, RayTaskError):
        return f"nothing within {timeout_s:g} s"
    if isinstance(failure, RayTaskError) or not isinstance(failure, RayError):
        # While a block is computed the other half waits for what will not come.
        return f"an unexpected {_kind(failure)}" if method in SHARED_WORK else None
    return "a lost replica"


def _kind(failure: BaseException) -> str:
    """The class of an error, also of one that comes through Ray as its cause's and Ray's own."""
    return type(getattr(failure, "cause", None) or failure).__name__


def _part_for(half: Half, both: PerStream[T] | PerStream[T | None]) -> PerStream[T | None]:
    """What a half gets of values for both streams."""
    return PerStream(
        both.video if half in ("video", "both") else None,
        both.audio if half in ("audio", "both") else None,
    )


def _merge(parts: list[MediaBlock]) -> MediaBlock:
    """One block of what each member holds."""
    indices = {part.index for part in parts}
    if len(indices) != 1:
        raise PairLostError(
            f"expected one block of both halves, got blocks {sorted(indices)}; the pair is formed"
            " anew, ask again with the same seed"
        )
    return MediaBlock(
        index=parts[0].index,
        latents=PerStream(
            _first_present(part.latents.video for part in parts),
            _first_present(part.latents.audio for part in parts),
        ),
        frames=_first_present(part.frames for part in parts),
        waveform=_first_present(part.waveform for part in parts),
        timings=BlockTimings(*map(max, zip(*(part.timings for part in parts), strict=True))),
        encoded=_merge_encoded(part.encoded or EncodedBlock() for part in parts),
    )


def _merge_encoded(parts: Iterable[EncodedBlock]) -> EncodedBlock:
    """The picture of one member and the sound of the other, or both of one."""
    each = list(parts)
    return EncodedBlock(
        video=next((part.video for part in each if part.video), ()),
        audio=next((part.audio for part in each if part.audio), ()),
        frames=sum(part.frames for part in each),
        samples=sum(part.samples for part in each),
    )


def _first_present(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)
