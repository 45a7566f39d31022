"""`burnguard run`: pipeline and responder in one process, without Kafka."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from actions.ledger import Ledger
from schemas.directory import Directory
from schemas.policy import Policy
from schemas.prices import PriceEntry
from stream.assembly import AFTER_END, Assembly, respond
from stream.duty import TICK_S, Duty, Say, wall
from stream.live import usd
from stream.pipeline import Output
from stream.settings import Settings
from stream.sources import LineReader, read_file

READ_BYTES = 1 << 20


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
        self._duty = Duty(Ledger(f"sqlite:///{ledger}"), policy, directory, settings, say)
        self._learnt = dict(self._assembly.pipeline.counters)
        self._refused = 0

    def learn(self, history: Path) -> None:
        """Read a file for the baselines only: its signals are dropped, nothing is acted on."""
        reader = LineReader(self._assembly.decoder)
        for batch in read_file(history, reader):
            for pulse in self._assembly.pipeline.feed(batch).pulses:
                self._duty.tenants.fold(pulse)
            self._keep(reader)
        counters = self._assembly.pipeline.counters
        self._say(f"history    {counters['unique']} calls, {usd(counters['usd'])}: baselines learnt from {history}")
        self._learnt = dict(counters)

    async def go(self, source: str) -> None:
        """Follow `source` (a file, or `-` for standard input) to its end, then take every live action back."""
        async with self._duty:
            deliveries = asyncio.create_task(self._duty.keep_turning())
            following = asyncio.create_task(self._follow(source))
            done, _ = await asyncio.wait({deliveries, following}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            deliveries.cancel()
        self._duty.tell()
        self._sum_up()

    async def _follow(self, source: str) -> None:
        await (self._follow_stdin() if source == "-" else self._follow_file(Path(source)))
        await self._duty.take_back()

    async def _follow_file(self, path: Path) -> None:
        for batch in read_file(path, self._reader):
            self._respond(self._assembly.pipeline.feed(batch))
            self._keep(self._reader)
            await asyncio.sleep(0)
        if self._assembly.pipeline.clock is not None:
            self._respond(self._assembly.pipeline.advance(self._assembly.pipeline.clock + AFTER_END))

    async def _follow_stdin(self) -> None:
        blocks = _stdin()
        pending = asyncio.ensure_future(anext(blocks, b""))
        while True:
            done, _ = await asyncio.wait({pending}, timeout=TICK_S)
            now = wall()
            if not done:
                self._respond(self._assembly.pipeline.advance(now))
                continue
            block = pending.result()
            batch = self._reader.read(block, now) if block else self._reader.finish(now)
            self._respond(self._assembly.pipeline.feed(batch))
            self._keep(self._reader)
            if not block:
                return
            pending = asyncio.ensure_future(anext(blocks, b""))

    def _respond(self, output: Output) -> None:
        for pulse in output.pulses:
            self._duty.tenants.fold(pulse)
        respond(output, self._duty.responder, wall())
        self._duty.tell()

    def _keep(self, reader: LineReader) -> None:
        if reader.quarantined:
            with self._quarantine.open("ab") as rows:
                rows.writelines(row.to_json() + b"\n" for row in reader.quarantined)
            self._refused += len(reader.quarantined)
            reader.quarantined.clear()

    def _sum_up(self) -> None:
        counters = self._assembly.pipeline.counters
        live = {name: counters[name] - self._learnt[name] for name in counters}
        self._say(
            f"summary    {live['unique']} calls, {usd(live['usd'])} spent; {live['duplicate']} duplicates,"
            f" {live['late']} late, {live['skewed']} ahead of the clock, {self._refused} lines quarantined"
        )
        self._duty.sum_up()


async def _stdin() -> AsyncIterator[bytes]:
    """Blocks of standard input as they come; a daemon thread reads, at most four blocks ahead."""
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(4)

    def read() -> None:
        while True:
            room.acquire()
            block = os.read(sys.stdin.fileno(), READ_BYTES)
            loop.call_soon_threadsafe(blocks.put_nowait, block)
            if not block:
                return

    threading.Thread(target=read, daemon=True, name="stdin").start()
    while block := await blocks.get():
        yield block
        room.release()
