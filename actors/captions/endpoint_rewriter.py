"""Captions rewritten by a server with OpenAI's chat completions, as vLLM and others have it.

OpenAI's client asks again where that may help: after timeouts, broken connections, 429 and 5xx,
with growing pauses, or when the server says, if that is within two minutes. The transport below it
bounds each exchange, and sends no header but ours, whatever environment variables say.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx2
from pydantic import BaseModel, ValidationError

from actors.captions.prompts import Rewritten, chat_messages, cut_off_error
from infra.config import RewriterConfig
from infra.errors import ConfigError, RewriterError
from infra.storage.key_files import read_key

if TYPE_CHECKING:
    # Slow to import, and needed only where there is a server.
    import openai

# A paragraph is a few kilobytes; whatever sends more does not send a paragraph.
MAX_RESPONSE_BYTES = 1_000_000
_LARGEST_SEED = 2**31 - 1
_SHOWN = 200
_READ_HEADERS = {"content-type", "retry-after", "retry-after-ms", "x-should-retry"}
# The client counts in it how often it has asked.
_RETRY_COUNT = "x-stainless-retry-count"
# With these it gives up early where a server wants to be left alone for longer than it waits.
_OVERLOADED = (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE)


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What we read of a server's answer; what else it says is left alone."""

    choices: list[_Choice]


class _TooLongError(Exception):
    """More bytes than any caption has; no error of the network: the client does not ask again."""


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Exchanges within limits of time and size; the client's own limit of time is for each read."""

    def __init__(self, key: str | None, timeout_s: float, connections: int) -> None:
        limits = httpx2.Limits(max_connections=connections)
        super().__init__(trust_env=False, limits=limits)
        self._timeout_s = timeout_s
        self._headers = {
            "Accept": "application/json",
            # No packing: the limit of size is for what arrives.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "omniforcing",
        }
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        ours = httpx2.Request(
            request.method, request.url, headers=self._headers, content=request.content
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await super().handle_async_request(ours)
                try:
                    body = await _bounded_body(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"nothing whole in {self._timeout_s:g} s") from error
        headers = {name: response.headers[name] for name in _READ_HEADERS & response.headers.keys()}
        return httpx2.Response(response.status_code, headers=headers, content=body)


class EndpointRewriter:
    """Asks a server for each caption, `concurrency` at a time; never raises for what is wrong with
    one of them."""

    def __init__(self, config: RewriterConfig) -> None:
        """Read the key; ConfigError if the key, the URL or the model's name is missing.

        The server is not asked yet: one that is down now may be up when a caption comes.
        """
        self._config = config
        self._model = _require(config.model, "model", "the name that the server gives the model")
        self._url = _check_url(_require(config.url, "url", "a server's URL, up to /v1"))
        self._key = read_key(config.api_key_file, "data.rewriter.api_key_file")

    def rewrite(
        self, captions: Sequence[str], seeds: Sequence[int], complaints: Sequence[str] = ()
    ) -> list[Rewritten]:
        """One answer per caption; `complaints` say what was wrong with earlier ones, '' nothing.

        Deterministic as far as the server is: it gets temperature 0 and the seed. What went wrong
        with a caption, after the retries, is its `error`, and no other's. RewriterError where no
        caption would fare better: nobody is there, the key or the model's name is refused, or the
        server wants more rest than the client gives it.
        """
        requests = [
            self._request(caption, seed, complaint)
            for caption, seed, complaint in zip(
                captions, seeds, complaints or [""] * len(captions), strict=True
            )
        ]
        return asyncio.run(self._ask_all(requests))

    def _request(self, caption: str, seed: int, complaint: str) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": chat_messages(self._config, caption, complaint),
            "temperature": 0,
            "seed": seed % _LARGEST_SEED,
            "max_tokens": self._config.max_new_tokens,
            "stream": False,
        }

    async def _ask_all(self, requests: Sequence[dict[str, Any]]) -> list[Rewritten]:
        concurrency = self._config.concurrency
        transport = _BoundedTransport(self._key, self._config.timeout_s, concurrency)
        free_places = asyncio.Semaphore(concurrency)
        http_client = httpx2.AsyncClient(transport=transport, trust_env=False)
        import openai  # noqa: PLC0415  # slow

        async with openai.AsyncOpenAI(
            api_key="in the transport",
            base_url=self._url,
            timeout=None,
            max_retries=self._config.retries,
            http_client=http_client,
        ) as client:

            async def ask(request: dict[str, Any]) -> Rewritten:
                # A caption keeps its place in the pauses before it is asked for again.
                async with free_places:
                    return await self._ask(client, request)

            return await asyncio.gather(*map(ask, requests))

    async def _ask(self, client: "openai.AsyncOpenAI", request: dict[str, Any]) -> Rewritten:
        """One caption with its retries."""
        import openai  # noqa: PLC0415  # slow

        try:
            response = await client.chat.completions.with_raw_response.create(**request)
            return self._answer(response.content)
        except _TooLongError:
            return self._failure(
                f"got more than {MAX_RESPONSE_BYTES} bytes", "check what answers there"
            )
        except openai.APITimeoutError:
            return self._failure(
                f"got nothing whole in {self._config.timeout_s:g} s", "see its load"
            )
        except openai.APIConnectionError as error:
            cause = error.__cause__
            got = f"got {type(cause).__name__}: {cause}"
            do = "check data.rewriter.url, and whether it runs"
            if isinstance(cause, httpx2.ConnectError):
                raise RewriterError(self._sentence(got, do)) from error
            return self._failure(got, do)
        except openai.APIStatusError as error:
            return self._refusal(error)

    def _refusal(self, error: "openai.APIStatusError") -> Rewritten:
        """A caption's error; RewriterError if others would fare no better."""
        status, got = error.status_code, f"got {error.status_code}{self._server_words(error)}"
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            what = "a key that it accepts in" if self._key else "the file with its key in"
            raise RewriterError(self._sentence(got, f"put {what} data.rewriter.api_key_file"))
        model = f"data.rewriter.model {self._model!r}"
        if status == httpx2.codes.NOT_FOUND or status < httpx2.codes.BAD_REQUEST:
            raise RewriterError(
                self._sentence(got, f"check data.rewriter.url, and that it serves {model}")
            )
        if status != httpx2.codes.TOO_MANY_REQUESTS and status < 500:
            return self._failure(got, f"check data.rewriter, with {model}")
        retries = int(error.request.headers[_RETRY_COUNT])
        if status in _OVERLOADED and retries < self._config.retries:
            raise RewriterError(self._sentence(got, "run again when it has room"))
        return self._failure(got, "run again when it has room")

    def _answer(self, body: bytes) -> Rewritten:
        try:
            choices = _Completion.model_validate_json(body).choices
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            return self._failure(
                f"got an answer of another form ({': '.join(filter(None, (place, first['msg'])))})",
                "check that data.rewriter.url speaks OpenAI's chat completions",
            )
        if not choices:
            return self._failure("got no choice in its answer", "look at its log")
        text = (choices[0].message.content or "").strip()
        if choices[0].finish_reason == "length":
            return Rewritten(text, cut_off_error(self._config))
        return Rewritten(text)

    def _failure(self, got: str, do: str) -> Rewritten:
        return Rewritten(error=self._sentence(got, do))

    def _sentence(self, got: str, do: str) -> str:
        return " ".join(f"expected a caption from {self._url}, {got}; {do}".split())

    def _server_words(self, error: "openai.APIStatusError") -> str:
        """The server's own sentence, if it has a known form; else the start of what it sent."""
        message = error.body.get("message") if isinstance(error.body, dict) else None
        words = message if isinstance(message, str) and message else error.response.text
        if self._key:  # a server may repeat what it was sent
            words = words.replace(self._key, "(key)")
        words = " ".join(words.split())[:_SHOWN]
        return f" ({words})" if words else ""


async def _bounded_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise _TooLongError
    return bytes(body)


def _require(value: str | None, field: str, what: str) -> str:
    if value:
        return value
    raise ConfigError(
        f"expected data.rewriter.{field} to be {what}, got {value!r}; set it, or take"
        " data.rewriter.kind grammar"
    )


def _check_url(text: str) -> str:
    """`text` without a slash at its end; ConfigError unless it is plain HTTP or HTTPS."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ConfigError(
            f"expected data.rewriter.url to be a URL, got {text!r} ({error}); correct it"
        ) from error
    if url.userinfo:
        raise ConfigError(
            "expected data.rewriter.url without a user or password, got one with them; put the key"
            " into data.rewriter.api_key_file"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            f"expected data.rewriter.url like http://host:8000/v1, got {text!r}; correct it"
        )
    return str(url).rstrip("/")
