"""`burnguard intake`: the process around the intake, over HTTP or from a topic of others'."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

import structlog
from fastapi import FastAPI

from schemas.adapters import native
from schemas.adapters.who import Sources
from stream.intake import Intake, Source
from stream.intake_http import intake_app, served
from stream.reach import Unreachable
from stream.rekey import Rekey
from stream.serving import address, listener, server
from stream.settings import IntakeSettings, KafkaSettings
from stream.tokens import Holders
from stream.transport import ForeignTopic, Sender

log = structlog.get_logger()


async def take_requests(kafka: KafkaSettings, settings: IntakeSettings, producers: Holders, sources: Sources) -> None:
    """Take what producers send until SIGTERM or SIGINT; what was begun is answered. Raises Unreachable, SettingsError."""
    tls, listening, sender = settings.tls(), listener(settings), Sender(kafka)
    await sender.start()
    app = intake_app(Intake(sender, kafka, sources, settings.body_bytes), producers, settings.buffer_bytes)
    try:
        await serve(app, listening, tls, sender.lost())
    finally:
        await sender.stop()


async def pass_on(kafka: KafkaSettings, settings: IntakeSettings, topic: str, source: Source, sources: Sources) -> None:
    """Pass on what comes in a topic until SIGTERM or SIGINT. Raises Unreachable, SettingsError."""
    tls, listening, sender = settings.tls(), listener(settings), Sender(kafka)
    await sender.start()
    who = native.WHO if source == "native" else sources.of(source)
    try:
        async with ForeignTopic(kafka, topic) as foreign:
            rekey = Rekey(topic, source, who, foreign, sender, kafka)
            await serve(served(rekey.ready), listening, tls, rekey.go())
    finally:
        await sender.stop()


async def serve(app: FastAPI, listening: socket.socket, tls: ssl.SSLContext | None, work: Coroutine[Any, Any, None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises what ends `work`, and Unreachable where it just ends."""
    served_by = server(app, tls)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, served_by.leave)
    log.info("listening", address=address(listening, tls))
    serving, working = asyncio.create_task(served_by.serve([listening])), asyncio.create_task(work)
    await asyncio.wait({serving, working}, return_when=asyncio.FIRST_COMPLETED)
    ended = working.done()
    served_by.should_exit = True
    await serving
    if ended:
        working.result()
        raise Unreachable("the producer of Kafka's records has ended")
    working.cancel()
    await asyncio.wait({working})
