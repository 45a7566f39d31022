"""`python -m bench.checkpoint`: what checkpoints cost of 250k keys with full rings in 12 partitions.

Rounds over all partitions, as a worker makes them, into a log in memory: what changed is written in blocks. The peer of the
same run: every partition's whole state packed, compressed and cut into chunks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np

from schemas.batch import I64, SLICE, Ms
from schemas.decode import split
from stream.assembly import Assembly
from stream.blocks import State, Written, find
from stream.checkpoint import Buffer, Checkpoint, Pointer, chunks, compress, pack, unpack
from stream.measures import FIRST_COUNT
from stream.settings import WorkerSettings
from stream.windows import MEASURES
from stream.worker import pause

KEYS, PARTITIONS, TENANT, CLOCK, STEP = 250_000, 12, 50, 1_790_000_000_000, 10_000
SHARES = ((1.0, 3), (0.1, 12), (0.01, 12))
"""What share of the keys spends between two rounds, and for how many rounds: the log is full after the first dozen."""
SETTINGS = WorkerSettings()
HEAD = """\
  keys      MB a round  blocks  seconds a round interval         stall of a partition, ms    loop  log /
active    mean     max   moved    wall    CPU  seconds   MB/s    best  worst  (CPU)  away, ms   full"""
Made = TypeVar("Made")


def full(keys: int) -> Assembly:
    """A partition whose keys all spend now and then for a day: names, rings, detector, a full window of event ids."""
    assembly, rng = Assembly([]), np.random.default_rng(1)
    line = assembly.pipeline
    call_once(assembly, np.arange(keys), CLOCK)
    for hours in np.linspace(-23.9, 0.0, 120).tolist():
        spend(assembly, keys, CLOCK // SLICE + round(hours * 3_600_000 / SLICE), rng)
    for column in ("peak", "before", "now", "bar", "learnt", "expected"):
        habit = line._detectors[0].snapshot()["columns"][column]
        habit[...] = rng.integers(0, 10**9, habit.shape)
    line._seen.first_seen(rng.integers(1, 2**63, 1 << 20, np.uint64))
    return assembly


def call_once(assembly: Assembly, keys: I64, clock: Ms) -> None:
    """A call of each of these keys, through the whole pipeline until its pane has closed."""
    for some in np.array_split(keys, len(keys) // STEP + 1):
        rows = b"\n".join(
            b'{"event_id":"%08x-%012x","ts":%d,"tenant":"tenant-%d","key_id":"key-%d","provider":"openai",'
            b'"model":"gpt-4o","input_tokens":900,"output_tokens":80}'
            % (clock // 1000, key, clock // 1000, key // TENANT, key)
            for key in some.tolist()
        )
        lines = split(rows)
        lines.clock[:] = clock
        assembly.pipeline.feed(assembly.decoder.decode(lines)[0])
    assembly.pipeline.advance(clock + 20_000)


def spend(assembly: Assembly, keys: int, slot: int, rng: np.random.Generator) -> None:
    """A third of the keys spend in one slice, straight into their rings."""
    rows = np.flatnonzero(rng.random(keys) < 1 / 3).astype(np.int32)
    sums = rng.integers(0, 5_000, (len(rows), MEASURES))
    sums[:, 0] *= 1_000
    sums[:, FIRST_COUNT] = rng.integers(1, 4, len(rows))
    assembly.pipeline._keys.add(rows, sums, np.full(len(rows), slot))


def timed(make: Callable[[], Made]) -> tuple[tuple[float, float], Made]:
    """Milliseconds on the wall and of this thread's CPU, and what was made."""
    began, cpu = time.perf_counter(), time.thread_time()
    made = make()
    return ((time.perf_counter() - began) * 1e3, (time.thread_time() - cpu) * 1e3), made


@dataclass(frozen=True, slots=True)
class Ack:
    offset: int


@dataclass(slots=True)
class Log:
    """One partition of the topic of state, in memory."""

    records: dict[int, bytes] = field(default_factory=dict)
    end: int = 0

    async def send(self, key: bytes, value: bytes) -> asyncio.Future[Any]:
        acknowledged = asyncio.get_running_loop().create_future()
        acknowledged.set_result(Ack(self.end))
        self.records[self.end] = value
        self.end += 1
        return acknowledged

    def cut(self, before: int) -> None:
        for offset in [offset for offset in self.records if offset < before]:
            del self.records[offset]

    async def read_state(self, partition: int, pointer: Pointer) -> list[bytes]:
        return [self.records[pointer.first + n] for n in range(pointer.chunks)]

    async def read_records(self, partition: int, offsets: Sequence[int]) -> dict[int, bytes]:
        return {offset: self.records[offset] for offset in offsets}


@dataclass(slots=True)
class Held:
    """A partition, its log and its newest pointer; `stalls` as `timed` measures them."""

    assembly: Assembly
    state: State = field(default_factory=State)
    log: Log = field(default_factory=Log)
    pointer: Pointer | None = None
    stalls: list[tuple[float, float]] = field(default_factory=list)

    def packed(self, buffer: Buffer) -> memoryview:
        return pack(Checkpoint(self.assembly.snapshot(), self.assembly.config, {"next": 1}), buffer)

    async def checkpoint(self, number: int, buffer: Buffer) -> Written:
        """As a worker does it."""
        await asyncio.to_thread(buffer.prepare, self.assembly.snapshot())
        stalled, packed = timed(lambda: self.packed(buffer))
        self.stalls.append(stalled)
        draft = await asyncio.to_thread(self.state.draft, packed)
        written = await self.state.write(draft, 1, number, self.log.send)
        self.pointer = written.pointer
        self.log.cut(self.state.committed(written) or 0)
        return written


@dataclass(slots=True)
class Measured:
    """Rounds over all partitions: a row of the table."""

    megabytes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    away: float = 0.0
    """The longest time (ms) in which the loop turned to nobody else, as far as this process was at work in it."""
    blocks: int = 0
    moved: int = 0
    log: float = 2.0
    """At its longest, in full checkpoints."""

    def show(self, what: str) -> None:
        size, took, cpu = (float(np.mean(some)) for some in (self.megabytes, self.seconds, self.cpu))
        wait = pause(SETTINGS.checkpoint_s, SETTINGS.longest_s, SETTINGS.checkpoint_mb_s * 1e6, took, round(size * 1e6))
        wall, busy = zip(*self.stalls, strict=True)
        print(
            f"{what:>6} {size:7.1f} {max(self.megabytes):7.1f} {self.moved / max(1, self.blocks):7.1%} {took:7.2f} {cpu:6.2f}"
            f" {wait:8.1f} {size / (took + wait):6.2f} {min(wall):7.1f} {max(wall):6.1f} {max(busy):6.1f}"
            f" {self.away:9.1f} {self.log:6.2f}"
        )


async def watch(measured: Measured, stop: asyncio.Event) -> None:
    before, cpu = time.perf_counter(), time.process_time()
    while not stop.is_set():
        await asyncio.sleep(0.001)
        now, used = time.perf_counter(), time.process_time()
        measured.away = max(measured.away, min(now - before - 0.001, used - cpu) * 1e3)
        before, cpu = now, used


async def rounds(held: list[Held], share: float, times: int, at: int, buffer: Buffer) -> int:
    """So many rounds, each after a share of the keys has spent. Returns the number of the last one."""
    rng, found = np.random.default_rng(at), Measured(log=0.0)
    for number in range(at + 1, at + 1 + times):
        for one in held:
            keys = np.flatnonzero(rng.random(KEYS // PARTITIONS) < share)
            call_once(one.assembly, keys, CLOCK + 30_000 * number)
            one.stalls.clear()
        stop = asyncio.Event()
        watching = asyncio.create_task(watch(found, stop))
        began, cpu = time.perf_counter(), time.process_time()
        written = [await one.checkpoint(number, buffer) for one in held]
        found.seconds.append(time.perf_counter() - began)
        found.cpu.append(time.process_time() - cpu)
        stop.set()
        await watching
        found.stalls += [stall for one in held for stall in one.stalls]
        found.megabytes.append(sum(w.bytes for w in written) / 1e6)
        found.blocks += sum(sum(w.blocks.values()) for w in written)
        found.moved += sum(w.blocks["moved"] for w in written)
        full = sum(int(w.kept.blocks["size"].sum()) + w.pointer.length for w in written)
        found.log = max(found.log, sum(len(value) for one in held for value in one.log.records.values()) / full)
    found.show(f"{share:.0%}")
    return at + times


def whole(held: list[Held], buffer: Buffer) -> list[tuple[list[bytes], Pointer]]:
    """The peer: every partition's whole state, on one thread."""
    began, cpu, measured, found = time.perf_counter(), time.process_time(), Measured(), []
    for one in held:
        stalled, packed = timed(lambda one=one: one.packed(buffer))  # type: ignore[misc]
        measured.stalls.append(stalled)
        pieces = chunks(compress(packed))
        found.append((pieces, Pointer.to(pieces, 1, 1, 0)))
    measured.seconds.append(time.perf_counter() - began)
    measured.cpu.append(time.process_time() - cpu)
    measured.megabytes.append(sum(pointer.length for _, pointer in found) / 1e6)
    measured.show("whole")
    return found


async def measure() -> None:
    buffer = Buffer()
    held = [Held(full(KEYS // PARTITIONS)) for _ in range(PARTITIONS)]
    packed = sum(len(one.packed(buffer)) for one in held)
    print(f"{KEYS:,} keys in {PARTITIONS} partitions: {packed / 1e6:,.0f} MB, {packed / KEYS:,.0f} bytes a key\n\n{HEAD}")
    gc.freeze()  # as a worker does
    at = 0
    for share, times in SHARES:
        at = await rounds(held, share, times, at, buffer)
    pieces = whole(held, buffer)
    began, cpu = time.perf_counter(), time.process_time()
    for one in held:
        assert one.pointer is not None
        found = await find(one.log, 0, one.pointer)
        Assembly([]).restore(found.fill(buffer)[0].state)
    print(f"\nrestore of all partitions {time.perf_counter() - began:.1f} s, CPU {time.process_time() - cpu:.1f} s", end="; ")
    began, cpu = time.perf_counter(), time.process_time()
    for some, pointer in pieces:
        Assembly([]).restore(unpack(some, pointer, buffer).state)
    print(f"whole {time.perf_counter() - began:.1f} s, CPU {time.process_time() - cpu:.1f} s")


def main() -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()};", end=" "
    )
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "cramjam", "xxhash", "numba")))
    asyncio.run(measure())
    print(f"peak RSS  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, every log in memory")


if __name__ == "__main__":
    main()
