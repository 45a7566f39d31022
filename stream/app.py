"""`burnguard worker`: Faust's group, assignment and supervision around the worker; health, metrics, a watchdog."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, cast

import faust
import numpy as np
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError as KafkaError
from faust.app.base import BootStrategy
from faust.types import StreamT
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from yarl import URL

from schemas.batch import Batch, Ms
from schemas.prices import Entry
from stream.assembly import MADE_UP, Assembly, made_up_burn
from stream.checkpoint import Buffer, Checkpoint, compress, decompress, pack, read
from stream.duty import wall
from stream.metrics import PRICES
from stream.partition import Names
from stream.pricing import version_of
from stream.records import Fetched, RawBatch, to_lines
from stream.settings import KafkaSettings, SettingsError, WorkerSettings
from stream.transport import Group, Topics, raw_transport
from stream.worker import Worker

log = structlog.get_logger()
TICK_S = 0.25
WATCH_S = 1.0
READY_S = 30.0


def die(reason: str) -> NoReturn:
    """Stop at once, without a last checkpoint: what is not committed is read again by whoever comes next."""
    log.critical("died", reason=reason, exc_info=sys.exc_info()[1] is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class Readers(BootStrategy):
    """Faust's consumer without its producer: what we write has acknowledgements that we wait for ourselves."""

    enable_kafka_producer = False


class App(faust.App):
    BootStrategy = Readers


def compile_kernels() -> None:
    """Run everything once on a made-up burn, before the group counts on us."""
    assembly, fresh = made_up_burn(_read_raw), Assembly([])
    fresh.restore(read(decompress(compress(pack(Checkpoint(assembly.snapshot(), ""), Buffer())), Buffer())).state)
    fresh.decoder.keys.idle = np.zeros(1, np.int32)
    _read_raw(fresh, MADE_UP % (3, 1_000_003), 1_000_000_000)


def _read_raw(assembly: Assembly, line: bytes, clock: Ms) -> Batch:
    """A line in a batch of Kafka's, which has only this one."""
    record = b"\0\0\0\1" + _varint(len(line)) + line + b"\0"
    raw = RawBatch(0, 1, clock, _varint(len(record)) + record)
    return assembly.decoder.decode(to_lines("kernels", [Fetched(0, 1, (raw,))]))[0]


def _varint(size: int) -> bytes:
    """A size from 64 to 8,191 in zigzag, as Kafka's records have it."""
    return bytes([2 * size & 0x7F | 0x80, 2 * size >> 7])


def faust_app(kafka: KafkaSettings, settings: WorkerSettings) -> faust.App:
    """Faust as the distributed engine only: group, assignment, supervision; no table, no commit, no leader topic."""
    broker = URL(f"kafka://{kafka.bootstrap.split(',')[0]}")
    app = App(
        kafka.group,
        broker=broker,
        store="memory://",
        web_enabled=False,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        worker_redirect_stdouts=False,
        broker_session_timeout=settings.session_timeout_s,
    )
    app.transport = raw_transport(kafka, settings)([broker], app)
    return app


async def work(kafka: KafkaSettings, settings: WorkerSettings, prices: Sequence[Entry]) -> None:
    """Work until SIGTERM or SIGINT, then write a last checkpoint and leave the group."""
    log.info("prices", version=version_of(prices), entries=len(prices))
    PRICES.info({"version": version_of(prices)})
    compile_kernels()
    gc.freeze()  # what is there by now stays: going through it in a full collection would let calls wait for 110 ms
    app, topics = faust_app(kafka, settings), Topics(kafka)
    names = Names(kafka.usage_topic, kafka.signals_topic, kafka.state_topic, kafka.quarantine_topic)
    worker = Worker(
        Group(app, kafka),
        topics,
        names,
        prices,
        checkpoint_s=settings.checkpoint_s,
        longest_s=settings.longest_s,
        bytes_s=settings.checkpoint_mb_s * 1e6,
        keys=settings.keys,
        clock=wall,
    )
    usage = app.topic(kafka.usage_topic, value_type=None, value_serializer="raw", key_serializer="raw", maxsize=8)

    async def calls(stream: StreamT[Any]) -> None:
        async for event in cast("faust.Stream[Any]", stream).noack().events():
            try:
                await worker.take(event.message.partition, event.message.generation_id, event.message.value)
            except Exception as error:
                die(f"partition {event.message.partition}: {error}")

    app.agent(usage)(calls)
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave.set)
    threading.Thread(target=_watch, args=(worker, settings.stuck_s), daemon=True, name="watchdog").start()
    server = await _serve(worker, settings.http_port)
    await topics.start()
    await app.start()
    beats = [asyncio.create_task(_ticking(worker, leave)), asyncio.create_task(_checkpointing(worker, leave))]
    crash = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait({crash, asyncio.create_task(leave.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if not leave.is_set():
        die(f"Faust stopped: {app.crash_reason!r}")
    await asyncio.gather(*beats)  # what is under way ends: its acknowledgements are needed for the last checkpoint
    await worker.checkpoint()
    await app.stop()
    await topics.stop()
    await server.cleanup()


async def _ticking(worker: Worker, leave: asyncio.Event) -> None:
    while not await _left(leave, TICK_S):
        try:
            await worker.tick()
        except Exception as error:
            die(str(error))


async def _checkpointing(worker: Worker, leave: asyncio.Event) -> None:
    pause = TICK_S
    while not await _left(leave, pause):
        try:
            pause = await worker.checkpoint()
        except Exception as error:
            die(f"checkpoint: {error}")


async def _left(leave: asyncio.Event, within_s: float) -> bool:
    """Whether we are told to leave, at the latest after so long."""
    with suppress(TimeoutError):
        await asyncio.wait_for(leave.wait(), within_s)
    return leave.is_set()


def _watch(worker: Worker, limit_s: float) -> None:
    """A worker that does not get on says where it hangs and dies; its supervisor starts it again."""
    while True:
        time.sleep(WATCH_S)
        reason = worker.stuck(limit_s)
        if reason is not None:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            die(f"stuck: {reason}")


async def _serve(worker: Worker, port: int) -> web.AppRunner:
    """`/health`, `/ready` and `/metrics` on 127.0.0.1. Raises SettingsError where the port is taken."""

    async def health(request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def ready(request: web.Request) -> web.Response:
        fine = worker.ready() and time.monotonic() - worker.beat < READY_S
        return web.Response(text="ready\n" if fine else "not ready\n", status=200 if fine else 503)

    async def scrape(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    server = web.Application()
    server.add_routes([web.get("/health", health), web.get("/ready", ready), web.get("/metrics", scrape)])
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(f"BURNGUARD_WORKER_HTTP_PORT {port}: {error.strerror}; 0 takes any that is free") from error
    log.info("listening", address=f"http://127.0.0.1:{runner.addresses[0][1]}")
    return runner
