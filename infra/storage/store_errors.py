"""What object storage answers, in one line: which URI, what was expected, what came, what to do."""

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  # botocore's own, of which its network errors are
    CredentialRetrievalError,
    HTTPClientError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from infra.errors import StoreError

_WITHOUT_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    LoginError,
)
_WITHOUT_ANSWER = (ConnectionError, HTTPClientError)
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_OTHER_REGION = {
    "PermanentRedirect",
    "IllegalLocationConstraintException",
    "AuthorizationHeaderMalformed",
    "301",
}
_REFUSED = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "AuthFailure",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


def error_code(error: Exception) -> str:
    """The code in an answer of S3 (`NoSuchKey`, or the HTTP status of one without a body)."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def store_error(error: Exception, uri: str, verb: str, endpoint: str) -> StoreError:
    """The one line for `error`, met on the way to `verb` ("read", "list", "write") `uri`."""
    code = error_code(error)
    bucket = "/".join(uri.split("/")[:3])
    credentials = f"credentials that may {verb} {uri}"
    if isinstance(error, _WITHOUT_CREDENTIALS):
        line = f"expected {credentials}, got none ({_short(error)}); set {_VARIABLES}"
    elif code in _EXPIRED:
        line = (
            f"expected {credentials}, got expired ones ({code}); obtain new ones, with"
            " AWS_SESSION_TOKEN if they are temporary"
        )
    elif code in _REFUSED:
        line = (
            f"expected {credentials}, got a refusal by {endpoint} ({_answer(error)}); check"
            f" {_VARIABLES}, and what they are allowed"
        )
    elif code == "NoSuchBucket":
        line = (
            f"expected the bucket {bucket} of {uri}, got no such bucket at {endpoint}; correct the"
            " name, create it, or set AWS_ENDPOINT_URL to where it is"
        )
    elif code in _OTHER_REGION:
        line = (
            f"expected {bucket} of {uri} at {endpoint}, got that it is elsewhere"
            f" ({_answer(error)}); set AWS_REGION to the bucket's"
        )
    elif isinstance(error, _WITHOUT_ANSWER):
        line = (
            f"expected an S3 endpoint for {uri} at {endpoint}, got no answer ({_short(error)});"
            " check AWS_ENDPOINT_URL and the network"
        )
    else:
        reason = _answer(error) if isinstance(error, ClientError | BotoCoreError) else _short(error)
        line = (
            f"expected to {verb} {uri} at {endpoint}, got: {reason}; check the location and try"
            " again"
        )
    return StoreError(line)


def _answer(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return _short(error)
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:200]
    return f"{error_code(error)}: {message}" if message else error_code(error)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
