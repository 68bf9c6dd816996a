"""The server behind the gateway: HTTP and WebSocket on one port, in a thread of its own.

Ray Serve's own proxy keeps in memory whatever a client sends or does not take, and ends a reply
that broke off like a whole one. This one is uvicorn with bounds: what a reader has not taken holds
its stream back, a request has to be there in time, and a reply that fails is cut.
"""

import asyncio
import contextlib
import fcntl
import logging
import socket
import struct
import sys
import termios
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from infra.errors import ClusterError, ConfigError

# Unsent bytes in the kernel; what is on its way to a reader comes on top, and its own buffer.
UNSENT_BYTES = 16 * 1024
HEADER_BYTES = 16 * 1024
# A control message is {"type": "stop"}.
MESSAGE_BYTES = 4 * 1024
REQUEST_TIMEOUT_S = 10.0
CONNECTIONS = 1000
START_TIMEOUT_S = 30.0
CUT_POLL_S = 0.02
# A stream's own timeout comes first; the kernel's is for every other reply.
KERNEL_PATIENCE = 2
# A client that is cut off hears of it: RST instead of FIN, at once.
RESET = struct.pack("ii", 1, 0)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`, of which 0 is a free one; it does not listen yet.

    Raises:
        ConfigError: the host is no address of this machine.
        ClusterError: the port is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"expected an address to listen on, got {host!r}: {error}") from error
    bound = socket.socket(family)
    try:
        # A port in TIME_WAIT is free.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ClusterError(
            f"expected port {port} of {host} to be free, got: {error.strerror}; stop what"
            " listens there, or choose another with --port"
        ) from error
    return bound


class HttpServer:
    """An application that is served from construction on, until `stop`."""

    def __init__(self, api: FastAPI, listener: socket.socket, stalled_s: float) -> None:
        """Listen; returns when requests are answered.

        Args:
            api: the routes.
            listener: from `bound_socket`; it is closed at the end.
            stalled_s: a client that takes nothing for twice as long is disconnected.

        Raises:
            ClusterError: the application does not start.
        """
        # Accepted sockets inherit these.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            patience_ms = round(1000 * KERNEL_PATIENCE * stalled_s)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = Config(
            api,
            http=BoundedProtocol,
            h11_max_incomplete_event_size=HEADER_BYTES,
            ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [listener]},
            name="http",
            daemon=True,
        )
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ClusterError("expected the HTTP server to start, got none; see the log")
            time.sleep(0.01)

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop listening, cut what is open, and return when that is done."""
        self._server.should_exit = True
        self._thread.join()


class BoundedProtocol(H11Protocol):
    """A connection whose requests come in time, and that holds nothing back for its reader.

    A request finds `state["cut"]` in its scope.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state | {"cut": self.cut}, _loop)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for ever."""
        super().connection_made(transport)
        # Writing waits until the kernel has all of what was written before.
        transport.set_write_buffer_limits(high=0)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """A part of a request; its head has to be whole in time. The body is the routes'."""
        self._expect_request()
        super().data_received(data)
        if self._is_busy():
            self._forget_deadline()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Another protocol takes over."""
        self._forget_deadline()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._forget_deadline()
        super().connection_lost(exc)

    async def cut(self, patience_s: float) -> None:
        """Close with an error, once the client has what was sent or `patience_s` are over.

        A reply without its last chunk tells curl that it broke off, but not ffmpeg, nor who speaks
        HTTP/1.0.
        """
        connection = self.transport.get_extra_info("socket")
        deadline = self.loop.time() + patience_s
        while self.loop.time() < deadline and not self.transport.is_closing():
            if not self.transport.get_write_buffer_size() and not _unacknowledged(connection):
                break
            await asyncio.sleep(CUT_POLL_S)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _expect_request(self) -> None:
        if self._deadline is None and not self._is_busy():
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_busy():
            self.transport.abort()


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that the other machine does not have yet."""
    count = bytearray(4)
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)
