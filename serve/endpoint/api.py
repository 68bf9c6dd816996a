"""HTTP and WebSocket routes; the one place that turns errors into replies."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from fastapi.security import HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from infra.errors import RefusedError, ServerError
from serve.endpoint.guard import Guard, error_reply, largest_body
from serve.endpoint.tickets import STREAMS, Tickets
from serve.sessions.admission import Admission
from serve.sessions.delivery import over
from serve.sessions.metrics import CONTENT_TYPE
from serve.sessions.protocol import (
    ControlRequest,
    ErrorEvent,
    ErrorReply,
    StreamCreated,
    StreamRequest,
    StreamStatus,
    StreamUrls,
)
from serve.sessions.session import Session

SHOWN_CHARACTERS = 60
STOPPED_BY_REQUEST = "stopped by request"
# For the bytes before the failure; then the connection is cut whether the client has them or not.
LAST_BYTES_S = 5.0
# WebSocket close codes of an application begin at 4000; these carry the HTTP status.
CLOSED_UNAUTHORISED = 4401
CLOSED_UNKNOWN = 4404
Block = Annotated[
    int | None,
    Query(ge=0, description="go on from this block, where a connection broke; no header but for 0"),
]
FirstBlock = Annotated[
    int, Query(ge=0, description="leave out the records of the blocks before this one")
]


def _owner(connection: HTTPConnection) -> str | None:
    """Who asks, as the guard found out."""
    owner: str | None = connection.state.owner
    return owner


Owner = Annotated[str | None, Depends(_owner)]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_api(
    admission: Admission, keys: Sequence[str], lifespan: Lifespan | None = None
) -> FastAPI:
    """The routes over `admission`.

    Args:
        admission: accepts and holds streams.
        keys: bearer keys of which /v1 wants one; empty: open to everybody.
        lifespan: runs around the application.
    """
    api = FastAPI(
        title="OmniForcing streams",
        description="Picture and sound in one-second blocks, as they are computed.",
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    api.add_exception_handler(RefusedError, _refusal_reply)
    api.add_exception_handler(RequestValidationError, _invalid_request_reply)
    api.add_exception_handler(HTTPException, _http_error_reply)
    api.add_exception_handler(Exception, _unexpected_error_reply)
    limits = admission.config.serve
    api.add_middleware(
        Guard,
        keys=keys,
        host=limits.host,
        hosts=limits.hosts,
        body_bytes=largest_body(limits.max_prompt_chars),
    )
    _add_pages(api, admission)
    # Says in the description what the guard checks.
    bearer = HTTPBearer(auto_error=False, description="a line of serve.api_key_file")
    protected = APIRouter(prefix="/v1", dependencies=[Depends(bearer)])
    _add_streams(protected, admission, Tickets(keys))
    _add_pairs(protected, admission)
    api.include_router(protected)
    _add_control(api, admission, wants_key=bool(keys))
    return api


def _add_pages(api: FastAPI, admission: Admission) -> None:
    player = resources.files("serve.endpoint").joinpath("player.html").read_text(encoding="utf-8")

    @api.get("/", response_class=HTMLResponse, summary="The player")
    async def player_page() -> str:
        return player

    @api.get("/healthz", summary="The gateway answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="A stream could begin", responses=_errors(503))
    async def readiness() -> dict[str, Any]:
        pairs = await admission.replicas.pairs()
        ready = sum(pair.ready for pair in pairs)
        if not ready:
            raise RefusedError(
                "expected a ready pair of replicas, got none; wait", status=503, retry_after_s=1
            )
        return {"status": "ready", "model": admission.model, "pairs": ready}

    @api.get("/metrics", response_class=PlainTextResponse, summary="For Prometheus")
    async def metrics() -> Response:
        return Response(await admission.metrics_text(), media_type=CONTENT_TYPE)


def _add_pairs(protected: APIRouter, admission: Admission) -> None:
    @protected.get("/pairs", summary="Pairs of replicas, with who is in them")
    async def pairs() -> list[dict[str, Any]]:
        return [pair._asdict() for pair in await admission.replicas.pairs()]


def _add_streams(protected: APIRouter, admission: Admission, tickets: Tickets) -> None:
    streams = APIRouter(prefix="/streams")

    @streams.post("", status_code=201, summary="Begin a stream", responses=_errors(422, 429, 503))
    async def create(request: StreamRequest, owner: Owner) -> StreamCreated:
        session = await admission.accept(request, owner)
        order = session.order
        place = f"{STREAMS}{order.stream_id}"
        ticket = tickets.query(order.stream_id, owner)
        return StreamCreated(
            id=order.stream_id,
            seed=order.seed,
            seconds=order.seconds,
            model=order.model,
            content_type=session.content_type,
            urls=StreamUrls(
                status=place,
                media=f"{place}/media.mp4{ticket}",
                control=f"{place}/control{ticket}",
            ),
        )

    @streams.get("/{stream_id}", summary="What became of it", responses=_errors(404))
    async def status(stream_id: str, owner: Owner, first_block: FirstBlock = 0) -> StreamStatus:
        known = admission.status(stream_id, owner, first_block)
        if known is None:
            raise _unknown_stream(stream_id)
        return known

    @streams.delete("/{stream_id}", summary="Stop it", responses=_errors(404))
    async def delete(stream_id: str, owner: Owner) -> StreamStatus:
        session = admission.find(stream_id, owner)
        if session is not None:
            await session.stop_and_wait(STOPPED_BY_REQUEST)
            return session.status()
        return await status(stream_id, owner)

    @streams.get(
        "/{stream_id}/media.mp4",
        summary="Its picture and sound",
        response_class=StreamingResponse,
        responses=_errors(404, 409, 410, 422),
    )
    async def media(stream_id: str, owner: Owner, block: Block = None) -> Response:
        session = admission.find(stream_id, owner)
        if session is None:
            if admission.status(stream_id, owner) is not None:
                raise over()
            raise _unknown_stream(stream_id)
        return MediaResponse(session, session.claim_reader(block))

    protected.include_router(streams)


class MediaResponse(Response):
    """The media of a stream as it grows. Whatever keeps it from being whole cuts the connection."""

    media_type = "video/mp4"

    def __init__(self, session: Session, reader: int) -> None:
        """`reader` is its number, of `session.claim_reader`."""
        headers = {"Cache-Control": "no-store", "X-Model": session.order.model}
        super().__init__(headers=headers, media_type=session.content_type)
        del self.headers["Content-Length"]
        self._session = session
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application; ServerError if the stream failed, or its reader stalled."""
        delivering = asyncio.create_task(self._deliver(send))
        leaving = asyncio.create_task(_disconnected(receive))
        abandoned = asyncio.create_task(self._session.abandoned())
        tasks = (delivering, leaving, abandoned)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        stalled = not abandoned.cancelled()
        if stalled or isinstance(results[0], Exception):
            await scope["state"]["cut"](0.0 if stalled else LAST_BYTES_S)
            raise ServerError("expected a whole stream, got a part")

    async def _deliver(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        async with aclosing(self._session.media(self._reader)) as chunks:
            async for data in chunks:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _add_control(api: FastAPI, admission: Admission, wants_key: bool) -> None:
    @api.websocket("/v1/streams/{stream_id}/control")
    async def control(socket: WebSocket, stream_id: str, owner: Owner) -> None:
        await socket.accept()
        if wants_key and owner is None:
            await socket.close(CLOSED_UNAUTHORISED, "expected a bearer key")
            return
        session = admission.find(stream_id, owner)
        if session is None:
            await socket.close(CLOSED_UNKNOWN, "expected an open stream")
            return
        # Only a loop that receives notices that the client has gone.
        receiving = asyncio.create_task(_receive_commands(socket, session))
        sending = asyncio.create_task(_send_events(socket, session))
        await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (receiving, sending):
            task.cancel()
        results = await asyncio.gather(receiving, sending, return_exceptions=True)
        if not any(isinstance(result, WebSocketDisconnect) for result in results):
            await socket.close()


async def _receive_commands(socket: WebSocket, session: Session) -> None:
    while True:
        text = await socket.receive_text()
        try:
            ControlRequest.model_validate_json(text)
        except ValidationError:
            expected = 'expected {"type": "stop"}, got ' + repr(text[:SHOWN_CHARACTERS])
            await socket.send_text(ErrorEvent(error=expected).model_dump_json())
        else:
            session.stop(STOPPED_BY_REQUEST)


async def _send_events(socket: WebSocket, session: Session) -> None:
    async for event in session.events():
        await socket.send_text(event.model_dump_json())


def _unknown_stream(stream_id: str) -> RefusedError:
    return RefusedError(
        f"expected the id of a stream, got {stream_id[:SHOWN_CHARACTERS]!r}; create one with"
        " POST /v1/streams",
        status=404,
    )


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply} for status in statuses}


async def _refusal_reply(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return error_reply(error)


async def _invalid_request_reply(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_reply(RefusedError("; ".join(map(_invalid_field, error.errors()))))


def _invalid_field(problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"][1:])
    if problem["type"] == "json_invalid":
        return (
            f"expected a body in JSON, got {problem['ctx']['error']} at place {place}; send"
            ' {"prompt": "...", "seconds": 10}'
        )
    message = str(problem["msg"]).removeprefix("Value error, ")
    value = repr(problem.get("input"))
    shown = f"{value[:SHOWN_CHARACTERS]}..." if len(value) > SHOWN_CHARACTERS else value
    return f"{place or 'body'}: {message} (got {shown})"


async def _http_error_reply(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_reply(RefusedError(str(error.detail), error.status_code))


async def _unexpected_error_reply(_: Request, error: Exception) -> JSONResponse:
    message = f"unexpected {type(error).__name__}; the server's log has the details"
    return error_reply(RefusedError(message, 500))
