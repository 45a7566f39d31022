"""How an intake listens: TLS, and connections that keep nobody else out."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from schemas.adapters.who import Sources
from stream.intake import Intake
from stream.intake_http import intake_app
from stream.passing import Sink
from stream.settings import IntakeSettings, SettingsError
from stream.tokens import Holders

IDLE_S = 75
"""A connection that is not used stays open so long: gateways flush every few seconds, and do not expect it to be gone."""
HEAD_WITHIN_S = 10.0
"""From the beginning of a connection, or the first byte of a later request, to the end of its headers."""
MOST_CONNECTIONS = 512
"""One more, and the one that has been without a request for longest is closed."""
ANSWERED_WITHIN_S = 20
"""What was begun when we are told to leave has so long, more than a delivery may take."""


class Connection(H11Protocol):
    """A connection that is closed when its headers do not come, or when it is idle and others need its place."""

    idle_since: float | None = None
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MOST_CONNECTIONS:
            self._make_room()
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        self._head = self.loop.call_later(HEAD_WITHIN_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()
            self.idle_since = None
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self.idle_since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait_no_more(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _make_room(self) -> None:
        idle = [one for one in self.connections if isinstance(one, Connection) and one.idle_since is not None]
        if idle:
            oldest = min(idle, key=lambda one: one.idle_since or 0.0)
            oldest.transport.abort()
            self.connections.discard(oldest)


class Server(uvicorn.Server):
    """Serves until `leave`; signals are for who runs it to heed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def leave(self) -> None:
        """Answer what was begun, and end; told twice, at once."""
        self.force_exit, self.should_exit = self.should_exit, True


def listener(settings: IntakeSettings) -> socket.socket:
    """Where we are asked. Raises SettingsError where the address cannot be had."""
    where = f"BURNGUARD_INTAKE_HOST {settings.host}, BURNGUARD_INTAKE_PORT {settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror or error}; port 0 takes any that is free") from error


def server(app: FastAPI, tls: ssl.SSLContext | None) -> Server:
    """Nothing of ours or of theirs is logged of a request."""
    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=ANSWERED_WITHIN_S,
            ssl_context_factory=None if tls is None else lambda config, default: tls,
        )
    )


@dataclass(frozen=True, slots=True)
class Named:
    """Topics, where there is no Kafka: what tells calls from rows of what was refused."""

    usage_topic: str = "usage"
    quarantine_topic: str = "quarantine"


def take_in(
    settings: IntakeSettings, producers: Holders, sources: Sources, say: Callable[[str], None]
) -> Callable[[Sink], Coroutine[None, None, None]]:
    """An intake without Kafka, its address taken; it serves until it is cancelled, and then answers what was begun.

    Raises SettingsError.
    """
    tls, listening = settings.tls(), listener(settings)

    async def serve(sink: Sink) -> None:
        inside = Intake(sink, Named(), sources, settings.body_bytes)
        served_by = server(intake_app(inside, producers, settings.buffer_bytes), tls)
        say(f"listening  {address(listening, tls)}")
        serving = asyncio.create_task(served_by.serve([listening]))
        try:
            await asyncio.shield(serving)
        finally:
            served_by.leave()
            await serving

    return serve


def address(listening: socket.socket, tls: ssl.SSLContext | None) -> str:
    """Where a listener is asked, as a URL."""
    host, port, *_ = listening.getsockname()
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
