"""Captions rewritten by a server with OpenAI's chat completions, as vLLM and others have it."""

import asyncio
import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx
from pydantic import BaseModel, ValidationError

from actors.captions.prompts import Rewritten, chat, cut_answer
from infra.config import RewriterConfig
from infra.errors import ConfigError, RewriterError
from infra.storage.key_files import read_key

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
# A paragraph is a few kilobytes; whatever sends more does not send a paragraph.
MAX_RESPONSE_BYTES = 1_000_000
_LARGEST_SEED = 2**31 - 1
_SHOWN = 200


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What we read of a server's answer; what else it says is left alone."""

    choices: list[_Choice]


class _Reason(BaseModel):
    message: str = ""


class _Refusal(BaseModel):
    """How servers put an error: as an object that holds the message, or beside it."""

    message: str = ""
    error: _Reason = _Reason()


class _Reply(NamedTuple):
    """One HTTP exchange: the rewriter's answer, and whether asking again may help, and when.

    `for_all`: no caption would fare better.
    """

    answer: Rewritten
    again: bool = False
    after_s: float = 0.0
    for_all: bool = False


class EndpointRewriter:
    """Asks a server for each caption, `concurrency` at a time; never raises for what is wrong with
    one of them."""

    def __init__(self, config: RewriterConfig) -> None:
        """Read the key; ConfigError if the key, the URL or the model's name is missing.

        The server is not asked yet: one that is down now may be up when a caption comes.
        """
        self._config = config
        self._model = _required(config.model, "model", "the name that the server gives the model")
        self._url = _checked_url(_required(config.url, "url", "a server's URL, up to /v1"))
        self._key = read_key(config.api_key_file, "data.rewriter.api_key_file")

    def rewrite(
        self, captions: Sequence[str], seeds: Sequence[int], complaints: Sequence[str] = ()
    ) -> list[Rewritten]:
        """One answer per caption; `complaints` say what was wrong with earlier ones, '' nothing.

        Deterministic as far as the server is: it gets temperature 0 and the seed. What went wrong
        with a caption, after the retries, is its `error`, and no other's. RewriterError where no
        caption would fare better: nobody is there, the key or the model's name is refused.
        """
        given = complaints or [""] * len(captions)
        requests = [
            (self._request(caption, seed, complaint), seed)
            for caption, seed, complaint in zip(captions, seeds, given, strict=True)
        ]
        return asyncio.run(self._ask_all(requests))

    def _request(self, caption: str, seed: int, complaint: str) -> dict[str, object]:
        return {
            "model": self._model,
            "messages": chat(self._config, caption, complaint),
            "temperature": 0,
            "seed": seed % _LARGEST_SEED,
            "max_tokens": self._config.max_new_tokens,
            "stream": False,
        }

    async def _ask_all(self, requests: Sequence[tuple[dict[str, object], int]]) -> list[Rewritten]:
        # The key is in the client's headers alone, and the sizes count what arrives: no packing.
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        open_requests = asyncio.Semaphore(self._config.concurrency)
        limits = httpx.Limits(max_connections=self._config.concurrency)
        # The limit of time is one for the whole exchange, below; httpx's are per read.
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=None) as client:

            async def ask(request: dict[str, object], seed: int) -> Rewritten:
                async with open_requests:
                    return await self._ask(client, request, random.Random(seed))

            return await asyncio.gather(*(ask(*request) for request in requests))

    async def _ask(
        self, client: httpx.AsyncClient, request: dict[str, object], chance: random.Random
    ) -> Rewritten:
        """One caption with its retries; a pause keeps the caption's place among the requests."""
        for failures in range(self._config.retries + 1):
            reply = await self._try(client, request)
            if not reply.again or failures == self._config.retries:
                if reply.for_all:
                    raise RewriterError(reply.answer.error)
                return reply.answer
            # Up to twice as long at random: captions that failed together come back one by one.
            pause_s = FIRST_PAUSE_S * 2**failures * chance.uniform(1, 2)
            await asyncio.sleep(min(max(pause_s, reply.after_s), LONGEST_PAUSE_S))
        raise AssertionError("unreachable: the last try returns")

    async def _try(self, client: httpx.AsyncClient, request: dict[str, object]) -> _Reply:
        """One exchange; timeouts and broken connections, 429 and 5xx are worth another."""
        timeout_s = self._config.timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),
                client.stream("POST", f"{self._url}/chat/completions", json=request) as response,
            ):
                body = await _bounded(response)
        except TimeoutError:
            return self._failed(f"got nothing whole in {timeout_s:g} s", "see its load", again=True)
        except httpx.HTTPError as error:
            found = f"got {type(error).__name__}: {error}"
            nobody = isinstance(error, httpx.ConnectError)
            do = "check data.rewriter.url, and whether it runs"
            return self._failed(found, do, again=True, for_all=nobody)
        if body is None:
            return self._failed(
                f"got more than {MAX_RESPONSE_BYTES} bytes", "check what answers there"
            )
        if response.status_code != httpx.codes.OK:
            return self._refused(response, body)
        return _Reply(self._answer(body))

    def _refused(self, response: httpx.Response, body: bytes) -> _Reply:
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
            after_s = _retry_after_s(response.headers.get("Retry-After", ""))
            found, do = f"got {status}{self._said(body)}", "try again when it has room"
            return self._failed(found, do, again=True)._replace(after_s=after_s)
        for_all = True
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            what = "a key that it accepts in" if self._key else "the file with its key in"
            do = f"put {what} data.rewriter.api_key_file"
        elif status == httpx.codes.NOT_FOUND:
            do = f"check data.rewriter.url, and that it serves data.rewriter.model {self._model!r}"
        else:
            do, for_all = f"check data.rewriter, with the model {self._model!r}", False
        return self._failed(f"got {status}{self._said(body)}", do, for_all=for_all)

    def _answer(self, body: bytes) -> Rewritten:
        try:
            choices = _Completion.model_validate_json(body).choices
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            return self._failed(
                f"got an answer of another form ({': '.join(filter(None, (place, first['msg'])))})",
                "check that data.rewriter.url speaks OpenAI's chat completions",
            ).answer
        if not choices:
            return self._failed("got no choice in its answer", "look at its log").answer
        text = (choices[0].message.content or "").strip()
        if choices[0].finish_reason == "length":
            return Rewritten(text, cut_answer(self._config))
        return Rewritten(text)

    def _failed(self, found: str, do: str, *, again: bool = False, for_all: bool = False) -> _Reply:
        sentence = " ".join(f"expected a caption from {self._url}, {found}; {do}".split())
        return _Reply(Rewritten(error=sentence), again, for_all=for_all)

    def _said(self, body: bytes) -> str:
        """The server's own sentence, if it has a known form; else the start of what it sent."""
        words = body.decode(errors="replace")
        try:
            refusal = _Refusal.model_validate_json(body)
            words = refusal.error.message or refusal.message or words
        except ValidationError:
            pass
        if self._key:  # a server may repeat what it was sent
            words = words.replace(self._key, "(key)")
        words = " ".join(words.split())[:_SHOWN]
        return f" ({words})" if words else ""


async def _bounded(response: httpx.Response) -> bytes | None:
    """The body as it arrives; None as soon as it is too long."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            return None
    return bytes(body)


def _retry_after_s(value: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 for anything else."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _required(value: str | None, field: str, what: str) -> str:
    if value:
        return value
    raise ConfigError(
        f"expected data.rewriter.{field} to be {what}, got {value!r}; set it, or take"
        " data.rewriter.kind grammar"
    )


def _checked_url(given: str) -> str:
    """`given` without a slash at its end; ConfigError unless it is plain HTTP or HTTPS."""
    try:
        url = httpx.URL(given)
    except httpx.InvalidURL as error:
        raise ConfigError(
            f"expected data.rewriter.url to be a URL, got {given!r} ({error}); correct it"
        ) from error
    if url.userinfo:
        raise ConfigError(
            "expected data.rewriter.url without a user or password, got one with them; put the key"
            " into data.rewriter.api_key_file"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            f"expected data.rewriter.url like http://host:8000/v1, got {given!r}; correct it"
        )
    return str(url).rstrip("/")
