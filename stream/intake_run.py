"""`burnguard intake`: the process around the intake, over HTTP or from a topic of others'."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Coroutine
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from schemas.adapters import native
from schemas.adapters.who import Sources
from schemas.producers import Producers
from stream.intake import Intake, Source
from stream.intake_http import intake_app, served
from stream.reach import Unreachable
from stream.rekey import Rekey
from stream.settings import IntakeSettings, KafkaSettings, SettingsError
from stream.transport import ForeignTopic, Sender

log = structlog.get_logger()
MIB = 1 << 20
IDLE_S = 75
"""A connection that is not used stays open so long: gateways flush every few seconds, and do not expect it to be gone."""
ANSWERED_WITHIN_S = 20
"""What was begun when we are told to leave has so long, more than a delivery may take."""


async def take_requests(kafka: KafkaSettings, settings: IntakeSettings, producers: Producers, sources: Sources) -> None:
    """Take what producers send until SIGTERM or SIGINT; what was begun is answered. Raises Unreachable, SettingsError."""
    listening, sender = listener(settings), Sender(kafka)
    await sender.start()
    limit = settings.body_mib * MIB
    app = intake_app(Intake(sender, kafka, sources, limit), producers, limit, settings.buffer_mib * MIB)
    try:
        await serve(app, listening, sender.lost())
    finally:
        await sender.stop()


async def pass_on(kafka: KafkaSettings, settings: IntakeSettings, topic: str, source: Source, sources: Sources) -> None:
    """Pass on what comes in a topic until SIGTERM or SIGINT. Raises Unreachable, SettingsError."""
    listening, sender = listener(settings), Sender(kafka)
    await sender.start()
    who = native.WHO if source == "native" else sources.of(source)
    try:
        async with ForeignTopic(kafka, topic) as foreign:
            rekey = Rekey(topic, source, who, foreign, sender, kafka)
            await serve(served(rekey.ready), listening, rekey.go())
    finally:
        await sender.stop()


def listener(settings: IntakeSettings) -> socket.socket:
    """Where we are asked. Raises SettingsError where the address cannot be had."""
    where = f"BURNGUARD_INTAKE_HOST {settings.host}, BURNGUARD_INTAKE_PORT {settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror or error}; port 0 takes any that is free") from error


def configured(app: FastAPI) -> uvicorn.Config:
    """How it is served: nothing of ours or of theirs is logged of a request."""
    return uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=ANSWERED_WITHIN_S,
    )


async def serve(app: FastAPI, listening: socket.socket, work: Coroutine[Any, Any, None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises what ends `work`, and Unreachable where it just ends."""
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn has its own while it serves, and says the signal again after
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    server = uvicorn.Server(configured(app))
    host, port, *_ = listening.getsockname()
    log.info("listening", address=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    serving, working = asyncio.create_task(server.serve([listening])), asyncio.create_task(work)
    await asyncio.wait({serving, working}, return_when=asyncio.FIRST_COMPLETED)
    ended = working.done()
    server.should_exit = True
    await serving
    if ended:
        working.result()
        raise Unreachable("the producer of Kafka's records has ended")
    working.cancel()
    await asyncio.wait({working})
