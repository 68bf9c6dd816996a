"""Clips and dataset in object storage: the dataset on disk, and clear words without access."""

import os
import subprocess
import threading
import time
from collections import Counter

import boto3
import pytest

from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.preprocessing import ROOT, SETTINGS, command, content, write_corpus
from tests.worlds.s3_server import (
    authentication,
    credentials,
    fetches,
    make_bucket,
    make_user,
    s3_server,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
BUCKET = "omniforcing"
CLIPS, OUT = f"s3://{BUCKET}/clips", f"s3://{BUCKET}/datasets/one"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "clips", clips=4)


@pytest.fixture(scope="module")
def on_disk(clips, tmp_path_factory, ray_local):
    out = tmp_path_factory.mktemp("disk") / "dataset"
    preprocess(load_preset("tiny", SETTINGS), str(clips), str(out), SilentProgress())
    return content(out)


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """The file in which the server writes down what it is asked for."""
    return tmp_path_factory.mktemp("server") / "requests"


@pytest.fixture(scope="module")
def endpoint(clips, requests):
    """A server with the clips in a bucket."""
    with s3_server(log=requests) as url, pytest.MonkeyPatch.context() as environment:
        credentials(environment, url)
        make_bucket(url, BUCKET)
        store = ObjectStore(CLIPS)
        for path in clips.iterdir():
            store.write(path.name, path.read_bytes())
        yield url


def run(out, **environment):
    """Run the command with other variables (None: without them); status, errors and stderr."""
    env = {name: value for name, value in (os.environ | environment).items() if value is not None}
    done = subprocess.run(
        command(CLIPS, out), cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return done.returncode, lines, done.stderr[-2000:]


def keys_of(user):
    return {"AWS_ACCESS_KEY_ID": user[0], "AWS_SECRET_ACCESS_KEY": user[1]}


def test_the_dataset_in_object_storage_is_the_one_on_disk(endpoint, requests, on_disk):
    status, _, stderr = run(OUT)
    assert status == 0, stderr
    assert content(OUT) == on_disk
    check_fetches(requests)


def check_fetches(requests):
    """A clip is fetched once by the worker that surveys it and once by the one that decodes it,
    however many windows it has; what the report shows is fetched after that."""
    said, _, _ = requests.read_text().partition("PUT /omniforcing/datasets/one/manifest.json ")
    requests.with_name("of the run").write_text(said)
    windows = Counter(row["clip_uri"] for row in content(OUT)[-1] if row["outcome"] == "ok")
    assert max(windows.values()) == 3
    fetched = {
        name: fetches(requests.with_name("of the run"), f"{BUCKET}/clips/{name}")
        for name in windows
    }
    assert fetched == dict.fromkeys(windows, 2)


def test_no_credentials_are_one_clear_line(endpoint):
    nothing = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    status, lines, stderr = run(f"{OUT}-none", **nothing)
    assert (status, len(lines)) == (1, 1), stderr
    assert f"expected credentials that may read {OUT}-none" in lines[0]
    assert "AWS_ACCESS_KEY_ID" in lines[0]


def test_wrong_credentials_are_one_clear_line_without_the_secret(endpoint):
    with authentication(endpoint):
        status, lines, stderr = run(f"{OUT}-wrong", AWS_SECRET_ACCESS_KEY="not-the-secret")
    assert (status, len(lines)) == (1, 1), stderr
    assert f"expected credentials that may read {OUT}-wrong" in lines[0]
    assert "not-the-secret" not in stderr


@pytest.mark.s3
def test_credentials_that_end_in_mid_run_end_it_and_the_next_run_goes_on(endpoint, on_disk):
    out = f"{OUT}-expiring"
    admin, worker = (make_user(endpoint, name=name) for name in ("admin", "worker"))
    revoked = threading.Event()

    def revoke():
        iam = boto3.client(
            "iam",
            endpoint_url=endpoint,
            aws_access_key_id=admin[0],
            aws_secret_access_key=admin[1],
        )
        s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=admin[0],
            aws_secret_access_key=admin[1],
        )
        prefix = out.removeprefix(f"s3://{BUCKET}/") + "/latents/"
        while "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix):
            time.sleep(0.05)
        iam.delete_access_key(UserName="worker", AccessKeyId=worker[0])
        revoked.set()

    with authentication(endpoint):
        revoking = threading.Thread(target=revoke)
        revoking.start()
        status, lines, stderr = run(out, **keys_of(worker))
        revoking.join()
        assert revoked.is_set()
        assert (status, len(lines)) == (1, 1), stderr
        assert "credentials" in lines[0]
        assert f"s3://{BUCKET}/" in lines[0]
        half = ObjectStore(out)
    assert half.list("latents")
    assert not half.has("manifest.json")
    status, _, stderr = run(out)
    assert status == 0, stderr
    assert content(out) == on_disk
