"""HTTP and WebSocket routes; the one place that turns errors into replies."""

import asyncio
import hmac
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
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
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from infra.errors import RefusedError
from serve.admission import Admission
from serve.metrics import CONTENT_TYPE
from serve.protocol import (
    ControlRequest,
    ErrorEvent,
    ErrorReply,
    StreamCreated,
    StreamRequest,
    StreamStatus,
    StreamUrls,
)
from serve.session import Session

SHOWN_CHARACTERS = 60
STOPPED_BY_REQUEST = "stopped by request"
# WebSocket close codes of an application begin at 4000; these carry the HTTP status.
CLOSED_UNAUTHORISED = 4401
CLOSED_UNKNOWN = 4404
FirstBlock = Annotated[
    int, Query(ge=0, description="leave out the records of the blocks before this one")
]
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
    _add_pages(api, admission)
    streams = APIRouter(prefix="/v1/streams", dependencies=[Depends(_key_check(keys))])
    _add_streams(streams, admission)
    api.include_router(streams)
    _add_control(api, admission, keys)
    return api


def _add_pages(api: FastAPI, admission: Admission) -> None:
    player = resources.files("serve").joinpath("player.html").read_text(encoding="utf-8")

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
        return {"status": "ready", "model": admission.model, "pairs": [p._asdict() for p in pairs]}

    @api.get("/metrics", response_class=PlainTextResponse, summary="For Prometheus")
    async def metrics() -> Response:
        return Response(await admission.metrics_text(), media_type=CONTENT_TYPE)


def _add_streams(streams: APIRouter, admission: Admission) -> None:
    @streams.post("", status_code=201, summary="Begin a stream", responses=_errors(422, 429, 503))
    async def create(request: StreamRequest) -> StreamCreated:
        session = await admission.accept(request)
        order = session.order
        place = f"/v1/streams/{order.stream_id}"
        return StreamCreated(
            id=order.stream_id,
            seed=order.seed,
            seconds=order.seconds,
            model=order.model,
            content_type=session.content_type,
            urls=StreamUrls(status=place, media=f"{place}/media.mp4", control=f"{place}/control"),
        )

    @streams.get("/{stream_id}", summary="What became of it", responses=_errors(404))
    async def status(stream_id: str, first_block: FirstBlock = 0) -> StreamStatus:
        known = admission.status(stream_id, first_block)
        if known is None:
            raise _unknown_stream(stream_id)
        return known

    @streams.delete("/{stream_id}", summary="Stop it", responses=_errors(404))
    async def delete(stream_id: str) -> StreamStatus:
        session = admission.find(stream_id)
        if session is not None:
            await session.stop_and_wait(STOPPED_BY_REQUEST)
            return session.status()
        return await status(stream_id)

    @streams.get(
        "/{stream_id}/media.mp4",
        summary="Its picture and sound",
        response_class=StreamingResponse,
        responses=_errors(404, 409, 410),
    )
    async def media(stream_id: str) -> StreamingResponse:
        session = admission.find(stream_id)
        if session is None:
            if admission.status(stream_id) is not None:
                raise RefusedError(
                    "expected an open stream, got one that is over; create another", status=410
                )
            raise _unknown_stream(stream_id)
        session.claim_reader()
        headers = {"Cache-Control": "no-store", "X-Model": session.order.model}
        return StreamingResponse(session.media(), media_type=session.content_type, headers=headers)


def _add_control(api: FastAPI, admission: Admission, keys: Sequence[str]) -> None:
    @api.websocket("/v1/streams/{stream_id}/control")
    async def control(socket: WebSocket, stream_id: str) -> None:
        await socket.accept()
        scheme, _, key = socket.headers.get("authorization", "").partition(" ")
        if keys and not (scheme.lower() == "bearer" and _is_known(key, keys)):
            await socket.close(CLOSED_UNAUTHORISED, "expected a bearer key")
            return
        session = admission.find(stream_id)
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


def _key_check(keys: Sequence[str]) -> Callable[..., None]:
    bearer = HTTPBearer(auto_error=False, description="a line of serve.api_key_file")

    def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        if keys and (credentials is None or not _is_known(credentials.credentials, keys)):
            raise HTTPException(
                401,
                "expected a known key in 'Authorization: Bearer KEY', got"
                f" {'another' if credentials else 'none'}; ask the operator for one",
                {"WWW-Authenticate": "Bearer"},
            )

    return check


def _is_known(key: str, keys: Sequence[str]) -> bool:
    """Compares with every key in full: the time taken gives nothing of them away."""
    matches = [hmac.compare_digest(key.encode(), known.encode()) for known in keys]
    return any(matches)


def _unknown_stream(stream_id: str) -> RefusedError:
    return RefusedError(
        f"expected the id of a stream, got {stream_id[:SHOWN_CHARACTERS]!r}; create one with"
        " POST /v1/streams",
        status=404,
    )


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply} for status in statuses}


def _reply(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorReply(error=message).model_dump(), status, headers)


async def _refusal_reply(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    wait = error.retry_after_s
    return _reply(error.status, str(error), {"Retry-After": str(wait)} if wait else None)


async def _invalid_request_reply(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"][1:]) or "body"
        message = str(item["msg"]).removeprefix("Value error, ")
        value = repr(item.get("input"))
        shown = f"{value[:SHOWN_CHARACTERS]}..." if len(value) > SHOWN_CHARACTERS else value
        problems.append(f"{place}: {message} (got {shown})")
    return _reply(422, "; ".join(problems))


async def _http_error_reply(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _reply(error.status_code, str(error.detail), dict(error.headers or {}))


async def _unexpected_error_reply(_: Request, error: Exception) -> JSONResponse:
    return _reply(500, f"unexpected {type(error).__name__}; the server's log has the details")
