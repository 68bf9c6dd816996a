"""The deployments behind a gateway, in this process: real workers, no Ray."""

import asyncio
import contextlib
import socket
import threading
import time

import uvicorn

from actors.latents.codec_loading import load_text_encoder
from serve.leased_pair import LeasedPair
from serve.pair_registry import Lease, PairState

MEMBERS = {"both": "here"}


class _Method:
    def __init__(self, function):
        self._function = function

    async def remote(self, *, replica, epoch, **arguments):
        return await asyncio.to_thread(self._function, **arguments)


class WorkerHandle:
    """A worker behind the interface of a deployment handle; `block_s` slows its blocks down."""

    def __init__(self, worker, block_s=0.0):
        self.worker = worker
        self.block_s = block_s
        self.failure = None
        self.sample_rate = _Method(lambda: worker.sample_rate)
        self.open = _Method(worker.open)
        self.close = _Method(worker.close)
        self.next_block = _Method(self._next_block)

    def _next_block(self, stream_id):
        time.sleep(self.block_s)
        if self.failure is not None:
            raise self.failure
        return self.worker.next_block(stream_id)


class InProcessReplicas:
    """One pair, which is one worker."""

    def __init__(self, worker, config, block_s=0.0):
        self.handle = WorkerHandle(worker, block_s)
        self.ready = True
        self.failed = 0
        self.leases = 0
        self._encoder = load_text_encoder(config)
        self._turn = asyncio.Lock()

    async def encode(self, prompt):
        return self._encoder.encode([prompt]).map(lambda features: features[0].numpy())

    async def lease(self):
        if not self.ready:
            return None
        self.leases += 1
        return LeasedPair(Lease("lease", "here", 1, MEMBERS), {"both": self.handle}, self._turn, 30)

    async def give_back(self, pair, failed):
        self.leases -= 1
        self.failed += failed

    async def pairs(self):
        return [PairState("here", 1, MEMBERS, self.ready, self.leases)]


@contextlib.contextmanager
def listening(api):
    """Serve an ASGI application on a free loopback port; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
