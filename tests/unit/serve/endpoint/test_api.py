"""What a client meets: streams, limits, one-line reasons, control, health, metrics."""

import contextlib
import io
import json
import socket
import time

import av
import httpx
import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from websockets.sync.client import connect

from actors.streaming.stream_worker import StreamWorker
from infra.errors import ClusterError
from omniforcing_model.errors import DivergenceError, ExchangeError
from serve.endpoint.api import build_api
from serve.sessions.admission import Admission
from tests.worlds.in_process_replicas import InProcessReplicas, listening
from tests.worlds.streaming import write_streaming_world
from tests.worlds.waiting import wait_until

PROMPT = "a red disc flashes twice a second with a high beep"
KEY = "a long secret"
LOST = (
    "expected next_block to succeed, got a broken exchange; the pair is formed anew, ask again with"
    " the same seed"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder, config = write_streaming_world(tmp_path_factory.mktemp("world"))
    return StreamWorker(folder, config, encodes=True), config


class Served:
    """A running server, its client, and what stands behind it."""

    def __init__(self, url, admission, replicas, keys):
        self.url = url
        self.admission = admission
        self.replicas = replicas
        self.client = httpx.Client(
            base_url=url,
            timeout=60,
            headers={"Authorization": f"Bearer {keys[0]}"} if keys else {},
        )

    def post(self, **body):
        return self.client.post("/v1/streams", json={"prompt": PROMPT, "seed": 7} | body)

    def create(self, **body):
        reply = self.post(**body)
        assert reply.status_code == 201, reply.text
        return reply.json()

    def status(self, stream):
        return self.client.get(stream["urls"]["status"]).json()

    def media(self, stream):
        reply = self.client.get(stream["urls"]["media"])
        assert reply.status_code == 200
        return reply.content

    def has_ended(self, stream):
        return self.status(stream)["state"] in ("done", "stopped", "failed")


@pytest.fixture
def serving(world):
    """Starts servers with other limits: `serving(max_sessions=2)`."""
    worker, config = world
    with contextlib.ExitStack() as stack:

        def start(block_s=0.0, keys=(), **limits):
            run = config.model_copy(update={"serve": config.serve.model_copy(update=limits)})
            replicas = InProcessReplicas(worker, run, block_s)
            admission = Admission(run, "model sha256:abc", replicas)
            api = build_api(admission, keys)
            url = stack.enter_context(listening(api, run.serve.session_timeout_s))
            served = Served(url, admission, replicas, keys)
            stack.callback(served.client.close)
            return served

        yield start
    assert worker.open_streams == []


def frames_in(data):
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_five_seconds_are_121_frames_of_a_playable_file(serving):
    server = serving()
    stream = server.create(seconds=5)
    data = server.media(stream)
    assert len(frames_in(data)) == 121
    with av.open(io.BytesIO(data)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        assert abs(samples / 16_000 - 121 / 24) < 0.040
    status = server.status(stream)
    assert (status["state"], status["reason"]) == ("done", None)
    assert [block["index"] for block in status["blocks"]] == list(range(6))
    assert status["queued_blocks"] == 0
    news = server.client.get(stream["urls"]["status"], params={"first_block": 4})
    assert [block["index"] for block in news.json()["blocks"]] == [4, 5]
    refused = server.client.get(stream["urls"]["status"], params={"first_block": -1})
    assert refused.status_code == 422


def test_first_bytes_leave_before_the_last_block_is_computed(serving):
    server = serving(block_s=0.05)
    stream = server.create(seconds=6)
    server.media(stream)
    status = server.status(stream)
    blocks = status["blocks"]
    assert blocks[0]["sent_at"] < blocks[-1]["computed_at"]
    assert status["first_byte_s"] < status["first_chunk_s"]
    assert status["created_at"] + status["first_chunk_s"] < blocks[-1]["computed_at"]
    assert all(b["computed_at"] < b["encoded_at"] < b["sent_at"] for b in blocks)
    assert all(b["block_s"] >= 0.05 for b in blocks)


def test_same_seed_gives_the_same_bytes(serving):
    server = serving()
    first = server.media(server.create(seconds=2))
    assert server.media(server.create(seconds=2)) == first
    assert server.media(server.create(seconds=2, seed=8)) != first


def test_without_a_seed_each_stream_draws_its_own_and_says_which(serving):
    server = serving(max_sessions=2)
    seeds = {server.create(seconds=1, seed=None)["seed"] for _ in range(2)}
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"prompt": "x" * 10_000}, "expected at most 2,000 characters, got 10,000"),
        ({"prompt": "  "}, "prompt: expected a prompt, got an empty one"),
        ({"prompt": 5}, "prompt: "),
        ({"seconds": 0}, "seconds: expected 1 to 600, got 0"),
        ({"seconds": -3}, "seconds: expected 1 to 600, got -3"),
        ({"seconds": 601}, "seconds: expected 1 to 600, got 601"),
        ({"seconds": 1.5}, "seconds: "),
        ({"seconds": True}, "seconds: "),
        ({"seed": -1}, "seed: "),
        ({"speed": 2}, "speed: Extra inputs are not permitted"),
    ],
)
def test_requests_beyond_the_limits_get_422_and_one_line(serving, body, reason):
    reply = serving().post(**body)
    assert reply.status_code == 422
    assert reason in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert len(reply.text) < 400


def test_broken_json_and_unknown_paths_get_one_line_too(serving):
    client = serving().client
    broken = client.post("/v1/streams", content="{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 422
    assert broken.json()["error"].startswith("expected a body in JSON, got Expecting property name")
    assert broken.json()["error"].endswith('place 1; send {"prompt": "...", "seconds": 10}')
    assert client.get("/v1/streams/none").status_code == 404
    assert "expected the id of a stream" in client.get("/v1/streams/none").json()["error"]
    assert client.get("/nowhere").json() == {"error": "Not Found"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (r'{"prompt": "a\ud800"}', "half of a character (U+D800) at place 1"),
        (r'{"prompt": "\udf27a"}', "half of a character (U+DF27) at place 0"),
        (r'{"prompt": "a\u0000b"}', "a control character (U+0000) at place 1"),
        (r'{"prompt": "a\u001b[31m"}', "a control character (U+001B) at place 1"),
        (r'{"prompt": "rain", "a\ud800": 1}', r"(got 'a\ud800')"),
        (r'{"prompt": "rain", "seed": "\ud800"}', "seed: "),
    ],
)
def test_what_is_no_text_gets_422_and_a_line_that_can_be_read(serving, body, reason):
    json_ = {"Content-Type": "application/json"}
    reply = serving().client.post("/v1/streams", content=body, headers=json_)
    assert reply.status_code == 422
    assert reason in reply.json()["error"]


def test_a_prompt_of_any_language_is_shown_as_it_was_sent(serving):
    server = serving()
    prompt = "réd \U0001f327\ufe0f 雨\n\tعربي"
    stream = server.create(prompt=prompt, seconds=1)
    assert server.status(stream)["prompt"] == prompt
    server.media(stream)


@pytest.mark.parametrize("seed", [0, 2**53 - 1, 2**53 + 1, 2**63 - 1])
def test_a_seed_is_answered_digit_for_digit(serving, seed):
    server = serving()
    reply = server.post(seconds=1, seed=seed)
    assert f'"seed":{seed},' in reply.text
    assert f'"seed":{seed},' in server.client.get(reply.json()["urls"]["status"]).text
    server.media(reply.json())


def test_a_failed_stream_is_cut_and_nobody_takes_it_for_whole(serving):
    server = serving(block_s=0.1, max_sessions=2)
    stream, other = server.create(seconds=60), server.create(seconds=2)
    received = b""
    with server.client.stream("GET", stream["urls"]["media"]) as reply:
        chunks = reply.iter_raw()
        while len(server.status(stream)["blocks"]) < 3:
            received += next(chunks)
        server.replicas.handle.failures["next_block"] = DivergenceError("not finite")
        wait_until(lambda: server.has_ended(stream))
        server.replicas.handle.failures.clear()
        with pytest.raises(httpx.ReadError):
            for chunk in chunks:
                received += chunk
    status = server.status(stream)
    assert (status["state"], status["reason"]) == ("failed", "not finite")
    assert all(block["sent_at"] for block in status["blocks"])
    assert len(received) > sum(block["fragment_bytes"] for block in status["blocks"])
    assert server.replicas.failed == 0
    assert len(frames_in(server.media(server.create(seconds=1)))) == 25
    server.client.delete(other["urls"]["status"])


def test_a_reader_that_stalls_is_waited_for_and_then_cut_off(serving):
    server = serving(session_timeout_s=2, max_queued_blocks=2, max_lead_s=1000)
    stream = server.create(seconds=600)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        asked = f"GET {stream['urls']['media']} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader.sendall(asked.encode())
        wait_until(lambda: server.has_ended(stream), 30)
        status = server.status(stream)
        assert (status["state"], status["reason"]) == (
            "stopped",
            "no reader took a block in time (2 s)",
        )
        assert len(status["blocks"]) <= 10
        wait_until(lambda: server.admission.open_streams == 0, 10)
        with pytest.raises(ConnectionResetError):
            while reader.recv(65536):
                pass


def test_a_stream_belongs_to_the_key_that_opened_it(serving):
    server = serving(keys=(KEY, "another"), block_s=0.1)
    stream = server.create(seconds=60)
    wait_until(lambda: server.status(stream)["blocks"])
    other = {"Authorization": "Bearer another"}
    with httpx.Client(base_url=server.url, headers=other) as stranger:
        for method, url in (("GET", "status"), ("DELETE", "status"), ("GET", "media")):
            reply = stranger.request(method, stream["urls"][url])
            assert reply.status_code == 404
            assert "expected the id of a stream" in reply.json()["error"]
    stranger = control(server, stream, additional_headers=other)
    with stranger, pytest.raises(Exception, match="4404"):
        stranger.recv()
    assert server.status(stream)["state"] == "streaming"
    assert server.client.delete(stream["urls"]["status"]).json()["state"] == "stopped"
    assert stranger_status(server, stream, other) == 404


def test_a_browser_without_headers_fetches_the_stream_that_a_key_opened(serving):
    """`<video src>` and WebSocket send no Authorization."""
    server = serving(keys=(KEY,))
    stream = server.create(seconds=1)
    urls = stream["urls"]
    with httpx.Client(base_url=server.url) as browser:
        assert browser.get(urls["media"].partition("?")[0]).status_code == 401
        assert browser.get(urls["status"]).status_code == 401
        assert (
            browser.get(urls["status"] + "?" + urls["media"].partition("?")[2]).status_code == 401
        )
        with connect(server.url.replace("http", "ws") + urls["control"]) as socket:
            media = browser.get(urls["media"])
            assert [json.loads(event)["type"] for event in socket] == ["block", "block", "end"]
        assert len(frames_in(media.content)) == 25
        other = server.create(seconds=1)
        ticket = urls["media"].partition("?")[2]
        assert browser.get(f"{other['urls']['status']}/media.mp4?{ticket}").status_code == 401
        server.client.delete(other["urls"]["status"])


def stranger_status(server, stream, headers):
    return httpx.get(server.url + stream["urls"]["status"], headers=headers).status_code


def test_replicas_are_named_to_those_with_a_key_alone(serving):
    server = serving(keys=(KEY,))
    with httpx.Client(base_url=server.url) as stranger:
        assert stranger.get("/readyz").json() == {
            "status": "ready",
            "model": "model sha256:abc",
            "pairs": 1,
        }
        assert "here" not in stranger.get("/metrics").text
        assert stranger.get("/v1/pairs").status_code == 401
    (pair,) = server.client.get("/v1/pairs").json()
    assert pair["members"] == {"both": "here"}


def test_one_stream_too_many_gets_429_with_a_time_to_retry(serving):
    server = serving(max_sessions=1, block_s=0.1)
    first = server.create(seconds=20)
    wait_until(lambda: server.status(first)["blocks"])
    refused = server.post(seconds=1)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert "open streams" in refused.json()["error"]
    server.client.delete(first["urls"]["status"])
    wait_until(lambda: server.admission.open_streams == 0)
    server.media(server.create(seconds=1))


def test_without_a_ready_pair_the_answer_is_503(serving):
    server = serving()
    server.replicas.ready = False
    assert server.client.get("/readyz").status_code == 503
    refused = server.post(seconds=1)
    assert refused.status_code == 503
    assert "Retry-After" in refused.headers
    assert server.client.get("/healthz").status_code == 200


def left_by_its_reader(server):
    """A stream that its reader has left; the seconds until the pair is free, the blocks since."""
    stream = server.create(seconds=60)
    with server.client.stream("GET", stream["urls"]["media"]) as reply:
        chunks = reply.iter_raw()  # closes the reply when it is forgotten
        next(chunks)
        wait_until(lambda: len(server.status(stream)["blocks"]) > 2)
    before = len(server.status(stream)["blocks"])
    freed_after_s = wait_until(lambda: server.replicas.leases == 0)
    status = server.status(stream)
    return status, freed_after_s, len(status["blocks"]) - before


def test_a_reader_that_disconnects_frees_the_pair(serving):
    server = serving(block_s=0.2, resume_s=0.5)
    status, _, blocks = left_by_its_reader(server)
    assert (status["state"], status["reason"]) == ("streaming", None)  # it may come back
    assert blocks <= 5  # of the 57 that were left
    wait_until(lambda: server.admission.open_streams == 0)


def test_a_client_whose_connection_broke_goes_on_at_a_block(serving):
    server = serving(block_s=0.05, max_queued_blocks=2)
    stream = server.create(seconds=6)
    with server.client.stream("GET", stream["urls"]["media"]) as reply:
        chunks = reply.iter_raw()
        wait_until(lambda: len(server.status(stream)["blocks"]) > 1)
        received = next(chunks)  # the header, and perhaps more
    assert received[4:8] == b"ftyp"
    wait_until(lambda: server.replicas.leases == 0)
    rest = server.client.get(stream["urls"]["media"], params={"block": 1})
    whole = server.client.get(stream["urls"]["media"], params={"block": 0})
    assert whole.status_code == 410  # everything was taken
    assert rest.content[4:8] == b"moof"
    again = server.media(server.create(seconds=6))
    assert again.endswith(rest.content)
    assert server.client.get(stream["urls"]["media"], params={"block": -1}).status_code == 422


@pytest.mark.quiet
def test_it_does_so_within_one_block(serving):
    status, freed_after_s, blocks = left_by_its_reader(serving(block_s=0.2))
    assert blocks <= 1
    assert freed_after_s < 2 * max(block["block_s"] for block in status["blocks"]) + 0.5


def test_a_reader_that_stops_reading_stops_only_its_own_stream(serving):
    """With a real socket whose buffers are full, at most a few blocks wait."""
    server = serving(max_sessions=2, max_queued_blocks=2, max_lead_s=3)
    stalled = server.create(seconds=60)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(
            f"GET {stalled['urls']['media']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        other = server.create(seconds=2)
        assert len(frames_in(server.media(other))) == 49
        began = time.monotonic()
        wait_until(lambda: len(server.status(stalled)["blocks"]) >= 4)
        time.sleep(1)
        ahead = len(server.status(stalled)["blocks"]) - (time.monotonic() - began)
        assert ahead < 3 + 2 + 2
    wait_until(lambda: server.has_ended(stalled))


def test_blocks_wait_for_a_reader_and_a_stream_nobody_reads_is_ended(serving):
    server = serving(max_queued_blocks=2, session_timeout_s=1.5)
    stream = server.create(seconds=20)
    wait_until(lambda: server.has_ended(stream))
    status = server.status(stream)
    assert len(status["blocks"]) == 2
    assert status["state"] == "stopped"
    assert "no reader" in status["reason"]
    wait_until(lambda: server.admission.open_streams == 0)
    assert server.client.get(stream["urls"]["media"]).status_code == 410


def test_a_stream_has_one_reader(serving):
    server = serving(block_s=0.1)
    stream = server.create(seconds=10)
    with server.client.stream("GET", stream["urls"]["media"]) as reply:
        chunks = reply.iter_raw()  # closes the reply when it is forgotten
        next(chunks)
        second = server.client.get(stream["urls"]["media"])
    assert second.status_code == 409
    assert "one reader" in second.json()["error"]


def test_deleting_a_stream_ends_the_file_cleanly(serving):
    server = serving(block_s=0.1)
    stream = server.create(seconds=60)
    received = b""
    with server.client.stream("GET", stream["urls"]["media"]) as reply:
        chunks = reply.iter_raw()
        while len(server.status(stream)["blocks"]) < 3:
            received += next(chunks)
        deleted = httpx.delete(server.url + stream["urls"]["status"], timeout=30)
        received += b"".join(chunks)
    assert deleted.json()["state"] == "stopped"
    assert deleted.json()["reason"] == "stopped by request"
    blocks = len(server.status(stream)["blocks"])
    assert len(frames_in(received)) == 1 + 24 * (blocks - 1)
    assert server.client.delete("/v1/streams/none").status_code == 404


def test_endless_streams_run_to_the_limit(serving):
    server = serving(max_seconds=2)
    stream = server.create(seconds=None)
    assert stream["seconds"] == 2
    assert len(frames_in(server.media(stream))) == 49


def test_a_stream_that_loses_pair_after_pair_ends_with_its_reason_and_gives_them_up(serving):
    server = serving()
    server.replicas.handle.failures["next_block"] = ExchangeError("r1, [192.0.2.7]:80: closed")
    stream = server.create(seconds=5)
    wait_until(lambda: server.has_ended(stream))
    status = server.status(stream)
    assert (status["state"], status["reason"]) == ("failed", LOST)
    assert server.replicas.failed == 4
    server.replicas.handle.worker.close(stream["id"])


def control(server, stream, **options):
    return connect(server.url.replace("http", "ws") + stream["urls"]["control"], **options)


def test_the_control_socket_sends_every_block_and_the_end(serving):
    server = serving()
    stream = server.create(seconds=3)
    with control(server, stream) as socket_:
        server.media(stream)
        events = [json.loads(text) for text in socket_]
    assert [event["type"] for event in events] == ["block"] * 4 + ["end"]
    assert [event["block"]["index"] for event in events[:-1]] == [0, 1, 2, 3]
    assert events[-1]["state"] == "done"


def test_the_control_socket_stops_a_stream_and_says_what_it_does_not_understand(serving):
    server = serving(block_s=0.1)
    stream = server.create(seconds=60)
    with control(server, stream) as socket_:
        socket_.send('{"type": "pause"}')
        socket_.send('{"type": "stop"}')
        events = [json.loads(text) for text in socket_]
    errors = [event["error"] for event in events if event["type"] == "error"]
    assert errors == ["""expected {"type": "stop"}, got '{"type": "pause"}'"""]
    assert events[-1] == {"type": "end", "state": "stopped", "reason": "stopped by request"}


def test_with_keys_only_those_who_know_one_get_in(serving):
    server = serving(keys=(KEY, "another"))
    stream = server.create(seconds=1)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        with httpx.Client(base_url=server.url, headers=headers) as unauthorised:
            refused = unauthorised.post("/v1/streams", json={"prompt": PROMPT})
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in refused.text
            media = stream["urls"]["media"].partition("?")[0]
            assert unauthorised.get(media).status_code == 401
            assert unauthorised.get("/").status_code == 200
    without_ticket = {"urls": {"control": stream["urls"]["control"].partition("?")[0]}}
    with control(server, without_ticket) as unauthorised, pytest.raises(Exception, match="4401"):
        unauthorised.recv()
    with control(server, stream, additional_headers={"Authorization": f"Bearer {KEY}"}) as known:
        server.media(stream)
        assert json.loads(known.recv())["type"] == "block"


def test_metrics_count_streams_blocks_and_refusals(serving):
    server = serving()
    server.media(server.create(seconds=2))
    server.post(seconds=0)
    wait_until(lambda: server.admission.open_streams == 0)
    reply = server.client.get("/metrics")
    assert reply.headers["Content-Type"] == CONTENT_TYPE_LATEST
    text = reply.text
    assert 'omniforcing_streams_ended_total{state="done"} 1' in text
    assert 'omniforcing_streams_refused_total{status="422"} 1' in text
    assert "omniforcing_block_seconds_count 3" in text
    assert "omniforcing_first_chunk_seconds_count 1" in text
    assert "omniforcing_pairs_ready 1" in text
    assert "omniforcing_open_streams 0" in text


def test_the_player_and_the_description_come_with_the_server(serving):
    client = serving().client
    assert "MediaSource" in client.get("/").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/streams", "/v1/streams/{stream_id}", "/healthz", "/readyz", "/metrics"} <= set(
        paths
    )


def test_a_pair_that_is_lost_before_its_stream_begins_is_formed_anew(serving):
    server = serving()
    server.replicas.handle.failures["facts"] = ClusterError("expected a replica, got none")
    reply = server.post(seconds=1)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")
    assert (server.replicas.leases, server.replicas.failed) == (0, 1)
    server.replicas.handle.failures.clear()
    assert len(frames_in(server.media(server.create(seconds=1)))) == 25
