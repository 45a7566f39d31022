"""The intake over HTTP: who sends is asked before the body is read, and what finds no room is turned away, never dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Said

from schemas.producers import Producer
from schemas.usage import schema
from stream import metrics
from stream.duty import wall
from stream.intake import MOST_SHOWN, BadBody, Body, Intake, Source, Taken, TooLarge
from stream.partition import Away
from stream.tokens import Holders

Foreign = Literal["litellm", "cloudevents", "kong", "bifrost", "openai", "anthropic", "gemini", "bedrock"]
JSON, PROTOBUF, NDJSON = "application/json", "application/x-protobuf", "application/x-ndjson"
BODY_WITHIN_S = 30.0
MOST_REQUESTS = 256
AGAIN_AFTER_S = 2
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))]


class Refused(BaseModel):
    """One call that was refused: which of the body's (from 1), at which field, and why."""

    part: int
    field: str
    reason: str


class Answer(BaseModel):
    """What became of a body. All counted: taken is safe, refused in the quarantine, passed was no call of its own."""

    taken: int
    refused: int
    passed: int
    reasons: list[Refused] = Field(max_length=MOST_SHOWN, description="of the first that were refused, and of the last")


class Problem(BaseModel):
    """Why a body was not taken."""

    detail: str


class Turned(Exception):
    """A request that is not taken: the status, why, and whether the same may be sent again."""

    def __init__(self, status: int, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = {"connection": "close"} if status in (401, 408, 413, 415, 429) else {}
        if again:
            self.headers["retry-after"] = str(AGAIN_AFTER_S)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


class Room:
    """What is held at once: requests, and bytes of bodies that are not answered yet; one body alone has always room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._requests = 0
        self._held = 0

    @contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """A place for one request; what it returns takes room for so many bytes. Both raise Turned where all is taken."""
        if self._requests >= MOST_REQUESTS:
            raise Turned(429, "too many requests at once", again=True)
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held > held and self._held + size > self._limit:
                raise Turned(429, "too much is waiting to be safe", again=True)
            self._held, held = self._held + size, held + size
            metrics.INTAKE_HELD.set(self._held)

        self._requests += 1
        try:
            yield hold
        finally:
            self._requests -= 1
            self._held -= held
            metrics.INTAKE_HELD.set(self._held)


class Door:
    """From a request to what became of it, or Turned."""

    def __init__(self, intake: Intake, producers: Holders, buffer: int) -> None:
        self._intake = intake
        self._producers = producers
        self._limit = intake.limit
        self._room = Room(buffer)

    async def take(self, source: Source, request: Request, bearer: HTTPAuthorizationCredentials | None) -> Taken:
        """Returns when all of it is safe. Raises Turned."""
        producer = self._producers.holder(bearer.credentials) if bearer else None
        if producer is None:
            raise Turned(401, "no such token")
        packing = request.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip"):
            raise Turned(415, "content-encoding must be gzip, or none")
        with self._room.place() as hold:
            body = Body(source, await self._read(request, hold), packing == "gzip")
            return await self._judged(body, producer, hold)

    async def _read(self, request: Request, hold: Callable[[int], None]) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self._limit:
                        raise Turned(413, f"larger than {self._limit} bytes")
                    hold(len(chunk))
                    body += chunk
        except TimeoutError as error:
            raise Turned(408, f"the body did not come within {BODY_WITHIN_S:.0f} s", again=True) from error
        except ClientDisconnect as error:
            raise Turned(400, "the body was cut short") from error
        return bytes(body)

    async def _judged(self, body: Body, producer: Producer, hold: Callable[[int], None]) -> Taken:
        try:
            return await self._intake.take(body, producer, hold, wall() / 1000)
        except TooLarge as error:
            raise Turned(413, str(error)) from error
        except BadBody as error:
            raise Turned(400, str(error)) from error
        except Away as error:
            reason = "not all of it is safe: send it again, calls that are there already are dropped"
            raise Turned(503, reason, again=True) from error


def intake_app(intake: Intake, producers: Holders, buffer: int) -> FastAPI:
    """The whole intake."""
    app = served(intake.ready)
    door = Door(intake, producers, buffer)

    told: dict[str, Any] = {
        "description": "One object, an array of them, or NDJSON. Calls that are refused keep none of the others out.",
        "response_model": Answer,
    }

    @app.post(
        "/v1/usage/native",
        summary="Take usage events",
        responses=problems(400, 401, 408, 413, 415, 429, 503),
        openapi_extra=takes(listed(schema())),
        **told,
    )
    async def usage(request: Request, bearer: Bearer) -> Response:
        return answer(await door.take("native", request, bearer))

    @app.post(
        "/v1/usage/{source}",
        summary="Take what another source sends (docs/adapters.md)",
        responses=problems(400, 401, 404, 408, 413, 415, 429, 503),
        openapi_extra=takes(listed({"type": "object"})),
        **told,
    )
    async def foreign(source: Annotated[Foreign, Path()], request: Request, bearer: Bearer) -> Response:
        return answer(await door.take(source, request, bearer))

    @app.post(
        "/v1/traces",
        summary="Take OpenTelemetry traces (OTLP/HTTP)",
        description="An ExportTraceServiceRequest. Spans that are no model calls are accepted and passed over.",
        response_class=Response,
        responses={
            200: otlp_content("An ExportTraceServiceResponse"),
            **{status: otlp_content(meaning) for status, meaning in TURNED.items() if status != 404},
        },
        openapi_extra=takes({JSON: {"type": "object"}, PROTOBUF: {"type": "string", "format": "binary"}}),
    )
    async def traces(request: Request, bearer: Bearer) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind not in (JSON, PROTOBUF):
                raise Turned(415, f"content-type must be {PROTOBUF} or {JSON}")
            return otlp_answer(kind, await door.take("otlp", request, bearer))
        except Turned as turned:
            return otlp(kind, Status(message=turned.reason), turned.status, turned.headers)

    return app


def served(ready: Callable[[], bool]) -> FastAPI:
    """What every intake serves, whatever it reads."""
    app = FastAPI(
        title="Burnguard intake",
        version=version("burnguard"),
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )

    @app.get("/health", summary="Whether the process lives", response_class=PlainTextResponse)
    async def health() -> str:
        return "alive\n"

    @app.get(
        "/ready",
        summary="Whether deliveries do not fail",
        response_class=PlainTextResponse,
        responses={503: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "They do"}},
    )
    async def is_ready() -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("not ready\n", 503)

    @app.get("/metrics", summary="Metrics (Prometheus)", response_class=PlainTextResponse)
    async def scrape() -> Response:
        return Response(generate_latest(metrics.INTAKE), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Turned)
    async def turned_away(request: Request, turned: Turned) -> Response:
        return JSONResponse({"detail": turned.reason}, turned.status, turned.headers)

    @app.exception_handler(RequestValidationError)
    async def no_such_source(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": "no such source"}, 404)

    app.add_middleware(Counted)
    return app


class Counted:
    """Counts answers by their status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(said: Said) -> None:
            if said["type"] == "http.response.start":
                metrics.INTAKE_ANSWERS.labels(str(said["status"])).inc()
            await send(said)

        await self._app(scope, receive, counting)


def answer(taken: Taken) -> Response:
    """200 also where some were refused, for sending those again is of no use; 422 where all were."""
    shown = [Refused(part=each.part, field=each.field, reason=each.reason) for each in taken.reasons]
    said = Answer(taken=taken.calls, refused=taken.refused, passed=taken.passed, reasons=shown)
    return JSONResponse(said.model_dump(), 422 if taken.nothing else 200)


def otlp_answer(kind: str, taken: Taken) -> Response:
    """A partial success where some spans were refused; where all were, bad data."""
    if not taken.refused:
        return otlp(kind, ExportTraceServiceResponse(), 200)
    first = taken.reasons[0]
    said = f"{taken.refused} refused; the first: {first.field}: {first.reason}"
    if taken.nothing:
        return otlp(kind, Status(message=said), 400)
    partial = ExportTracePartialSuccess(rejected_spans=taken.refused, error_message=said)
    return otlp(kind, ExportTraceServiceResponse(partial_success=partial), 200)


def otlp(kind: str, message: Message, status: int, headers: dict[str, str] | None = None) -> Response:
    """A message in the encoding that was asked in. An error is a google.rpc.Status; a span's is like it on the wire."""
    if kind == PROTOBUF:
        return Response(message.SerializeToString(), status, headers, PROTOBUF)
    return JSONResponse(MessageToDict(message), status, headers)


TURNED = {
    400: "Not one whole gzip stream, or every call was refused",
    401: "No token, or nobody's",
    404: "No such source",
    408: "The body did not come in time",
    413: "Too large, as it is or unpacked",
    415: "A content type or encoding that is not taken",
    429: "No room: send it again",
    503: "Not all of it is safe: send it again",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a usage route may answer beside 200."""
    turned: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": TURNED[status]} for status in statuses
    }
    return {**turned, 422: {"model": Answer, "description": "Every call was refused"}}


def takes(content: dict[str, Any]) -> dict[str, Any]:
    """The body of a request, by content type."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": shape} for kind, shape in content.items()}}}


def otlp_content(description: str) -> dict[str, Any]:
    """An answer in either encoding of OTLP."""
    kinds = {JSON: {"type": "object"}, PROTOBUF: {"type": "string", "format": "binary"}}
    return {"description": description, "content": {kind: {"schema": shape} for kind, shape in kinds.items()}}


def listed(one: dict[str, Any]) -> dict[str, Any]:
    """One, an array of such, or NDJSON."""
    return {JSON: {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}, NDJSON: {"type": "string"}}
