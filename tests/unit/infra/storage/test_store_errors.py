"""Each kind of answer of object storage, and the one line that it becomes."""

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
)

from infra.errors import StoreError
from infra.storage.store_errors import error_code, store_error

URI, ENDPOINT = "s3://films/clips/a.mp4", "http://store:9000"


def answer(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetObject")


def line(error: Exception) -> str:
    refused = store_error(error, URI, "read", ENDPOINT)
    assert isinstance(refused, StoreError)
    return str(refused)


def test_the_code_is_that_of_an_answer() -> None:
    assert error_code(answer("NoSuchKey")) == "NoSuchKey"
    assert error_code(ValueError("NoSuchKey")) == ""
    assert error_code(ClientError({}, "GetObject")) == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoCredentialsError(), "expected credentials that may read s3://films/clips/a.mp4, got no"),
        (ProfileNotFound(profile="me"), "got none (The config profile (me) could not be found)"),
        (answer("ExpiredToken"), "got expired ones (ExpiredToken); obtain new ones"),
        (answer("403"), "got a refusal by http://store:9000 (403); check AWS_ACCESS_KEY_ID"),
        (answer("AccessDenied", "no\n way"), "(AccessDenied: no way); check"),
        (
            answer("NoSuchBucket"),
            "expected the bucket s3://films of s3://films/clips/a.mp4, got no",
        ),
        (answer("301"), "expected s3://films of s3://films/clips/a.mp4 at http://store:9000, got"),
        (
            EndpointConnectionError(endpoint_url=ENDPOINT),
            "expected an S3 endpoint for s3://films/clips/a.mp4 at http://store:9000, got no",
        ),
        (answer("SlowDown", "later"), "at http://store:9000, got: SlowDown: later; check the loc"),
        (OSError("x" * 301), f"got: {'x' * 300}; check"),
        (OSError(), "got: OSError; check"),
        (answer("SlowDown", "y" * 201), f"got: SlowDown: {'y' * 200}; check"),
    ],
)
def test_an_answer_becomes_a_line_that_says_what_to_do(error: Exception, expected: str) -> None:
    assert expected in line(error)
    assert "\n" not in line(error)
