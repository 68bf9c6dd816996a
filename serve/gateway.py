"""The deployment that listens: routes over admission over Serve's handles."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from actors.streaming.media_muxer import warm_up_muxer
from infra.config import RunConfig
from infra.errors import ClusterError, MediaError
from infra.storage.key_files import read_keys
from omniforcing_model.per_stream import PerStream
from serve.endpoint.api import build_api
from serve.endpoint.http_server import HttpServer, bound_socket
from serve.pairs.pair_registry import Half, Lease, PairState
from serve.sessions.admission import Admission
from serve.sessions.leased_pair import LeasedPair
from serve.sessions.schedule import Schedule

LOG = logging.getLogger(__name__)
RENEW_S = 0.5
# The registry is one process that waits for nothing; while it is replaced there is no answer.
REGISTRY_S = 5.0


class ServeReplicas:
    """The other deployments, through their handles."""

    def __init__(
        self,
        text_encoder: DeploymentHandle[Any],
        registry: DeploymentHandle[Any],
        streams: Mapping[Half, DeploymentHandle[Any]],
        timeout_s: float,
    ) -> None:
        """`timeout_s` bounds every call."""
        self._text_encoder = text_encoder
        self._registry = registry
        self._streams = streams
        self._timeout_s = timeout_s
        self._name = uuid.uuid4().hex
        # By epoch, for as long as a session of that epoch holds its turn.
        self._schedules: WeakValueDictionary[int, Schedule] = WeakValueDictionary()

    async def encode(self, prompt: str) -> PerStream[NDArray[np.float32]]:
        """Text features of a prompt, (tokens, width) per stream."""
        # Without replicas Serve would wait for one for ever.
        features: PerStream[NDArray[np.float32]] = await asyncio.wait_for(
            self._text_encoder.encode.remote(prompt), self._timeout_s
        )
        return features

    async def lease(self) -> LeasedPair | None:
        """A pair to stream through; None if none is ready, or nobody says so."""
        try:
            lease: Lease | None = await _in_time(self._registry.lease.remote(self._name))
        except TimeoutError:
            return None
        if lease is None:
            return None
        schedule = self._schedules.setdefault(lease.epoch, Schedule())
        return LeasedPair(lease, self._streams, schedule, self._timeout_s)

    async def give_back(self, pair: LeasedPair, failed: bool) -> None:
        """End a lease; `failed` has the pair formed anew."""
        if failed:
            await _in_time(self._registry.dissolve.remote(pair.lease.epoch))
        else:
            await _in_time(self._registry.release.remote(pair.lease.lease_id))

    async def pairs(self) -> list[PairState]:
        """All pairs as they are now; none if nobody says so."""
        try:
            states: list[PairState] = await _in_time(self._registry.states.remote())
        except TimeoutError:
            return []
        return states

    async def keep_alive(self) -> None:
        """Renew this gateway's leases for ever, which end some time after it does.

        Who waits for a pair that is over hears of it here: a replica that is dead answers nothing.
        """
        while True:
            try:
                for epoch in await _in_time(self._registry.renew.remote(self._name)):
                    schedule = self._schedules.get(epoch)
                    if schedule is not None:
                        schedule.lost.set()
            except Exception:
                LOG.exception("could not renew the leases")
            await asyncio.sleep(RENEW_S)


async def _in_time(answer: Awaitable[Any]) -> Any:
    """What the registry answers; TimeoutError while it is being replaced."""
    return await asyncio.wait_for(answer, REGISTRY_S)


class Gateway:
    """Holds the open streams of this endpoint. One replica: a stream's reader must find it."""

    def __init__(
        self,
        config: RunConfig,
        model: str,
        text_encoder: DeploymentHandle[Any],
        registry: DeploymentHandle[Any],
        streams: Mapping[Half, DeploymentHandle[Any]],
    ) -> None:
        """Take the handles of the other deployments, and listen at serve.host and serve.port.

        Args:
            config: the run.
            model: the name that streams carry, with the weights' digest.
            text_encoder: of TextEncoderService.
            registry: of PairRegistry.
            streams: of the stream deployments, by half.

        Raises:
            ClusterError: the port is taken.
        """
        # A block may wait for its partner's timeout before it fails.
        timeout_s = 2 * config.serve.exchange_timeout_s
        self._replicas = ServeReplicas(text_encoder, registry, streams, timeout_s)
        admission = Admission(config, model, self._replicas)
        keys = read_keys(config.serve.api_key_file, "serve.api_key_file")
        with contextlib.suppress(MediaError):  # said of the stream that wants it
            warm_up_muxer(config.data.height, config.data.width)
        listener = bound_socket(config.serve.host, config.serve.port)
        self.port = int(listener.getsockname()[1])
        api = build_api(admission, keys, self._alive)
        self._server = HttpServer(api, listener, config.serve.session_timeout_s)

    async def check_health(self) -> None:
        """Serve restarts this replica if this raises."""
        if not self._server.is_alive:
            raise ClusterError("expected an HTTP server, got none; restarting")

    def __del__(self) -> None:
        """Serve calls this when the replica is stopped."""
        if hasattr(self, "_server"):
            self._server.stop()

    @contextlib.asynccontextmanager
    async def _alive(self, _: FastAPI) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._replicas.keep_alive())
        try:
            yield
        finally:
            renewing.cancel()
