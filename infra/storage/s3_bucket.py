"""A bucket of S3, or of a store that speaks its protocol.

boto3 lists, writes and deletes: it takes a listing page by page, and says why it was refused.
pyarrow reads: its files are what Parquet readers take. Both get what boto3
found in the environment and in the files of the AWS tools: the endpoint (AWS_ENDPOINT_URL_S3,
AWS_ENDPOINT_URL, `endpoint_url` of a profile), the region, and credentials, renewed when they end.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from pyarrow import fs

from infra.errors import StoreError
from infra.storage.store_errors import error_code, store_error

_CONNECT_S = 3
_ATTEMPTS = 3
PART_BYTES = 8 << 20
_NO_KEY = {"NoSuchKey", "404"}
# Answers to a write on condition: there is one; another one is being written; not known here.
_TAKEN = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "409"}
_UNKNOWN_CONDITION = {"NotImplemented", "501"}
_CONFLICTS = 20
_CONFLICT_PAUSE_S = 0.1
# Statuses of answers without a body, which do not say why.
_UNEXPLAINED = {"400", "403"}
_NS = 1_000_000_000
# With an endpoint of its own, pyarrow puts the bucket in the path; Amazon's has it in the host.
_AMAZON = re.compile(r"s3(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")
_CONFIG = Config(
    connect_timeout=_CONNECT_S,
    read_timeout=60,
    retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
)
# Of the first request, so that a wrong endpoint is reported in seconds.
_FIRST = _CONFIG.merge(
    Config(read_timeout=5, retries={"total_max_attempts": 2, "mode": "standard"})
)


class StoredObject(NamedTuple):
    """One object; S3 knows the time of its last change to the second."""

    key: str
    size: int
    modified_ns: int


class _Access(NamedTuple):
    client: Any
    credentials: Any
    region: str


class S3Bucket:
    """Objects of one bucket by key. It connects when it is first used.

    Every method raises StoreError if the bucket cannot be used: no, wrong or expired credentials,
    no such bucket, no answer from the endpoint.
    """

    def __init__(self, name: str) -> None:
        """Name the bucket; it is not contacted yet."""
        self.uri = f"s3://{name}"
        self._name = name
        self._endpoint = "the configured endpoint"
        self._files: tuple[Any, Any] | None = None

    def list(self, prefix: str, *, recursive: bool) -> Iterator[StoredObject]:
        """Objects whose key begins with `prefix`, by key; without those in folders below it."""
        request = {"Bucket": self._name, "Prefix": prefix}
        if not recursive:
            request["Delimiter"] = "/"
        with self._translate_errors("list", prefix):
            pages = self._access.client.get_paginator("list_objects_v2").paginate(**request)
            for page in pages:
                for item in page.get("Contents", ()):
                    if item["Key"].endswith("/"):  # some tools mark folders so
                        continue
                    yield StoredObject(
                        item["Key"], item["Size"], _nanoseconds(item["LastModified"])
                    )

    def has_any(self, prefix: str) -> bool:
        """Whether the key of any object, or of a folder's mark, begins with `prefix`."""
        with self._translate_errors("list", prefix):
            page = self._access.client.list_objects_v2(Bucket=self._name, Prefix=prefix, MaxKeys=1)
            return bool(page.get("Contents"))

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with self._translate_errors("read", key):
                self._access.client.head_object(Bucket=self._name, Key=key)
        except FileNotFoundError:
            return False
        return True

    def version(self, key: str) -> tuple[int, int, str]:
        """Size, time of its last change and ETag; FileNotFoundError if there is no such object."""
        with self._translate_errors("read", key):
            head = self._access.client.head_object(Bucket=self._name, Key=key)
        return head["ContentLength"], _nanoseconds(head["LastModified"]), head["ETag"]

    def open(self, key: str) -> Any:
        """A pyarrow random-access file; FileNotFoundError if there is no such object."""
        with self._translate_errors("read", key):
            return self._pyarrow().open_input_file(f"{self._name}/{key}")

    def parts(self, key: str, offset: int, size: int | None) -> Iterator[bytes]:
        """`size` bytes of an object from `offset`, or all up to its end, part by part."""
        with self.open(key) as source:
            source.seek(offset)
            while size is None or size > 0:
                with self._translate_errors("read", key):
                    part = source.read(PART_BYTES if size is None else min(PART_BYTES, size))
                if not part:
                    return
                size = None if size is None else size - len(part)
                yield part

    def put(self, key: str, content: bytes) -> None:
        """Write an object; it appears, or replaces an older one, only when it is complete."""
        with self._translate_errors("write", key):
            self._access.client.put_object(Bucket=self._name, Key=key, Body=content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one; whether it was written.

        StoreError if the store refuses conditions (If-None-Match), or does not heed them.
        """
        for _ in range(_CONFLICTS):
            answer = self._put_on_condition(key, content)
            if answer in _TAKEN:
                return False
            if answer is None:
                # A store that does not know the condition says nothing, and writes once more.
                if self._put_on_condition(key, content) is None:
                    raise StoreError(
                        self._no_conditions(key, "that it does not heed the condition")
                    )
                return True
            if answer not in _CONFLICT:
                break
            time.sleep(_CONFLICT_PAUSE_S)
        raise StoreError(self._no_conditions(key, f"{answer}"))

    def _put_on_condition(self, key: str, content: bytes) -> str | None:
        """Write an object unless there is one; the code of a refusal, None if it was written."""
        with self._translate_errors("write", key):
            try:
                self._access.client.put_object(
                    Bucket=self._name, Key=key, Body=content, IfNoneMatch="*"
                )
            except ClientError as error:
                code = error_code(error)
                if code in _TAKEN | _CONFLICT | _UNKNOWN_CONDITION:
                    return code
                raise
        return None

    def _no_conditions(self, key: str, answer: str) -> str:
        return (
            f"expected a store with conditional writes (PutObject with If-None-Match) for"
            f" {self._uri(key)} at {self._endpoint}, got {answer}; without them two runs could"
            " destroy each other's output: use a store that has them, or a folder"
        )

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        with self._translate_errors("write", key):
            self._access.client.delete_object(Bucket=self._name, Key=key)

    @cached_property
    def _access(self) -> _Access:
        import boto3  # noqa: PLC0415  # takes a quarter of a second, for this storage alone

        session = boto3.Session()
        client = session.client("s3", config=_CONFIG)
        self._endpoint = client.meta.endpoint_url
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        # A missing bucket and a dead endpoint are reported at once; any other refusal by the next
        # call, because the answer to this one has no body that says why.
        try:
            answer = session.client("s3", config=_FIRST).head_bucket(Bucket=self._name)
        except ClientError as error:
            if error_code(error) == "404":  # as an answer with a body has it
                error.response["Error"]["Code"] = "NoSuchBucket"
                raise
            answer = error.response
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        region = headers.get("x-amz-bucket-region", client.meta.region_name)
        return _Access(client, credentials, region or "us-east-1")

    def _pyarrow(self) -> Any:
        """pyarrow's view of the store, with credentials that hold."""
        held = self._access.credentials.get_frozen_credentials()
        if self._files is None or self._files[0] != held:
            endpoint = urlsplit(self._endpoint)
            custom = not _AMAZON.fullmatch(endpoint.hostname or "")
            files = fs.S3FileSystem(
                access_key=held.access_key,
                secret_key=held.secret_key,
                session_token=held.token,
                region=self._access.region,
                scheme=endpoint.scheme,
                endpoint_override=endpoint.netloc + endpoint.path if custom else None,
                connect_timeout=_CONNECT_S,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            )
            self._files = (held, files)
        return self._files[1]

    @contextmanager
    def _translate_errors(self, verb: str, key: str) -> Iterator[None]:
        """Raise errors of either library as StoreError, or as OSError if they are about one key."""
        try:
            yield
        except (StoreError, FileNotFoundError):
            raise
        except (BotoCoreError, ClientError) as error:
            if error_code(error) in _NO_KEY and verb != "list":
                raise FileNotFoundError(f"expected {self._uri(key)}, got no such file") from error
            cause = (self._refusal(key) if error_code(error) in _UNEXPLAINED else None) or error
            raise store_error(cause, self._uri(key), verb, self._endpoint) from error
        except (OSError, ValueError) as error:  # pyarrow's, or an endpoint that is no URL
            refused = "ACCESS_DENIED" in str(error) or not isinstance(error, OSError)
            cause = self._refusal(key) or (error if refused else None)
            if cause is not None:
                raise store_error(cause, self._uri(key), verb, self._endpoint) from error
            reason = " ".join(str(error).split())
            raise OSError(f"expected to {verb} {self._uri(key)}, got: {reason}") from error

    def _refusal(self, key: str) -> Exception | None:
        """Why the bucket cannot be listed; None if it can. Not every refusal has its reason."""
        try:
            self._access.client.list_objects_v2(Bucket=self._name, Prefix=key, MaxKeys=1)
        except (BotoCoreError, ClientError, ValueError) as error:
            return error
        return None

    def _uri(self, key: str) -> str:
        return f"{self.uri}/{key}".rstrip("/")


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp()) * _NS + time.microsecond * 1000
