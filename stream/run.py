"""`burnguard run`: pipeline and responder in one process, without Kafka."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from actions.ledger import Busy, Deposed, Ledger
from schemas.directory import Directory
from schemas.policy import Policy
from schemas.prices import PriceEntry
from stream.assembly import AFTER_END, Assembly, respond
from stream.duty import TICK_S, Duty, Say, wall
from stream.live import usd
from stream.pipeline import Output
from stream.settings import Settings
from stream.sources import LineReader, read_file
from stream.tenants import TenantMeters

READ_BYTES = 1 << 20
LOCKED_S = 0.25
"""How long the stream may stand still because somebody else keeps the ledger locked, once a second."""


class Run:
    """One `burnguard run`: reads a history, then goes on live until its source ends."""

    def __init__(
        self,
        policy: Policy,
        directory: Directory,
        prices: Sequence[PriceEntry],
        settings: Settings,
        ledger: Path,
        say: Say,
    ) -> None:
        settings.check(policy)
        self._say = say
        self._assembly = Assembly(prices)
        self._quarantine = ledger.with_suffix(".quarantine.jsonl")
        self._reader = LineReader(self._assembly.decoder)
        self._tenants = TenantMeters()
        self._ledger = Ledger(f"sqlite:///{ledger}", wait_s=LOCKED_S)
        self._on_duty = partial(Duty, self._ledger, policy, directory, settings, say, self._tenants, patient=True)
        self._following: asyncio.Task[None] | None = None
        self._learnt = dict(self._assembly.pipeline.counters)
        self._refused = 0

    def learn(self, history: Path) -> None:
        """Read a file for the baselines only: its signals are dropped, nothing is acted on."""
        reader = LineReader(self._assembly.decoder)
        for batch in read_file(history, reader):
            for pulse in self._assembly.pipeline.feed(batch).pulses:
                self._tenants.fold(pulse)
            self._keep(reader)
        counters = self._assembly.pipeline.counters
        self._say(f"history    {counters['unique']} calls, {usd(counters['usd'])}: baselines learnt from {history}")
        self._learnt = dict(counters)

    async def go(self, source: str) -> None:
        """Follow `source` (a file, or `-` for standard input) to its end, then take every live action back and resign.

        Only from here on this process is the ledger's responder: what came before may have taken long.
        """
        try:
            async with self._on_duty() as duty:
                await self._go(source, duty)
        finally:
            with suppress(Deposed, Busy):
                self._ledger.resign()

    def stop_following(self) -> None:
        """As if the source had ended."""
        if self._following is not None:
            self._following.cancel()

    async def _go(self, source: str, duty: Duty) -> None:
        turning = asyncio.create_task(duty.keep_turning())
        self._following = asyncio.create_task(self._follow(source, duty))
        ended = await _unless(turning, self._following)
        (await _unless(turning, asyncio.create_task(duty.take_back()))).result()
        turning.cancel()
        duty.tell()
        self._sum_up(duty)
        if not ended.cancelled():
            ended.result()

    async def _follow(self, source: str, duty: Duty) -> None:
        await (self._follow_stdin(duty) if source == "-" else self._follow_file(Path(source), duty))

    async def _follow_file(self, path: Path, duty: Duty) -> None:
        for batch in read_file(path, self._reader):
            self._respond(self._assembly.pipeline.feed(batch), duty)
            self._keep(self._reader)
            await asyncio.sleep(0)
        if self._assembly.pipeline.clock is not None:
            self._respond(self._assembly.pipeline.advance(self._assembly.pipeline.clock + AFTER_END), duty)

    async def _follow_stdin(self, duty: Duty) -> None:
        blocks = _stdin()
        pending = asyncio.ensure_future(anext(blocks, b""))
        while True:
            done, _ = await asyncio.wait({pending}, timeout=TICK_S)
            now = wall()
            if not done:
                self._respond(self._assembly.pipeline.advance(now), duty)
                continue
            block = pending.result()
            batch = self._reader.read(block, now) if block else self._reader.finish(now)
            self._respond(self._assembly.pipeline.feed(batch), duty)
            self._keep(self._reader)
            if not block:
                return
            pending = asyncio.ensure_future(anext(blocks, b""))

    def _respond(self, output: Output, duty: Duty) -> None:
        for pulse in output.pulses:
            self._tenants.fold(pulse)
        respond(output, duty.responder, wall())
        duty.tell()

    def _keep(self, reader: LineReader) -> None:
        if reader.quarantined:
            with self._quarantine.open("ab") as rows:
                rows.writelines(row.to_json() + b"\n" for row in reader.quarantined)
            self._refused += len(reader.quarantined)
            reader.quarantined.clear()

    def _sum_up(self, duty: Duty) -> None:
        counters = self._assembly.pipeline.counters
        live = {name: counters[name] - self._learnt[name] for name in counters}
        self._say(
            f"summary    {live['unique']} calls, {usd(live['usd'])} spent; {live['duplicate']} duplicates,"
            f" {live['late']} late, {live['skewed']} ahead of the clock, {self._refused} lines quarantined"
        )
        duty.sum_up()


async def _unless(turning: asyncio.Task[None], work: asyncio.Task[None]) -> asyncio.Task[None]:
    """The work when it is done or has failed. Raises what `turning` fails with before that."""
    await asyncio.wait({turning, work}, return_when=asyncio.FIRST_COMPLETED)
    if turning.done():
        work.cancel()
        turning.result()
    return work


async def _stdin() -> AsyncIterator[bytes]:
    """Blocks of standard input as they come; a daemon thread reads, at most four blocks ahead. Raises OSError."""
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(4)

    def read() -> None:
        block: bytes | OSError = b" "
        while isinstance(block, bytes) and block:
            room.acquire()
            try:
                block = os.read(sys.stdin.fileno(), READ_BYTES)
            except OSError as error:
                block = error
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits for the block
                loop.call_soon_threadsafe(blocks.put_nowait, block)

    threading.Thread(target=read, daemon=True, name="stdin").start()
    while block := await blocks.get():
        if isinstance(block, OSError):
            raise block
        yield block
        room.release()
