"""A worker: its partitions fed, advanced when idle, and checkpointed.

The rule that everything hangs on: the position moves only together with the pointer, in one commit, and only after the
broker has every chunk of the state and every signal, pulse and refused line that was said before the cut.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog

from detectors.gap import offset_gap
from schemas.batch import Ms
from schemas.prices import Entry
from schemas.pulse import PULSE, Pulse
from schemas.quarantine import Quarantined
from schemas.reading import READING
from schemas.rollup import USAGE
from schemas.signals import SIGNAL, Signal
from stream import metrics
from stream.checkpoint import Checkpoint, pack
from stream.columns import MOST_KEYS
from stream.partition import Away, Fenced, Group, Names, Partition, SharedBuffer, Topics, load
from stream.pipeline import Output
from stream.records import Fetched
from stream.responder import STALE

log = structlog.get_logger()
BEHIND_BROKER: Ms = 2_000
"""An idle partition's clock stays this far behind the broker's."""
AGAIN_S = 0.5
READ_AGAIN_S = 5.0
TELL_S = 10.0
"""Seconds between two lines about a partition that is catching up."""
SHARE = 10
"""A round of checkpoints may take at most one part in so many of the time."""


class Worker:
    """The partitions that this process owns. One coroutine calls `take`, one `tick`, one `checkpoint`."""

    def __init__(
        self,
        group: Group,
        topics: Topics,
        names: Names,
        prices: Sequence[Entry],
        *,
        checkpoint_s: float,
        keys: int = MOST_KEYS,
        longest_s: float = math.inf,
        bytes_s: float = math.inf,
        clock: Callable[[], Ms],
    ) -> None:
        self._group = group
        self._topics = topics
        self._names = names
        self._prices = prices
        self._pause = partial(pause, checkpoint_s, longest_s, bytes_s)
        self._keys = keys
        self._clock = clock
        self._buffer = SharedBuffer()
        self._loading = asyncio.Lock()
        self._number = 0
        self._written = 0
        self.partitions: dict[int, Partition] = {}
        self.beat = time.monotonic()

    async def take(self, number: int, generation: int, fetched: Sequence[Fetched]) -> None:
        """Fold what was fetched of a partition, unless its generation is over."""
        partition = await self._at(number, generation)
        if partition is None:
            return  # it is read again, see _read_again
        async with partition.lock:
            if partition.generation != generation:
                return
            try:
                if fetched[0].begin > partition.next and not await self._mend(partition, fetched[0].begin):
                    return
            except Away as error:
                log.info("not folded yet", partition=number, said=str(error))
                return
            before = dict(partition.assembly.pipeline.counters)
            output, refused, again = partition.fold(fetched)
            self._count(partition, before, len(refused), again)
            await self._say(partition, output, refused)

    async def tick(self) -> None:
        """Load what is owned, forget what is not, and let idle partitions' clocks move on."""
        self.beat = time.monotonic()
        owned, generation = self._group.owned(), self._group.generation
        if owned:
            for number in set(self.partitions) - owned:
                del self.partitions[number]
        for number in sorted(owned):
            partition = await self._at(number, generation)
            if partition is not None:
                async with partition.lock:
                    await self._let_time_pass(partition)
                    await self._read_again(partition)
        standing = self.partitions.values()
        for partition in standing:
            self._tell_how_far(partition)
        clocks = [p.assembly.pipeline.clock for p in standing]
        age = max((self._clock() - clock for clock in clocks if clock is not None), default=0)
        metrics.clocks({tenant: ms for p in standing for tenant, ms in p.assembly.pipeline.clocks().items()})
        metrics.standing({p.number: self._lag(p) for p in standing}, standing, age, self.beat)

    async def checkpoint(self) -> float:
        """One round over all partitions that changed; returns how long to wait until the next, in seconds."""
        began, before = time.monotonic(), self._written
        for number in sorted(self.partitions):
            partition = self.partitions.get(number)
            if partition is not None and partition.changed:
                try:
                    await self._save(partition)
                except Fenced as error:
                    log.info("fenced", partition=number, said=str(error))
                    metrics.FENCED.inc()
                    self.partitions.pop(number, None)
        wait = self._pause(time.monotonic() - began, self._written - before)
        metrics.CHECKPOINT_INTERVAL.set(wait)
        return wait

    def stuck(self, limit_s: float) -> str | None:
        """Why this worker does not get on, None where it does. Any thread may ask."""
        now = time.monotonic()
        if now - self.beat > limit_s:
            return f"the loop has not turned for {now - self.beat:.0f} s"
        for partition in list(self.partitions.values()):
            age = now - partition.checkpointed_at
            if age > limit_s and (partition.changed or self._lag(partition) > 0):
                return f"partition {partition.number}: {self._lag(partition)} calls behind, pointer {age:.0f} s old"
        return None

    def ready(self) -> bool:
        """Whether all that is owned is loaded."""
        owned = self._group.owned()
        return bool(owned) and owned <= set(self.partitions)

    async def _at(self, number: int, generation: int) -> Partition | None:
        """The partition, loaded for this generation; None where that is over."""
        if generation != self._group.generation:
            return None
        async with self._loading:
            kept = self.partitions.get(number)
            if kept is not None and kept.generation == generation:
                return kept
            began = time.monotonic()
            try:
                who = (self._group, self._topics, self._names)
                loaded = await load(number, generation, kept, *who, self._prices, self._keys, self._buffer)
            except (Fenced, Away) as error:
                log.info("not loaded", partition=number, said=str(error))
                return None
            if loaded is not kept:
                metrics.RESTORE_SECONDS.observe(time.monotonic() - began)
            self.partitions[number] = loaded
            log.info("loaded", partition=number, next=loaded.next, generation=generation, kept=loaded is kept)
            await self._send(loaded, loaded.assembly.pipeline.present())
            return loaded

    def _count(self, partition: Partition, before: Mapping[str, int], refused: int = 0, again: int = 0) -> None:
        """Count what a step added, and say where keys were forgotten or found no room."""
        after = partition.assembly.pipeline.counters
        metrics.folded(before, after, refused, again)
        if after["evicted"] > before["evicted"]:
            evicted, others = (after[name] - before[name] for name in ("evicted", "other_key"))
            log.warning("evicted", partition=partition.number, keys=evicted, calls_of_other_keys=others)

    async def _mend(self, partition: Partition, begin: int) -> bool:
        """Calls before `begin` did not come. True: they are gone, and counted; False: they will be fetched again."""
        first, _ = await self._topics.bounds(self._names.usage, partition.number)
        if first <= partition.next:
            log.warning("seek", partition=partition.number, wanted=partition.next, fetched=begin)
            await self._group.seek(partition.number, partition.next)
            return False
        lost = first - partition.next
        metrics.OFFSET_GAP.inc(lost)
        log.error("offset_gap", partition=partition.number, first=partition.next, lost=lost)
        gap = offset_gap(partition.number, partition.next, lost, self._clock(), partition.assembly.config)
        partition.next = first
        await self._send(partition, [gap])
        return begin <= first

    async def _let_time_pass(self, partition: Partition) -> None:
        """An idle partition's clock moves only as far as a fetch has seen the log to be empty (design: time)."""
        seen, ahead = self._group.read_to_end(partition.number), self._topics.broker_ahead
        if seen is not None and ahead is not None and partition.next >= seen[1]:
            before = dict(partition.assembly.pipeline.counters)
            output = partition.assembly.pipeline.advance(seen[0] + ahead - BEHIND_BROKER)
            self._count(partition, before)
            partition.changes += len(output.signals)
            await self._say(partition, output, [])
        if not partition.changed and not self._lag(partition):
            partition.checkpointed_at = time.monotonic()

    async def _read_again(self, partition: Partition) -> None:
        """Ask anew for what should have come: it was fetched while the group or the broker could not say whose it is."""
        if self._lag(partition) and time.monotonic() - partition.folded_at > READ_AGAIN_S:
            log.info("read again", partition=partition.number, next=partition.next)
            partition.folded_at = time.monotonic()
            await self._group.seek(partition.number, partition.next)

    def _tell_how_far(self, partition: Partition) -> None:
        """While it reads what is older than a signal that may be acted on, baselines are learnt and nothing else happens."""
        clock, now = partition.assembly.pipeline.clock, time.monotonic()
        lag = self._lag(partition)
        if lag and clock is not None and self._clock() - clock > STALE:
            partition.behind_since = partition.behind_since or now
            if now - partition.told_at >= TELL_S:
                partition.told_at = now
                read = partition.next - partition.began
                share = f"{100 * read / (read + lag):.0f} %"
                log.info("catching up", partition=partition.number, read=read, left=lag, share=share, clock=_utc(clock))
        elif partition.behind_since is not None:
            took = round(now - partition.behind_since, 1)
            log.info("caught up", partition=partition.number, read=partition.next - partition.began, seconds=took)
            partition.behind_since = None

    async def _say(self, partition: Partition, output: Output, refused: Sequence[Quarantined]) -> None:
        """Send all of it; `waiting` holds the acknowledgements, and a failed one stops the worker."""
        partition.acknowledged()
        await self._send(partition, output.in_order())
        for rollup in output.usage:
            for part in rollup.parts():
                await self._note(partition, self._names.signals, USAGE, part, 0)
        for reading in output.readings:
            for part in reading.parts():
                await self._note(partition, self._names.signals, READING, part, 0)
        for row in refused:
            await self._note(partition, self._names.quarantine, None, row.to_json(), partition.number)

    async def _send(self, partition: Partition, said: Iterable[Signal | Pulse]) -> None:
        for word in said:
            if isinstance(word, Signal):
                metrics.said(word, self._clock())
                await self._note(partition, self._names.signals, SIGNAL, word.to_json(), 0)
            else:
                for part in word.parts():
                    await self._note(partition, self._names.signals, PULSE, part, 0)

    async def _note(self, partition: Partition, topic: str, key: bytes | None, value: bytes, number: int) -> None:
        partition.waiting.append(await self._topics.send(topic, key, value, number))

    async def _save(self, partition: Partition) -> None:
        """Cut, write what changed, wait for every acknowledgement, then commit position and pointer in one step.

        Raises Fenced.
        """
        began = time.monotonic()
        async with self._buffer.lock:
            await asyncio.to_thread(self._buffer.prepare, partition.assembly.snapshot())
            async with partition.lock:
                cut = time.monotonic()
                generation, next, changes = partition.generation, partition.next, partition.changes
                waiting = list(partition.waiting)
                state = Checkpoint(partition.assembly.snapshot(), partition.assembly.config, {"next": next})
                packed = pack(state, self._buffer)
                metrics.CHECKPOINT_STALL.observe(time.monotonic() - cut)
            draft = await asyncio.to_thread(partition.state.draft, packed)
        self._number += 1
        keep, send = partition.number, partial(self._topics.send, self._names.state, partition=partition.number)
        written = await partition.state.write(draft, generation, self._number, send)
        self._written += written.bytes
        await asyncio.gather(*waiting)
        pointer = written.pointer.to_metadata()
        await self._commit(keep, next, pointer, generation)
        partition.pointer, partition.committed, partition.kept_changes = pointer, next, changes
        partition.checkpointed_at = time.monotonic()
        metrics.checkpointed(written, time.monotonic() - began)
        needed = partition.state.committed(written)
        if needed is not None:
            await self._clean_up(keep, needed)

    async def _commit(self, number: int, next: int, metadata: str, generation: int) -> None:
        """Until it is done or the generation is over: an attempt without an answer may be made again. Raises Fenced."""
        while True:
            try:
                return await self._group.commit(number, next, metadata, generation)
            except Away as error:
                log.info("commit", partition=number, said=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _clean_up(self, number: int, before: int) -> None:
        try:
            await self._topics.delete_state(number, before)
        except Away as error:
            log.info("old state is deleted later", partition=number, said=str(error))

    def _lag(self, partition: Partition) -> int:
        end = self._group.end(partition.number)
        return max(0, end - partition.next) if end is not None else 0


def pause(least_s: float, longest_s: float, bytes_s: float, took_s: float, written: int) -> float:
    """Seconds between two rounds of checkpoints, after one that took `took_s` and wrote so many bytes."""
    return min(max(least_s, SHARE * took_s, written / bytes_s), longest_s)


def _utc(at: Ms) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1000))
