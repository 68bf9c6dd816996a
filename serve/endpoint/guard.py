"""What is checked of a request before any route sees it: whom it is for, who asks, and its size.

A refusal costs nothing: neither the body nor anything of the application is looked at before.
"""

import asyncio
import hmac
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import RefusedError
from serve.endpoint.tickets import Tickets, owner_of
from serve.sessions.protocol import ErrorReply

PROTECTED = "/v1/"
BODY_TIMEOUT_S = 10.0
# A client that is still sending when it is refused may finish for so long, to read the refusal.
FAREWELL_S = 2.0
FAREWELL_BYTES = 1024 * 1024
# A character of a prompt may come as two escapes, "\ud83c\udf27"; the other fields are short.
BYTES_OF_A_CHARACTER = 12
OTHER_BYTES = 4 * 1024


def largest_body(max_prompt_chars: int) -> int:
    """Bytes that a request with a prompt of this length may have."""
    return OTHER_BYTES + BYTES_OF_A_CHARACTER * max_prompt_chars


class Guard:
    """Passes on what may be asked. A request finds `state["owner"]` in its scope.

    That is a digest of the key it came with, or of the one whose ticket it carries (tickets.py);
    None where no keys are wanted.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str],
        host: str,
        hosts: Iterable[str],
        body_bytes: int,
    ) -> None:
        """Stand before `app`.

        Args:
            app: the application.
            keys: bearer keys of which everything below /v1 wants one; empty: open to everybody.
            host: that the server listens at.
            hosts: further names of this server, besides those of this machine; their pages may
                use it.
            body_bytes: that a request may have.
        """
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._tickets = Tickets(keys)
        self._page_names = {name.lower() for name in hosts}
        own = {name.lower() for name in (host, "localhost", socket.gethostname())}
        self._names = own | self._page_names
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check_names(scope)
            self._identify(scope)
            if scope["type"] == "http":
                receive = _replayed(await self._body(scope, receive), receive)
        except RefusedError as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_names(self, scope: Scope) -> None:
        """RefusedError for another server's name: a page may have given it our address."""
        host = _header(scope, b"host")
        if host and not self._is_ours(_name_of(host)):
            raise RefusedError(
                f"expected a name of this server as Host, got {host[:60]!r}; add it to serve.hosts",
                status=421,
            )
        origin = _header(scope, b"origin")
        asks_to_change = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if origin and asks_to_change:
            place = urlsplit(origin).netloc
            if place != host and _name_of(place) not in self._page_names:
                raise RefusedError(
                    f"expected a page of this server as Origin, got {origin[:60]!r}; add its name"
                    " to serve.hosts",
                    status=403,
                )

    def _is_ours(self, name: str) -> bool:
        """Whether a client may know this server by `name`: a page cannot move an address."""
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _identify(self, scope: Scope) -> None:
        state = scope.setdefault("state", {})
        state["owner"] = None
        if not self._keys or not scope["path"].startswith(PROTECTED):
            return
        scheme, _, key = _header(scope, b"authorization").encode("latin-1").partition(b" ")
        key = key.strip()
        # Compares with every key in full: the time taken gives nothing of them away.
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        if scheme.lower() == b"bearer" and any(matches):
            state["owner"] = owner_of(key)
            return
        if not key and (scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD")):
            query = scope.get("query_string", b"").decode("latin-1")
            state["owner"] = self._tickets.owner(scope["path"], query)
        # The control socket says so with a code that browsers see.
        if state["owner"] is None and scope["type"] == "http":
            raise RefusedError(
                "expected a known key in 'Authorization: Bearer KEY', got"
                f" {'another' if key else 'none'}; ask the operator for one",
                status=401,
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body of a request; RefusedError if it is too long or does not come."""
        stated = _header(scope, b"content-length")
        if stated.isdecimal() and int(stated) > self._body_bytes:
            raise self._too_long(f"{int(stated):,}")
        body = bytearray()
        with suppress(TimeoutError):
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if message["type"] == "http.disconnect":
                        raise RefusedError("the client went away", status=400)
                    if len(body) > self._body_bytes:
                        raise self._too_long("more")
                    if not message.get("more_body", False):
                        return bytes(body)
        raise RefusedError(
            f"expected the whole request within {BODY_TIMEOUT_S:g} s, got {len(body):,} bytes of"
            " it; send it again",
            status=408,
        )

    def _too_long(self, got: str) -> RefusedError:
        return RefusedError(
            f"expected a body of at most {self._body_bytes:,} bytes, got {got}; shorten the prompt",
            status=413,
        )


def error_reply(refusal: RefusedError) -> JSONResponse:
    """What a client reads of a refusal."""
    headers = {}
    if refusal.retry_after_s:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # What a client sent may be quoted, and be no text.
    message = str(refusal).encode(errors="backslashreplace").decode()
    return JSONResponse(ErrorReply(error=message).model_dump(), refusal.status, headers)


async def _refuse(refusal: RefusedError, scope: Scope, receive: Receive, send: Send) -> None:
    reply = error_reply(refusal)
    has_body = _header(scope, b"transfer-encoding") or _header(scope, b"content-length") > "0"
    if scope["type"] == "websocket" or not has_body:
        await reply(scope, receive, send)
        return
    reply.headers["Connection"] = "close"
    start = {"type": "http.response.start", "status": reply.status_code}
    await send({**start, "headers": reply.raw_headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    await _hear_out(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hear_out(receive: Receive) -> None:
    """Take some of what a client is still sending: closed at once, it would not see the reply."""
    heard, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            while more and heard < FAREWELL_BYTES:
                message = await receive()
                heard += len(message.get("body", b""))
                more = message.get("more_body", False)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive`, once it has given `body` in one piece."""
    waiting = [body]

    async def next_message() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return next_message


def _header(scope: Scope, name: bytes) -> str:
    """The first header of this name; empty without one."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _name_of(place: str) -> str:
    """Of HOST, HOST:PORT or [ADDRESS]:PORT."""
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""
