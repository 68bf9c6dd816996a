"""Object storage as a real server answers it; the endpoint and the keys are in the environment."""

import io
import pickle
import re
import socket
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import StoreError
from infra.storage.object_store import ObjectStore
from tests.worlds.s3_server import authentication, credentials, make_bucket, make_user, s3_server

QUICK_S = 20.0


@pytest.fixture(scope="module")
def server():
    with s3_server(page_keys=20) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(server, monkeypatch, request):
    """A bucket of its own for each test."""
    credentials(monkeypatch, server)
    return make_bucket(
        server, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    )


def refusal(uri):
    """The line in which a store is refused, and that it came quickly."""
    began = time.monotonic()
    with pytest.raises(StoreError) as refused:
        ObjectStore(uri).list(recursive=True)
    assert time.monotonic() - began < QUICK_S
    line = str(refused.value)
    assert "\n" not in line
    assert uri in line
    return line


def test_what_is_written_is_listed_read_and_deleted(bucket):
    store = ObjectStore(f"{bucket}/data")
    assert not store.exists()
    store.write("shards/a.bin", b"one")
    store.write("shards/a.bin", b"two")
    store.write("top.bin", b"")
    store.write(".hidden/x", b"")
    assert store.exists()
    assert [(file.name, file.size) for file in store.list(recursive=True)] == [
        ("shards/a.bin", 3),
        ("top.bin", 0),
    ]
    assert [file.name for file in store.list()] == ["top.bin"]
    assert store.list("shards") == store.list("shards", recursive=True)
    assert abs(store.list("shards")[0].modified_ns / 1e9 - time.time()) < 3600
    assert store.read("shards/a.bin") == b"two"
    assert store.has("shards/a.bin")
    store.delete("shards/a.bin")
    store.delete("shards/a.bin")
    assert not store.has("shards/a.bin")
    assert not store.has("shards")


def test_folders_of_one_beginning_are_different_folders(bucket):
    ObjectStore(bucket).write("data-2/a.bin", b"x")
    assert not ObjectStore(f"{bucket}/data").exists()
    assert ObjectStore(f"{bucket}/data").list(recursive=True) == []


def test_marks_of_folders_are_not_files(bucket):
    store = ObjectStore(bucket)
    store._bucket.put("rd/", b"")
    store.write("rd/a.bin", b"x")
    assert [file.name for file in store.list(recursive=True)] == ["rd/a.bin"]


def test_more_files_than_a_page_of_a_listing_holds_are_all_listed(bucket):
    store = ObjectStore(bucket)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.write(f"{number:02}.bin", b""), range(50)))
    assert [file.name for file in store.list()] == [f"{number:02}.bin" for number in range(50)]


def test_a_table_is_read_in_place(bucket):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"clip": ["a", "b"], "seconds": [1, 2]}), sink)
    store = ObjectStore(bucket)
    store.write("table.parquet", sink.getvalue().to_pybytes())
    with store.open("table.parquet") as source:
        assert pq.read_table(source, columns=["seconds"]).to_pydict() == {"seconds": [1, 2]}


def test_a_local_copy_has_the_content_and_goes_with_the_block(bucket):
    store = ObjectStore(f"{bucket}/clips")
    store.write("below/a clip.mp4", b"moving")
    with store.local_file("below/a clip.mp4") as path:
        assert path.read_bytes() == b"moving"
        assert path.suffix == ".mp4"
    assert not path.exists()


def test_a_member_of_a_tar_is_cut_out_of_it(bucket, tmp_path):
    content = bytes(range(256)) * 40
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("0001.mp4")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    store = ObjectStore(bucket)
    store.write("pack.tar", packed.getvalue())
    with store.local_file("pack.tar/0001.mp4", 512, len(content)) as path:
        assert path.read_bytes() == content
    (tmp_path / "whole.mp4").write_bytes(content)
    assert store.digest("pack.tar/0001.mp4", 512, len(content)) == ObjectStore(tmp_path).digest(
        "whole.mp4"
    )


def test_a_file_that_is_not_there_is_reported_as_on_a_disk(bucket):
    store = ObjectStore(bucket)
    for read in (store.read, store.open, store.digest):
        with pytest.raises(FileNotFoundError):
            read("nothing.mp4")


def test_a_store_travels_to_another_process_as_its_location(bucket):
    store = ObjectStore(bucket)
    store.write("a.bin", b"one")
    assert pickle.loads(pickle.dumps(store)).read("a.bin") == b"one"


def test_a_missing_bucket_is_reported_with_its_name_and_the_endpoint(bucket, server):
    assert refusal("s3://no-such-bucket/clips") == (
        "expected the bucket s3://no-such-bucket of s3://no-such-bucket/clips, got no such bucket"
        f" at {server}; correct the name, create it, or set AWS_ENDPOINT_URL to where it is"
    )


def test_missing_credentials_are_asked_for(server, monkeypatch):
    credentials(monkeypatch, server, key_id=None, secret=None)
    line = refusal("s3://clips/train")
    assert line.startswith("expected credentials that may list s3://clips/train, got none")
    assert line.endswith("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [("key_id", "InvalidAccessKeyId"), ("secret", "SignatureDoesNotMatch")],
)
def test_wrong_credentials_are_reported_with_the_answer(bucket, server, monkeypatch, wrong, code):
    key_id, secret = make_user(server, "s3:*", f"user-{code}")
    with authentication(server):
        credentials(monkeypatch, server, key_id, secret)
        assert ObjectStore(bucket).list() == []
        credentials(monkeypatch, server, **{"key_id": key_id, "secret": secret, wrong: "X" * 20})
        line = refusal(bucket)
    assert line.startswith(f"expected credentials that may list {bucket}, got a refusal by")
    assert f"({code}: " in line


def test_credentials_that_may_read_but_not_write_are_reported(bucket, server, monkeypatch):
    ObjectStore(bucket).write("a.mp4", b"clip")
    reader = make_user(server, ["s3:ListBucket", "s3:GetObject"])
    with authentication(server):
        credentials(monkeypatch, server, *reader)
        store = ObjectStore(bucket)
        assert store.read("a.mp4") == b"clip"
        with pytest.raises(StoreError, match=rf"may write {bucket}/b\.mp4, got a refusal"):
            store.write("b.mp4", b"clip")


class _Expired(BaseHTTPRequestHandler):
    """Answers as S3 does when a session's token has ended."""

    def answer(self):
        body = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = answer  # noqa: N815  # names that the server looks for

    def log_message(self, *_):
        pass


@pytest.fixture
def expired(monkeypatch):
    """Credentials that have ended."""
    server = HTTPServer(("127.0.0.1", 0), _Expired)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    credentials(monkeypatch, f"http://127.0.0.1:{server.server_port}", token="ended")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("verb", ["list", "has", "read", "digest", "exists", "write"])
def test_expired_credentials_are_reported_whatever_is_asked(expired, verb):
    arguments = {"list": (), "exists": (), "write": ("a", b"")}
    with pytest.raises(StoreError, match=r"got expired ones \(ExpiredToken\); obtain new ones"):
        getattr(ObjectStore("s3://clips/train"), verb)(*arguments.get(verb, ("a",)))


class _WithoutConditions(BaseHTTPRequestHandler):
    """A store of before conditional writes: takes every one, or says that it knows none."""

    status, body = 200, b""

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = (200, b"") if self.command == "HEAD" else (self.status, self.body)
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_PUT = answer  # noqa: N815  # names that the server looks for

    def log_message(self, *_):
        pass


class _RefusesConditions(_WithoutConditions):
    status = 501
    body = b"<Error><Code>NotImplemented</Code><Message>A header is not known.</Message></Error>"


@pytest.mark.parametrize(
    ("store", "answer"),
    [
        (_WithoutConditions, "it does not heed the condition"),
        (_RefusesConditions, "NotImplemented"),
    ],
)
def test_a_store_without_conditional_writes_is_refused(monkeypatch, store, answer):
    with HTTPServer(("127.0.0.1", 0), store) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        credentials(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreError, match=f"expected a store with conditional.*got.*{answer}"):
            ObjectStore("s3://clips/train").write_if_absent("a", b"mine")
        server.shutdown()
        thread.join()


def test_a_file_that_is_there_is_not_replaced(bucket):
    store = ObjectStore(f"{bucket}/data")
    assert store.write_if_absent("a/b", b"mine")
    assert not store.write_if_absent("a/b", b"another's")
    assert store.write_if_absent("a/b", b"mine")  # as a repeated request finds it
    assert store.read("a/b") == b"mine"


def test_an_endpoint_that_does_not_answer_is_reported_in_seconds(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    credentials(monkeypatch, endpoint)
    line = refusal("s3://clips/train")
    assert line.startswith(
        f"expected an S3 endpoint for s3://clips/train at {endpoint}, got no answer"
    )
    assert "check AWS_ENDPOINT_URL" in line


@pytest.mark.s3
def test_an_endpoint_that_takes_connections_and_says_nothing_is_reported_in_seconds(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        credentials(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "got no answer (Read timeout" in refusal("s3://clips/train")


def test_an_endpoint_that_is_no_url_is_reported(monkeypatch):
    credentials(monkeypatch, "minio:9000")
    assert "got: Invalid endpoint: minio:9000" in refusal("s3://clips/train")


@pytest.mark.thorough
def test_a_server_that_goes_away_is_reported_by_reads_too(monkeypatch):
    with s3_server() as endpoint:
        credentials(monkeypatch, endpoint)
        store = ObjectStore(make_bucket(endpoint))
        store.write("a.mp4", b"clip")
        assert store.read("a.mp4") == b"clip"
    with pytest.raises(StoreError, match="got no answer"):
        store.read("a.mp4")


def test_the_endpoint_of_a_profile_counts_as_that_of_the_environment(
    bucket, server, monkeypatch, tmp_path
):
    ObjectStore(bucket).write("a.mp4", b"clip")
    credentials(monkeypatch, None, key_id=None, secret=None)
    (tmp_path / "config").write_text(
        f"[profile lab]\nendpoint_url = {server}\nregion = us-east-1\n"
        "aws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = ObjectStore(bucket)
    assert store.read(store.list()[0].name) == b"clip"
