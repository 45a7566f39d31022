"""`burnguard run`: pipeline and responder in one process, without Kafka."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from actions.ledger import Ledger
from schemas.batch import Batch
from schemas.directory import Directory
from schemas.policy import Policy
from schemas.prices import PriceEntry
from stream.assembly import AFTER_END, Assembly, respond
from stream.checkpoint_file import CheckpointFile
from stream.duty import TICK_S, Duty, Say, wall
from stream.live import usd
from stream.pipeline import Output
from stream.progress import Progress
from stream.quarantine import QuarantineFile
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
        self._duty = Duty(Ledger(f"sqlite:///{ledger}"), policy, directory, settings, say)
        self._quarantine = QuarantineFile(ledger.with_suffix(".quarantine.jsonl"))
        self._checkpoint = CheckpointFile(ledger.with_suffix(".checkpoint"))
        self._checkpoint_s = settings.checkpoint_s
        self._progress: Progress | None = None
        self._before = dict(self._assembly.pipeline.counters)

    def begin(self, source: str, history: Path | None) -> None:
        """Go on from the checkpoint of an earlier run on this file, else read the history.

        Raises BadCheckpoint, which says what to do, and OSError.
        """
        path = Path(source)
        restored = False
        if source != "-" and path.is_file():
            parts = (self._checkpoint, self._assembly, self._duty.tenants, self._quarantine, self._checkpoint_s)
            self._progress = Progress(path, *parts)
            restored = self._progress.resume(self._say)
        elif self._checkpoint.drop():
            self._say(f"afresh     {source} is no file: the checkpoint of an earlier one is dropped")
        if history is not None and restored:
            self._say(f"history    {history} is not read: its baselines are in the checkpoint")
        elif history is not None:
            self._learn(history)
        if self._progress is not None and not restored:
            self._progress.begin()
        self._before = dict(self._assembly.pipeline.counters)

    def _learn(self, history: Path) -> None:
        """Read a file for the baselines only: its signals are dropped, nothing is acted on."""
        reader = LineReader(self._assembly.decoder)
        for batch in read_file(history, reader):
            for pulse in self._assembly.pipeline.feed(batch).pulses:
                self._duty.tenants.fold(pulse)
            self._quarantine.keep(reader.quarantined)
        counters = self._assembly.pipeline.counters
        self._say(f"history    {counters['unique']} calls, {usd(counters['usd'])}: baselines learnt from {history}")

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
        if source == "-":
            await self._follow_stdin()
        elif self._progress is not None:
            await self._follow_file(self._progress)
        else:
            await self._follow_pipe(Path(source))
        await self._duty.take_back()

    async def _follow_file(self, progress: Progress) -> None:
        for batch in progress.batches():
            self._feed(batch, progress.reader)
            if progress.due():
                await progress.save()
            await asyncio.sleep(0)
        await progress.save()
        for batch in progress.last_batches():
            self._feed(batch, progress.reader)
        self._end()

    async def _follow_pipe(self, path: Path) -> None:
        reader = LineReader(self._assembly.decoder)
        for batch in read_file(path, reader):
            self._feed(batch, reader)
            await asyncio.sleep(0)
        self._end()

    def _end(self) -> None:
        if self._assembly.pipeline.clock is not None:
            self._respond(self._assembly.pipeline.advance(self._assembly.pipeline.clock + AFTER_END))

    async def _follow_stdin(self) -> None:
        blocks, reader = _stdin(), LineReader(self._assembly.decoder)
        pending = asyncio.ensure_future(anext(blocks, b""))
        while True:
            done, _ = await asyncio.wait({pending}, timeout=TICK_S)
            now = wall()
            if not done:
                self._respond(self._assembly.pipeline.advance(now))
                continue
            block = pending.result()
            self._feed(reader.read(block, now) if block else reader.finish(now), reader)
            if not block:
                return
            pending = asyncio.ensure_future(anext(blocks, b""))

    def _feed(self, batch: Batch, reader: LineReader) -> None:
        self._respond(self._assembly.pipeline.feed(batch))
        self._quarantine.keep(reader.quarantined)

    def _respond(self, output: Output) -> None:
        for pulse in output.pulses:
            self._duty.tenants.fold(pulse)
        respond(output, self._duty.responder, wall())
        self._duty.tell()

    def _sum_up(self) -> None:
        counters = self._assembly.pipeline.counters
        live = {name: counters[name] - self._before[name] for name in counters}
        self._say(
            f"summary    {live['unique']} calls, {usd(live['usd'])} spent; {live['duplicate']} duplicates,"
            f" {live['late']} late, {live['skewed']} ahead of the clock, {self._quarantine.kept} lines quarantined"
        )
        if self._progress is not None and self._progress.restored:
            calls, spent, refused = self._progress.total()
            self._say(
                f"in all     {calls} calls, {usd(spent)} spent, {refused} lines quarantined, over all runs on this file"
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
