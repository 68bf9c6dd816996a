"""Deployments that compute: the text encoder, and the replicas that hold streams.

A stream replica keeps one thread for the model, so that blocks, openings and changes of partner
happen one after the other, and the event loop stays free to answer health checks.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from actors.latents.codec_loading import load_text_encoder, own_device
from actors.streaming.block_encoders import EncodedBlock
from actors.streaming.media_block import MediaBlock, WorkerFacts
from actors.streaming.stream_history import PastBlocks
from actors.streaming.stream_worker import StreamWorker
from infra.config import RunConfig
from infra.errors import ClusterError, MediaError
from omniforcing_model.errors import DivergenceError, StreamStateError
from omniforcing_model.per_stream import STREAMS, PerStream
from serve.pairs.pair_registry import Assignment, Half
from serve.pairs.pairing import LOOPBACK, PairingLoop, Rendezvous, is_loopback

LOG = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
T = TypeVar("T")


@contextlib.contextmanager
def _warming(what: str) -> Iterator[None]:
    """Before the replica is ready: the first stream finds it as fast as the next will."""
    began = time.perf_counter()
    yield
    LOG.info("%s warm after %.1f s", what, time.perf_counter() - began)


class ReplicaRouter(RequestRouter):
    """Sends a call to the replica that its argument `replica` names, and to no other.

    A stream lives on the replicas of its lease; Serve's own routers only prefer a replica.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The named replica; none while it is not there, and the caller's timeout decides."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        replica = pending_request.kwargs.get("replica")
        return [[r for r in candidate_replicas if r.replica_id.unique_id == replica]]


class TextEncoderService:
    """Prompts to text features, for all streams."""

    def __init__(self, config: RunConfig) -> None:
        """Load the run's text encoder; ConfigError if its weights are not where the run says."""
        self._encoder = load_text_encoder(config, own_device())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        with _warming("text encoder"):
            self._encoder.encode([""])

    async def encode(self, prompt: str) -> PerStream[NDArray[np.float32]]:
        """Features of a prompt per stream, (tokens, width)."""
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._thread, self._encoder.encode, [prompt])
        return encoded.map(lambda features: features[0].numpy())


class StreamReplica:
    """One replica of `VideoStream`, `AudioStream` or, with both halves, `ColocatedStream`."""

    def __init__(
        self, half: Half, model_folder: Path, config: RunConfig, registry: DeploymentHandle[Any]
    ) -> None:
        """Load the model's half and begin to look for a partner.

        Args:
            half: the streams to hold.
            model_folder: on this machine.
            config: the run.
            registry: handle of the PairRegistry.
        """
        self._half = half
        self._timeout_s = config.serve.exchange_timeout_s
        self._registry = registry
        self._replica = ray_serve.get_replica_context().replica_tag
        halves = STREAMS if half == "both" else (half,)
        self._worker = StreamWorker(
            model_folder, config, halves=halves, streams=config.serve.max_sessions, encodes=True
        )
        with _warming(f"{half} replica"):
            self._worker.warm_up()
        local = is_loopback(config.serve.host)
        host = LOOPBACK if local else ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._rendezvous = Rendezvous(host, listens=half == "video", timeout_s=self._timeout_s)
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._pairing = PairingLoop(
            self._beat, self._join, f"{half} replica {self._replica}", config.serve
        )

    async def facts(self, *, replica: str, epoch: int) -> WorkerFacts:
        """What its streams are made of."""
        self._check(replica, epoch)
        return self._worker.facts

    async def open(
        self,
        *,
        replica: str,
        epoch: int,
        stream_id: str,
        text: PerStream[Any],
        seed: int,
        seconds: int,
        next_block: int,
    ) -> int:
        """Open a stream under a lease; returns its number of blocks. See StreamWorker.open."""
        self._check(replica, epoch)
        begin = functools.partial(self._worker.open, stream_id, text, seed, seconds, next_block)
        return await self._on_model_thread(self._call_in_epoch, epoch, begin)

    async def replay(self, *, replica: str, epoch: int, stream_id: str, past: PastBlocks) -> None:
        """Take blocks that were computed elsewhere, together with the partner.

        See StreamWorker.replay; raises what `next_block` does.
        """
        self._check(replica, epoch)
        take = functools.partial(self._worker.replay, stream_id, past)
        async with self._abandoning(epoch):
            await self._on_model_thread(self._call_in_epoch, epoch, take)

    async def next_block(
        self, *, replica: str, epoch: int, stream_id: str, ahead: bool
    ) -> MediaBlock:
        """Compute the next block, together with the partner; `ahead` has the one after it computed
        while this one is on its way.

        Raises:
            ClusterError: the lease is of another epoch.
            ExchangeError: the partner did not answer; this replica looks for a new one.
            DivergenceError: the latents are not finite.
            MediaError: they cannot be decoded.
        """
        self._check(replica, epoch)
        begin = functools.partial(self._worker.begin_block, stream_id)
        async with self._abandoning(epoch):
            beginning = self._on_model_thread(self._call_in_epoch, epoch, begin)
            if ahead:
                # Behind it and before all else: both halves of a pair run ahead in one order.
                self._on_model_thread(self._run_ahead, epoch, stream_id)
            pending = await beginning
            return await asyncio.to_thread(pending.result)

    async def finish(self, *, replica: str, epoch: int, stream_id: str) -> EncodedBlock:
        """What an encoder still holds of a stream that ends before its last block."""
        self._check(replica, epoch)
        take = functools.partial(self._worker.finish, stream_id)
        return await self._on_model_thread(self._call_in_epoch, epoch, take)

    async def close(self, *, replica: str, epoch: int, stream_id: str) -> None:
        """Forget a stream; one that is gone is no error."""
        if replica == self._replica and epoch == self._pairing.epoch:
            await self._on_model_thread(self._worker.close, stream_id)

    async def check_health(self) -> None:
        """Serve restarts this replica if this raises."""
        problem = self._pairing.problem
        if problem:
            raise ClusterError(f"expected a replica that can be paired, got: {problem}; restarting")

    def __del__(self) -> None:
        """Serve calls this when the replica is stopped."""
        if hasattr(self, "_pairing"):
            self._pairing.stop()

    @contextlib.asynccontextmanager
    async def _abandoning(self, epoch: int) -> AsyncIterator[None]:
        """Around work that the partner shares: if it fails, the partner waits for no more of it."""
        try:
            yield
        except (DivergenceError, StreamStateError, MediaError, ClusterError):
            raise  # outside of the exchange: the partner is not waiting
        except Exception:
            await self._on_model_thread(self._abandon, epoch)
            raise

    def _check(self, replica: str, epoch: int) -> None:
        if replica != self._replica or epoch != self._pairing.epoch:
            raise ClusterError(
                f"expected replica {self._replica} in epoch {self._pairing.epoch}, got a call for"
                f" {replica} in epoch {epoch}; the pair was formed anew, open another stream"
            )

    def _on_model_thread(
        self, function: Callable[Arguments, T], *args: Arguments.args, **options: Arguments.kwargs
    ) -> asyncio.Future[T]:
        """Call `function` there, after all that was to be called before."""
        call = functools.partial(function, *args, **options)
        return asyncio.get_running_loop().run_in_executor(self._model_thread, call)

    def _call_in_epoch(self, epoch: int, function: Callable[[], T]) -> T:
        """Call `function` unless the epoch ended while the call was waiting for the thread."""
        self._check(self._replica, epoch)
        return function()

    def _run_ahead(self, epoch: int, stream_id: str) -> None:
        """Compute the stream's next block while the last one is on its way."""
        if epoch != self._pairing.epoch:
            return
        try:
            self._worker.run_ahead(stream_id)
        except Exception:
            LOG.warning("%s replica could not compute ahead", self._half, exc_info=True)
            self._abandon(epoch)

    def _beat(self, joined_epoch: int | None) -> Assignment | None:
        address = self._rendezvous.address
        reply = self._registry.beat.remote(self._half, self._replica, address, joined_epoch)
        place: Assignment | None = reply.result(timeout_s=self._timeout_s)
        return place

    def _join(self, place: Assignment) -> bool:
        """On the pairing thread: wait for the block in progress, then change the partner."""
        return self._model_thread.submit(self._change_partner, place).result()

    def _change_partner(self, place: Assignment) -> bool:
        """False if the place is another's by now."""
        for stream_id in self._worker.open_streams:
            self._worker.close(stream_id)
        if self._half == "both":
            return True
        try:
            exchange = self._rendezvous.join(place, lambda: self._holds(place))
        except Exception:
            self._registry.dissolve.remote(place.epoch)
            raise
        if exchange is None:
            return False
        self._worker.use_exchange(exchange)
        LOG.info("%s replica joined epoch %d", self._half, place.epoch)
        return True

    def _holds(self, place: Assignment) -> bool:
        now = self._beat(None)
        return now is not None and now.epoch == place.epoch

    def _abandon(self, epoch: int) -> None:
        """The exchange failed: close it, so that the partner notices at once, and report it."""
        if epoch != self._pairing.epoch:
            return
        self._pairing.forget(epoch)
        self._rendezvous.leave()
        self._registry.dissolve.remote(epoch)
