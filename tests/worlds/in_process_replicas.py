"""The deployments behind a gateway, in this process: real workers and registry, no Ray."""

import asyncio
import contextlib
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from actors.latents.codec_loading import load_text_encoder
from serve.endpoint.http_server import HttpServer, bound_socket
from serve.pairs.pair_registry import Lease, PairState
from serve.sessions.leased_pair import LeasedPair
from serve.sessions.schedule import Schedule

MEMBERS = {"both": "here"}
GATE_S = 60.0


class WorkerHandle:
    """A worker behind the interface of a deployment handle.

    `block_s` slows its blocks down, and while `gate` is clear they wait. `failures` holds what a
    method raises, by its name: an error, always, or a list, in which None is no error, once each;
    `calls` the names of the methods that were called.
    """

    def __init__(self, worker, block_s=0.0):
        self.worker = worker
        self.block_s = block_s
        self.gate = threading.Event()
        self.gate.set()
        self.failures = {}
        self._model_thread = ThreadPoolExecutor(1)
        self.calls = []
        self.facts = self._method("facts", lambda: worker.facts, waits=False)
        self.open = self._method("open", worker.open)
        self.replay = self._method("replay", worker.replay)
        self.finish = self._method("finish", worker.finish)
        self.close = self._method("close", worker.close)
        self.next_block = self._method("next_block", self._next_block)

    def _method(self, name, function, waits=True):
        """As a replica's: what is asked for is done, also if nobody waits for it any more, and one
        thing after the other where it `waits` for the model."""

        def remote(*, replica, epoch, **arguments):
            self.calls.append(name)
            failure = self.failures.get(name)
            if isinstance(failure, list):
                failure = failure.pop(0) if failure else None
            begin = functools.partial(function, **arguments)
            doing = self._model_thread.submit(begin) if failure is None and waits else None

            async def answer():
                if failure is not None:
                    raise failure
                return begin() if doing is None else await asyncio.wrap_future(doing)

            return asyncio.shield(answer())

        return SimpleNamespace(remote=remote)

    def _next_block(self, stream_id, ahead):
        assert self.gate.wait(GATE_S)
        time.sleep(self.block_s)
        return self.worker.next_block(stream_id)


class RegistryHandle:
    """A PairRegistry behind the interface of a deployment handle."""

    def __init__(self, registry):
        self._registry = registry

    def __getattr__(self, name):
        method = getattr(self._registry, name)
        return SimpleNamespace(remote=lambda *arguments: _Answer(method, arguments))


class _Answer:
    """What a call returned, to be awaited or waited for; a call is made whether or not it is."""

    def __init__(self, method, arguments):
        self._value = method(*arguments)

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self._value

    def result(self, timeout_s):
        return self._value


class InProcessReplicas:
    """One pair, which is one worker."""

    def __init__(self, worker, config, block_s=0.0):
        self.handle = WorkerHandle(worker, block_s)
        self.ready = True
        self.failed = 0
        self.leases = 0
        self._encoder = load_text_encoder(config)
        self._schedule = Schedule()

    async def encode(self, prompt):
        return self._encoder.encode([prompt]).map(lambda features: features[0].numpy())

    async def lease(self):
        if not self.ready:
            return None
        self.leases += 1
        lease = Lease("lease", "here", 1 + self.failed, MEMBERS)
        return LeasedPair(lease, {"both": self.handle}, self._schedule, 30)

    async def give_back(self, pair, failed):
        """A pair that failed is formed anew, and its streams are closed."""
        self.leases -= 1
        self.failed += failed
        if failed:
            for stream_id in self.handle.worker.open_streams:
                self.handle.worker.close(stream_id)

    async def pairs(self):
        return [PairState("here", 1, MEMBERS, self.ready, self.leases)]


@contextlib.contextmanager
def listening(api, stalled_s=60.0):
    """Serve an application on a free loopback port, as the gateway does; yields its URL."""
    listener = bound_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(api, listener, stalled_s)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
