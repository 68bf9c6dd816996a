"""What is refused before a route sees it, and what a request is told of who asks."""

import asyncio
import socket

import pytest

from serve.endpoint import guard
from serve.endpoint.guard import Guard, largest_body

KEYS = ("first key", "second")
BODY_BYTES = 100


class Asked:
    """An application that notes what reaches it, behind a guard."""

    def __init__(self, keys=(), hosts=()):
        self.guard = Guard(self, keys, "gpu-box.lan", hosts, BODY_BYTES)
        self.owners = []
        self.bodies = []

    async def __call__(self, scope, receive, send):
        self.owners.append(scope["state"]["owner"])
        if scope["type"] == "http":
            self.bodies.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
        else:
            await send({"type": "websocket.accept"})

    def ask(self, *parts, method="POST", path="/v1/streams", kind="http", **headers):
        """The status, and how many messages of the request were read; parts are its body."""
        given = {"host": "localhost:8000"} | headers
        listed = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in given.items()]
        scope = {"type": kind, "method": method, "path": path, "headers": listed}
        if kind == "websocket":
            scope["extensions"] = {"websocket.http.response": {}}
        waiting, sent = list(parts) or [b""], []

        async def receive():
            if not waiting:
                await asyncio.Event().wait()
            return {
                "type": "http.request",
                "body": waiting.pop(0),
                "more_body": bool(waiting) or "pending" in headers,
            }

        async def send(message):
            sent.append(message)

        asyncio.run(self.guard(scope, receive, send))
        self.reply = b"".join(message.get("body", b"") for message in sent).decode()
        self.headers = dict(sent[0].get("headers", []))
        self.unread = len(waiting)
        return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "a.localhost:80",
        "127.0.0.1:9",
        "[::1]:8000",
        "192.0.2.3",
        "",
        "gpu-box.lan:8000",
        f"{socket.gethostname()}:8000",
        "films.example",
        "Films.Example:443",
    ],
)
def test_addresses_and_names_of_this_server_are_answered(host):
    assert Asked(hosts=("films.example",)).ask(host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "films.example.evil:1"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v1/streams"])
def test_a_name_that_is_not_ours_is_refused_on_every_route(host, path):
    asked = Asked(hosts=("films.example",))
    assert asked.ask(host=host, path=path, method="GET") == 421
    assert f"expected a name of this server as Host, got '{host}'" in asked.reply
    assert asked.owners == []
    assert asked.ask(kind="websocket", host=host) == 421


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_page_of_another_server_may_not_change_anything(kind):
    asked = Asked(hosts=("films.example",))
    for origin in ("http://evil.example", "null", "http://localhost:9000"):
        assert asked.ask(kind=kind, origin=origin) == 403, origin
    passed = 200 if kind == "http" else "websocket.accept"
    for origin in ("http://localhost:8000", "https://films.example"):
        assert asked.ask(kind=kind, origin=origin) == passed, origin


def test_a_wrong_header_is_401_in_one_way_whatever_it_holds():
    asked = Asked(KEYS)
    for header in ("Bearer wrong", "Basic first key", "Bearer", "Bearer schl\xfcssel", "\xff"):
        assert asked.ask(authorization=header) == 401, header
        assert asked.headers[b"www-authenticate"] == b"Bearer"
        assert "first key" not in asked.reply
    assert asked.ask() == 401
    assert "got none; ask the operator for one" in asked.reply
    assert asked.owners == []


def test_each_key_is_an_owner_of_its_own_and_pages_want_none():
    asked = Asked(KEYS)
    for header in ("Bearer first key", "bearer  first key", "Bearer second"):
        assert asked.ask(authorization=header) == 200
    assert asked.ask(path="/", method="GET") == 200
    one, again, other, nobody = asked.owners
    assert one == again != other
    assert nobody is None
    assert "key" not in one
    open_to_all = Asked()
    assert open_to_all.ask(authorization="Bearer first key") == 200
    assert open_to_all.owners == [None]


def test_without_a_key_nothing_of_a_body_is_read_before_the_answer():
    asked = Asked(KEYS)
    assert asked.ask(*[b"x"] * 9, content_length="9") == 401
    assert asked.headers[b"connection"] == b"close"


@pytest.mark.parametrize("path", ["/v1/streams", "/", "/nowhere"])
def test_a_body_beyond_the_limit_is_413_on_every_route_without_reading_on(path, monkeypatch):
    monkeypatch.setattr(guard, "FAREWELL_BYTES", 0)
    asked = Asked()
    assert asked.ask(*[b"x"] * 5, path=path, content_length="101") == 413
    assert "expected a body of at most 100 bytes, got 101; shorten the prompt" in asked.reply
    assert asked.unread == 5
    assert asked.ask(*[b"x" * 60] * 5, path=path, transfer_encoding="chunked") == 413
    assert asked.unread == 3
    assert asked.bodies == []
    assert asked.ask(b"x" * 60, b"y" * 40, content_length="100", path=path) == 200
    assert asked.bodies == [b"x" * 60 + b"y" * 40]


def test_a_body_that_does_not_come_is_408(monkeypatch):
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(guard, "FAREWELL_S", 0.1)
    asked = Asked()
    assert asked.ask(b"x", pending="yes", content_length="2") == 408
    assert "within 0.1 s, got 1 bytes of it" in asked.reply


def test_the_longest_prompt_fits_whatever_its_characters_are():
    longest = (
        '{"prompt": "' + "\\ud83c\\udf27" * 2000 + '", "seconds": 600, "seed": 9223372036854775807}'
    )
    assert len(longest) < largest_body(2000) < 64 * 1024
