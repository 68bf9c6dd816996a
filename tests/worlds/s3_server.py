"""S3 on this machine: a server of its own process, whose data ends with it.

`python -m tests.worlds.s3_server PORT` is that server: moto's, which looks whether a key is there
and writes it in two steps, made one by a lock, as conditional writes of S3 are.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTS_IN_S = 60
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"
_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
)


@contextmanager
def s3_server(page_keys=1000, log=None):
    """Start it on a free port of loopback; yields its URL. It takes any credentials at first.

    page_keys: how many a page of a listing holds. log: a path that gets a line for each request.
    """
    port = _free_port()
    command = [sys.executable, "-m", "tests.worlds.s3_server", str(port)]
    environment = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(page_keys)}
    with Path(log or os.devnull).open("wb") as said:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for(server, endpoint)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def fetches(log, key):
    """How often an object was asked for by `key`, in whole or in part, of the requests in `log`."""
    return sum(f"GET /{key} " in line for line in Path(log).read_text().splitlines())


def credentials(monkeypatch, endpoint, key_id=KEY_ID, secret=SECRET, token=None):
    """Set what this process and its children reach `endpoint` with; None leaves a part out."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": token,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",  # no machine of Amazon's is asked for credentials
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
    }
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def make_bucket(endpoint, name="clips"):
    """Make a bucket and give its URI. The environment holds credentials."""
    _client("s3", endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


def make_user(endpoint, allowed="*", name="reader"):
    """A user who may do `allowed` (an action, or several) on S3; gives key id and secret."""
    iam = _client("iam", endpoint)
    iam.create_user(UserName=name)
    actions = [allowed] if isinstance(allowed, str) else list(allowed)
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="s3", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@contextmanager
def authentication(endpoint):
    """Inside, every request needs the credentials of a user, and only does what they may."""
    _check_requests_after(endpoint, "0")
    try:
        yield
    finally:
        _check_requests_after(endpoint, "inf")


def _check_requests_after(endpoint, count):
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth",
        data=count.encode(),
        headers={"Content-Type": "text/plain"},  # read as a form, it would be empty
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def _client(service, endpoint):
    import boto3

    return boto3.Session().client(service, endpoint_url=endpoint)


def _free_port():
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def _wait_for(server, endpoint):
    began = time.monotonic()
    while True:
        assert server.poll() is None, f"the S3 server ended with {server.returncode}"
        assert time.monotonic() - began < STARTS_IN_S, "the S3 server did not start"
        try:
            with urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)


def main(port):
    """Serve until killed."""
    from moto.s3.responses import S3Response
    from moto.server import main as serve

    one_at_a_time = threading.Lock()
    put_object = S3Response.put_object

    def put_in_one_step(self):
        with one_at_a_time:
            return put_object(self)

    S3Response.put_object = put_in_one_step
    serve(["--host", "127.0.0.1", "--port", port])


if __name__ == "__main__":
    main(*sys.argv[1:])
