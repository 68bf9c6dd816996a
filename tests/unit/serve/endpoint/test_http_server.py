"""The server in front: bounds in time and size, and replies that are whole or cut."""

import socket
import threading
import time

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import Response
from websockets.sync.client import connect

from infra.errors import ClusterError, ConfigError
from serve.endpoint import http_server
from serve.endpoint.http_server import bound_socket
from tests.worlds.in_process_replicas import listening

PART = b"x" * 100_000


class Part(Response):
    """The begin of a reply that is cut."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": PART, "more_body": True})
        await scope["state"]["cut"](5.0)
        raise RuntimeError("it broke off")


@pytest.fixture
def url():
    api = FastAPI()
    api.get("/whole")(lambda: "whole")

    @api.get("/part")
    async def part() -> Part:
        return Part()

    @api.websocket("/talk")
    async def talk(talking: WebSocket):
        await talking.accept()
        await talking.send_text(str(len(await talking.receive_text())))
        await talking.receive_text()

    with listening(api) as url:
        yield url


def connected(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_reply_that_breaks_off_ends_in_an_error_after_its_last_byte(url, version):
    received = b""
    with connected(url) as client:
        client.sendall(f"GET /part HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            while data := client.recv(65536):
                received += data
    assert received.count(b"x") == len(PART)


def test_a_request_that_is_not_there_in_time_is_cut_off(url, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.3)
    for head in (b"", b"GET /whole HTTP/1.1\r\n"):
        with connected(url) as client:
            client.sendall(head)
            began = time.monotonic()
            assert drip(client) == b""
            assert 0.2 < time.monotonic() - began < 10
    assert httpx.get(f"{url}/whole").json() == "whole"


def drip(client):
    """What comes back to a client that sends a byte now and then."""
    stopped = threading.Event()

    def send():
        while not stopped.wait(0.05):
            try:
                client.sendall(b"x")
            except OSError:
                return

    sending = threading.Thread(target=send)
    sending.start()
    try:
        return client.recv(100)
    except ConnectionError:
        return b""
    finally:
        stopped.set()
        sending.join()


def test_a_second_request_on_a_connection_has_its_own_time(url, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.5)
    with httpx.Client() as client:
        for _ in range(4):
            assert client.get(f"{url}/whole").json() == "whole"
            time.sleep(0.2)


def test_a_head_beyond_the_limit_is_refused(url):
    with connected(url) as client:
        client.sendall(b"GET /whole HTTP/1.1\r\nX-Long: " + b"x" * http_server.HEADER_BYTES)
        assert client.recv(1000).startswith(b"HTTP/1.1 400")


def test_a_message_beyond_the_limit_closes_its_socket_and_no_other(url):
    place = url.replace("http", "ws") + "/talk"
    with connect(place) as other, connect(place) as long:
        long.send("x" * http_server.MESSAGE_BYTES * 2)
        with pytest.raises(Exception, match="1009"):
            long.recv()
        other.send("x" * 100)
        assert other.recv() == "100"


def test_a_taken_port_and_an_address_of_elsewhere_are_one_line():
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"expected port {port} of 127.0.0.1 to be free"):
            bound_socket("127.0.0.1", port)
    with pytest.raises(ConfigError, match="expected an address to listen on, got 'no such'"):
        bound_socket("no such", 0)
