"""What `omniforcing generate` writes, in this process and from a server, and what it refuses."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actors.streaming.stream_worker import StreamWorker
from infra.config import RunConfig
from infra.errors import ConfigError, ServerError
from infra.media.files import probe
from infra.terminal.progress import SilentProgress
from omniforcing_model.errors import DivergenceError
from pipelines.generate import FragmentCounter, Request, generate_from_server, generate_here
from serve.endpoint.api import build_api
from serve.sessions.admission import Admission
from tests.worlds.breaking_relay import BreakingRelay
from tests.worlds.in_process_replicas import InProcessReplicas, listening
from tests.worlds.streaming import write_streaming_world

PROMPT = "a red disc flashes twice a second with a high beep"
REQUEST = Request(PROMPT, seconds=2, seed=7)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    return write_streaming_world(tmp_path_factory.mktemp("world"))


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.requests.append(self.read_request())  # type: ignore[attr-defined]
        body = json.dumps({"error": "expected a free pair, got none; ask again in 3 s"}).encode()
        self.send_response(429)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read_request(self) -> dict[str, object]:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        return {"key": self.headers["Authorization"], **body}

    def log_message(self, *_: object) -> None:
        return


class _RefusingServer(ThreadingHTTPServer):
    """Refuses every stream, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusing)
        self.requests: list[dict[str, object]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def refusing_server() -> Iterator[_RefusingServer]:
    with _RefusingServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_clip_has_every_frame_and_its_sound_and_the_times_of_its_blocks(
    world: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "clip.mp4"
    clip = generate_here(world[1], str(world[0]), REQUEST, out, SilentProgress())
    held = probe(out)
    assert clip.frames == 49
    assert held.has_audio and abs(held.duration_s - 49 / 24) < 0.1
    assert [block.index for block in clip.blocks] == [0, 1, 2]
    assert [round(block.media_s, 2) for block in clip.blocks] == [0.0, 0.04, 1.04]
    # Playback can begin when the first whole second is there, which is after the first picture.
    assert 0 < clip.first_bytes_s < clip.first_chunk_s == clip.blocks[1].sent_at_s
    assert "sha256:" in clip.model
    assert json.loads(json.dumps(clip.as_dict()))["block_s"][2] > 0


def test_the_same_seed_gives_the_same_file(world: tuple[Path, RunConfig], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.mp4", "two.mp4")]
    for out in files:
        generate_here(world[1], str(world[0]), REQUEST, out, SilentProgress())
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "request_",
    [
        Request("  ", 2, 0),
        Request("x" * 10_000, 2, 0),
        Request(PROMPT, 0, 0),
        Request(PROMPT, -3, 0),
        Request(PROMPT, 10**6, 0),
    ],
)
def test_a_request_beyond_the_limits_is_refused_before_anything_is_loaded(
    world: tuple[Path, RunConfig], tmp_path: Path, request_: Request
) -> None:
    with pytest.raises(ConfigError, match=r"expected .*, got .*;"):
        generate_here(world[1], "no/such/model", request_, tmp_path / "x.mp4", SilentProgress())


@pytest.mark.parametrize("request_", [Request("  ", 2, 0), Request(PROMPT, 0, 0)])
def test_what_no_server_would_take_is_not_sent(
    world: tuple[Path, RunConfig],
    tmp_path: Path,
    request_: Request,
    refusing_server: _RefusingServer,
) -> None:
    out = tmp_path / "x.mp4"
    with pytest.raises(ConfigError, match=r"expected .*, got .*;"):
        generate_from_server(world[1], refusing_server.url, request_, out, SilentProgress())
    assert refusing_server.requests == []


def test_the_limits_of_a_server_are_its_own(
    world: tuple[Path, RunConfig], tmp_path: Path, refusing_server: _RefusingServer
) -> None:
    large = Request("x" * 10_000, 10**6, 7)
    with pytest.raises(ServerError, match="429"):
        generate_from_server(
            world[1], refusing_server.url, large, tmp_path / "x.mp4", SilentProgress()
        )
    assert refusing_server.requests == [{"key": None, **asdict(large)}]


@pytest.mark.parametrize("prompt", ["a\ud800", "a\0", "\udcff"])
def test_a_prompt_that_is_no_text_is_bad_usage(
    world: tuple[Path, RunConfig], tmp_path: Path, prompt: str, refusing_server: _RefusingServer
) -> None:
    request = Request(prompt, 2, 7)
    out, progress = tmp_path / "x.mp4", SilentProgress()
    for url in (None, refusing_server.url):
        with pytest.raises(ConfigError, match=r"expected a prompt of text, got .* at place"):
            if url is None:
                generate_here(world[1], "/nowhere", request, out, progress)
            else:
                generate_from_server(world[1], url, request, out, progress)
    assert refusing_server.requests == []


class _Stopping(SilentProgress):
    """Does something to the server's streams once some of the first is here."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def advance(self, n: int = 1, **figures: object) -> None:
        self._act()


@pytest.mark.parametrize("way", ["failed", "stopped"])
def test_a_stream_that_does_not_come_to_its_end_leaves_no_file(
    world: tuple[Path, RunConfig], tmp_path: Path, way: str
) -> None:
    folder, config = world
    worker = StreamWorker(folder, config, encodes=True)
    replicas = InProcessReplicas(worker, config, block_s=0.05)
    admission = Admission(config, "m", replicas)

    def fail() -> None:
        replicas.handle.failures["next_block"] = DivergenceError("not finite")

    def stop() -> None:
        for session in list(admission._sessions.values()):
            session.stop("somebody stopped it")

    progress = _Stopping(fail if way == "failed" else stop)
    request = Request(PROMPT, 60, 7)
    with listening(build_api(admission, ())) as url, pytest.raises(ServerError, match=r"whole|end"):
        generate_from_server(config, url, request, tmp_path / "x.mp4", progress)
    assert list(tmp_path.iterdir()) == []


def test_where_a_connection_breaks_another_one_goes_on(
    world: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    folder, config = world
    worker = StreamWorker(folder, config, encodes=True)
    admission = Admission(config, "m", InProcessReplicas(worker, config, block_s=0.02))
    request = Request(PROMPT, 20, 7)
    straight, broken = tmp_path / "straight.mp4", tmp_path / "broken.mp4"
    with listening(build_api(admission, ())) as url:
        generate_from_server(config, url, request, straight, SilentProgress())
        relay = BreakingRelay(int(url.rpartition(":")[2]), cuts=[20_000, 12_345, 40_000])
        clip = generate_from_server(config, relay.url, request, broken, SilentProgress())
        relay.close()
    assert relay.broken >= 2
    assert broken.read_bytes() == straight.read_bytes()
    assert [block.index for block in clip.blocks] == list(range(21))


def test_an_interrupted_generation_leaves_no_file(
    world: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    class Interrupting(SilentProgress):
        def advance(self, n: int = 1, **figures: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_here(world[1], str(world[0]), REQUEST, tmp_path / "x.mp4", Interrupting())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
def test_fragments_are_counted_however_the_network_cuts_them(piece: int) -> None:
    boxes = [(b"ftyp", 20), (b"moov", 90), (b"moof", 40), (b"mdat", 500), (b"moof", 8)]
    boxes.append((b"mdat", 9))
    data = b"".join(size.to_bytes(4, "big") + kind + b"x" * (size - 8) for kind, size in boxes)
    sizes: list[int] = []
    counter = FragmentCounter(lambda: sizes.append(counter.received))
    for start in range(0, len(data) - 9, piece):
        counter.feed(data[start : min(start + piece, len(data) - 9)])
    assert len(sizes) == 1
    assert sizes[0] >= 650
    counter.feed(data[-9:])
    assert len(sizes) == 2


def test_a_server_that_refuses_is_quoted(
    world: tuple[Path, RunConfig], tmp_path: Path, refusing_server: _RefusingServer
) -> None:
    with pytest.raises(ServerError, match=r"429.*expected a free pair"):
        out = tmp_path / "x.mp4"
        generate_from_server(world[1], refusing_server.url, REQUEST, out, SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_shown_the_whole_first_line_of_the_key_file(
    world: tuple[Path, RunConfig], tmp_path: Path, refusing_server: _RefusingServer
) -> None:
    file = tmp_path / "keys"
    file.write_text("a key of words\nanother\n")
    serve = world[1].serve.model_copy(update={"api_key_file": str(file)})
    config = world[1].model_copy(update={"serve": serve})
    with pytest.raises(ServerError, match="429"):
        generate_from_server(
            config, refusing_server.url, REQUEST, tmp_path / "x.mp4", SilentProgress()
        )
    assert refusing_server.requests[0]["key"] == "Bearer a key of words"


def test_nobody_at_the_url_says_how_to_start_a_server(
    world: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="omniforcing serve"):
        out = tmp_path / "x.mp4"
        generate_from_server(world[1], "http://127.0.0.1:9", REQUEST, out, SilentProgress())


@pytest.mark.parametrize("url", ["ftp://host", "localhost:8000", "http://host:port"])
def test_a_url_of_another_kind_is_bad_usage(
    world: tuple[Path, RunConfig], tmp_path: Path, url: str
) -> None:
    with pytest.raises(ConfigError):
        generate_from_server(world[1], url, REQUEST, tmp_path / "x.mp4", SilentProgress())
