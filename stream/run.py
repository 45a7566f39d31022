"""`burnguard run`: pipeline and responder in one process, without Kafka."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from actions.ledger import Busy, Deposed, Ledger
from schemas.batch import Batch
from schemas.directory import Directory
from schemas.incidents import News
from schemas.policy import Policy
from schemas.prices import Entry
from schemas.rollup import Rollup
from stream import metrics
from stream.assembly import AFTER_END, Assembly, made_up_burn, respond
from stream.checkpoint_file import CheckpointFile
from stream.duty import TICK_S, Duty, Say, wall
from stream.journal import Journal
from stream.live import line, usd
from stream.passing import Sink
from stream.pipeline import Output
from stream.progress import File, Progress
from stream.quarantine import QuarantineFile
from stream.settings import Settings
from stream.skew import furthest, said
from stream.sources import LineReader, first_line, read_file
from stream.tenants import TenantMeters

READ_BYTES = 1 << 20
MOST_CLOCKS = 5
LOCKED_S = 0.25
"""How long the stream may stand still because somebody else keeps the ledger locked, once a second."""
Serve = Callable[[Sink], Coroutine[None, None, None]]
"""An intake that puts what it takes there, until it is cancelled; then it answers what was begun."""


class Run:
    """One `burnguard run`: reads a history, then goes on live until its source ends."""

    def __init__(
        self,
        policy: Policy,
        directory: Directory,
        prices: Sequence[Entry],
        settings: Settings,
        ledger: str,
        say: Say,
    ) -> None:
        settings.check(policy)
        self._say = say
        self._assembly = Assembly(prices)
        self._entries = len(prices)
        self._tenants = TenantMeters()
        self._ledger = Ledger(ledger, wait_s=LOCKED_S)
        self._begin_duty = partial(Duty, self._ledger, policy, directory, settings, say, self._tenants, patient=True)
        self._duty: Duty
        self._following: asyncio.Task[None] | None = None
        self._failing: set[str] = set()
        self._quarantine = QuarantineFile(self._ledger.path.with_suffix(".quarantine.jsonl"))
        self._checkpoint = CheckpointFile(self._ledger.path.with_suffix(".checkpoint"))
        self._checkpoint_s = settings.checkpoint_s
        self._progress: Progress | None = None
        self._file: File | None = None
        self._journal: Journal | None = None
        self._serving: asyncio.Task[None] | None = None
        self._source = ""
        self._before = dict(self._assembly.pipeline.counters)

    def begin(self, source: str, history: Path | None) -> None:
        """Go on from the checkpoint of an earlier run on this file, else read the history.

        Raises BadCheckpoint, which says what to do, and OSError.
        """
        path = Path(source)
        if source != "-" and path.is_file():
            self._file = File(path)
            self._progress = Progress(self._file, self._checkpoint, *self._cut())
        elif self._checkpoint.drop():
            self._say(f"afresh     {source} is no file: the checkpoint of an earlier one is dropped")
        self._resume(history)
        self._source = f"file {first_line(path)}" if self._progress is not None else f"stream {wall()}"

    def begin_journal(self, history: Path | None) -> None:
        """Go on from the checkpoint of an earlier run on the journal of this ledger, else read the history.

        Raises BadCheckpoint, BrokenFile, which say what to do, and OSError.
        """
        made_up_burn(lambda assembly, line, clock: LineReader(assembly.decoder).read(line + b"\n", clock))
        unsafe = partial(self._disk, "journal", "nothing is taken, senders are told to come again")
        self._journal = Journal(self._ledger.path.with_suffix(".journal"), self._quarantine, unsafe)
        checkpoint = CheckpointFile(self._journal.path / "checkpoint")
        self._progress = Progress(self._journal, checkpoint, *self._cut())
        self._resume(history)
        reader = self._progress.reader
        reader.position = self._journal.begin(reader.position)
        self._source = f"journal {self._journal.begun}"

    def _cut(self) -> tuple[Assembly, TenantMeters, QuarantineFile, float]:
        return self._assembly, self._tenants, self._quarantine, self._checkpoint_s

    def _resume(self, history: Path | None) -> None:
        self._say(f"prices     {self._assembly.prices.version}, {self._entries} entries of your own")
        restored = self._progress is not None and self._progress.resume(self._say)
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
            output = self._assembly.pipeline.feed(batch)
            for pulse in output.pulses:
                self._tenants.fold(pulse)
            for reading in output.readings:
                self._tenants.readings.fold(reading)
            self._quarantine.keep(reader.quarantined)
        self._assembly.pipeline.count_from_here()
        counters = self._assembly.pipeline.counters
        self._say(f"history    {counters['unique']} calls, {usd(counters['usd'])}: baselines learnt from {history}")

    async def go(self, source: str, serve: Serve | None = None) -> None:
        """Follow `source` (a file, or `-` for standard input) to its end, then take every live action back and resign.

        After `begin_journal` it is what `serve` takes that is followed.

        Only from here on this process is the ledger's responder: what came before may have taken long.
        """
        try:
            async with self._begin_duty() as self._duty:
                await self._go(source, serve)
        finally:
            if self._journal is not None:
                self._journal.close()
            with suppress(Deposed, Busy):
                self._ledger.resign()
            self._ledger.close()

    def stop_following(self) -> None:
        """As if the source had ended; an intake answers what was begun, and that is followed too."""
        following = self._serving or self._following
        if following is not None:
            following.cancel()

    async def _go(self, source: str, serve: Serve | None) -> None:
        turning = asyncio.create_task(self._duty.keep_turning())
        self._begin_counting()
        self._following = asyncio.create_task(self._follow(source, serve))
        ended = await _unless(turning, self._following)
        self._count(self._assembly.pipeline.rest())
        for reading in self._assembly.pipeline.unsaid():
            self._tenants.readings.fold(reading)
        (await _unless(turning, asyncio.create_task(self._duty.take_back()))).result()
        turning.cancel()
        self._duty.tell()
        self._sum_up()
        if not ended.cancelled():
            ended.result()

    async def _follow(self, source: str, serve: Serve | None) -> None:
        if self._journal is not None and self._progress is not None and serve is not None:
            await self._follow_journal(self._journal, self._progress, serve)
        elif source == "-":
            await self._follow_stdin()
        elif self._file is not None and self._progress is not None:
            await self._follow_file(self._file, self._progress)
        else:
            await self._follow_pipe(Path(source))

    async def _follow_journal(self, journal: Journal, progress: Progress, serve: Serve) -> None:
        serving = self._serving = asyncio.create_task(serve(journal))
        try:
            while not serving.done():
                if not self._read_on(journal, progress):
                    self._respond(self._assembly.pipeline.advance(journal.now()))
                    journal.grown.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(journal.grown.wait(), TICK_S)
                if progress.due():
                    await self._save_journal(journal, progress)
                await asyncio.sleep(0)
        finally:
            serving.cancel()
        while self._read_on(journal, progress):
            await asyncio.sleep(0)
        await self._save_journal(journal, progress)
        if not serving.cancelled():
            serving.result()

    def _read_on(self, journal: Journal, progress: Progress) -> bool:
        """Feed the next block of the journal. Returns whether there was one."""
        block = journal.read(progress.reader.position)
        if block:
            self._feed(progress.reader.read(block), progress.reader)
        return bool(block)

    async def _save_journal(self, journal: Journal, progress: Progress) -> None:
        """As `_save`; what two checkpoints hold leaves the journal. A full disk is said, and nothing is lost by it."""
        covered = progress.saved
        try:
            await self._save(progress)
        except OSError as error:
            self._disk("checkpoint", "the journal is kept until it can", error)
        else:
            self._disk("checkpoint", "", None)
            journal.forget(covered)

    def _disk(self, what: str, so: str, error: OSError | None) -> None:
        """Say once that something cannot be written, and once that it can."""
        if (what in self._failing) is (error is not None):
            return
        self._failing ^= {what}
        metrics.DISK_FAILING.labels(what).set(len(self._failing & {what}))
        if error is None:
            news = News(wall(), "disk_well", f"the {what} is written again; nothing was lost")
        else:
            news = News(wall(), "disk_failing", f"the {what} cannot be written: {error.strerror or error}; {so}")
        self._say(line(news))

    async def _follow_file(self, file: File, progress: Progress) -> None:
        for batch in file.batches(progress.reader):
            self._feed(batch, progress.reader)
            if progress.due():
                await self._save(progress)
            await asyncio.sleep(0)
        await self._save(progress)
        for batch in file.last_batches(progress.reader):
            self._feed(batch, progress.reader)
        self._end()

    async def _follow_pipe(self, path: Path) -> None:
        reader = LineReader(self._assembly.decoder)
        for batch in read_file(path, reader):
            self._feed(batch, reader)
            await asyncio.sleep(0)
        self._end()

    async def _save(self, progress: Progress) -> None:
        """Keep how far it is, unless the ledger does not hold yet what came of it."""
        if self._duty.responder.written:
            await progress.save()

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
        self._count(output.usage)
        for reading in output.readings:
            self._tenants.readings.fold(reading)
        respond(output.in_order(), self._duty.responder, self._tenants, wall())
        self._duty.tell()

    def _begin_counting(self) -> None:
        """The last calls of a file have another clock when it has grown: what they were counted as is counted anew."""
        if self._progress is not None:
            since, usage = self._assembly.pipeline.standing()
            self._duty.responder.count_anew(self._source, since, wall())
            self._count(usage)

    def _count(self, usage: Sequence[Rollup]) -> None:
        for rollup in usage:
            self._duty.responder.count(rollup, self._source, wall())

    def _sum_up(self) -> None:
        counters = self._assembly.pipeline.counters
        live = {name: counters[name] - self._before[name] for name in counters}
        self._say(
            f"summary    {live['unique']} calls, {usd(live['usd'])} spent; {live['duplicate']} duplicates,"
            f" {live['late']} late, {live['skewed']} ahead of the clock, {self._quarantine.kept} lines quarantined"
        )
        if unknown := self._assembly.decoder.unknown_names:
            self._say(f"fields     none of ours, dropped: {', '.join(name for name, _ in unknown.most_common(10))}")
        clocks = self._assembly.pipeline.clocks()
        if clocks and not (self._file is not None and self._file.clock.guessed):
            off = [f"{tenant} {said(ahead)}" for tenant, ahead in furthest(clocks, MOST_CLOCKS)]
            self._say(f"clocks     {', '.join(off)}{' ...' if len(clocks) > len(off) else ''}")
        if live["evicted"] or live["other_key"]:
            self._say(
                f"keys       {live['evicted']} forgotten, {live['other_key']} calls of others for which there was no room"
            )
        if self._progress is not None and self._progress.restored:
            calls, spent, refused = self._progress.total()
            self._say(f"in all     {calls} calls, {usd(spent)} spent, {refused} lines quarantined, over all runs on it")
        self._duty.sum_up()


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
