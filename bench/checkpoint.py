"""`python -m bench.checkpoint`: what checkpoints cost of 250k keys with full rings in 12 partitions.

Rounds over all partitions, as a worker makes them, into a log in memory: what changed is written in blocks. The peer of the
same run: every partition's whole state packed, compressed and cut into chunks.
"""

from __future__ import annotations

import asyncio
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
from stream.blocks import State, Written, recall
from stream.checkpoint import Buffer, Checkpoint, Pointer, chunks, compress, pack, unpack
from stream.settings import WorkerSettings
from stream.windows import MEASURES
from stream.worker import pause

KEYS, PARTITIONS, TENANT, CLOCK, STEP = 250_000, 12, 50, 1_790_000_000_000, 10_000
SHARES = ((1.0, 3), (0.1, 12), (0.01, 12))
"""What share of the keys spends between two rounds, and for how many rounds: the log is full after the first dozen."""
SETTINGS = WorkerSettings()
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
    sums[:, 3] = rng.integers(1, 4, len(rows))
    assembly.pipeline._keys.add(rows, sums, slot)


def timed(make: Callable[[], Made]) -> tuple[float, Made]:
    """Seconds on the wall, and what was made."""
    began = time.perf_counter()
    made = make()
    return time.perf_counter() - began, made


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
    """A partition, its log and its newest pointer."""

    assembly: Assembly
    state: State = field(default_factory=State)
    log: Log = field(default_factory=Log)
    pointer: Pointer | None = None
    stalls: list[float] = field(default_factory=list)

    async def checkpoint(self, number: int, buffer: Buffer) -> Written:
        await asyncio.to_thread(buffer.prepare, self.assembly.snapshot())
        stalled, packed = timed(lambda: pack(self.cut(), buffer))
        self.stalls.append(stalled)
        written = await self.state.write(packed, 1, number, self.log.send)
        self.pointer = written.pointer
        self.log.cut(self.state.committed(written) or 0)
        return written

    def cut(self) -> Checkpoint:
        return Checkpoint(self.assembly.snapshot(), self.assembly.config, {"next": 1})


async def longest_gap(stop: asyncio.Event) -> float:
    """The longest that the loop did not come back to us in, beyond the millisecond that we asked for."""
    longest, before = 0.0, time.perf_counter()
    while not stop.is_set():
        await asyncio.sleep(0.001)
        longest, before = max(longest, time.perf_counter() - before - 0.001), time.perf_counter()
    return longest


async def rounds(held: list[Held], share: float, times: int, at: int, buffer: Buffer) -> int:
    """So many rounds, each after a share of the keys has spent; a row of the table. Returns how far `at` has come."""
    rng, seconds, sizes, moved, logs = np.random.default_rng(at), [], [], 0, []
    blocks = 0
    stop = asyncio.Event()
    gap = 0.0
    for one in held:
        one.stalls.clear()
    for _ in range(times):
        at += 1
        for one in held:
            keys = np.flatnonzero(rng.random(KEYS // PARTITIONS) < share)
            call_once(one.assembly, keys, CLOCK + 30_000 * at)
        stop.clear()
        watching = asyncio.create_task(longest_gap(stop))
        began = time.perf_counter()
        written = [await one.checkpoint(at, buffer) for one in held]
        seconds.append(time.perf_counter() - began)
        stop.set()
        gap = max(gap, await watching)
        sizes.append(sum(w.bytes for w in written) / 1e6)
        blocks += sum(sum(w.blocks.values()) for w in written)
        moved += sum(w.blocks["moved"] for w in written)
        full = sum(int(w.kept.blocks["size"].sum()) + w.pointer.length for w in written)
        logs.append(sum(len(value) for one in held for value in one.log.records.values()) / full)
    mean, took = float(np.mean(sizes)), float(np.mean(seconds))
    wait = pause(SETTINGS.checkpoint_s, SETTINGS.longest_s, SETTINGS.checkpoint_mb_s * 1e6, took, round(mean * 1e6))
    stalls = [stall * 1e3 for one in held for stall in one.stalls]
    print(
        f"{share:7.0%} {mean:7.1f} {max(sizes):7.1f} {moved / blocks:9.1%} {took:8.2f} {wait:9.1f}"
        f" {mean / (took + wait):7.2f} {min(stalls):8.1f} {max(stalls):6.1f} {gap * 1e3:6.1f} {max(logs):6.2f}"
    )
    return at


def whole(held: list[Held], buffer: Buffer) -> list[tuple[list[bytes], Pointer]]:
    """The peer: every partition's whole state."""
    began, stalls, found = time.perf_counter(), [], []
    for one in held:
        buffer.prepare(one.assembly.snapshot())
        stalled, packed = timed(lambda one=one: pack(one.cut(), buffer))  # type: ignore[misc]
        stalls.append(stalled * 1e3)
        pieces = chunks(compress(packed))
        found.append((pieces, Pointer.to(pieces, 1, 1, 0)))
    took, size = time.perf_counter() - began, sum(pointer.length for _, pointer in found) / 1e6
    wait = pause(SETTINGS.checkpoint_s, SETTINGS.longest_s, float("inf"), took, 0)
    print(
        f"  whole {size:7.1f} {size:7.1f} {'':9} {took:8.2f} {wait:9.1f} {size / (took + wait):7.2f}"
        f" {min(stalls):8.1f} {max(stalls):6.1f} {'':6} {2:6.2f}"
    )
    return found


async def restored(held: list[Held]) -> None:
    for one in held:
        assert one.pointer is not None
        checkpoint, _ = await recall(one.log, 0, one.pointer)
        Assembly([]).restore(checkpoint.state)


async def measure() -> None:
    buffer = Buffer()
    held = [Held(full(KEYS // PARTITIONS)) for _ in range(PARTITIONS)]
    packed = sum(len(pack(one.cut(), buffer)) for one in held)
    print(f"{KEYS:,} keys in {PARTITIONS} partitions: {packed / 1e6:,.0f} MB, {packed / KEYS:,.0f} bytes a key\n")
    print("keys     MB a round       moved  seconds  interval    MB/s  stall, ms      loop, ms  log /")
    print("active   mean     max  (blocks)  a round   seconds          best  worst   worst  full")
    at = 0
    for share, times in SHARES:
        at = await rounds(held, share, times, at, buffer)
    pieces = whole(held, buffer)
    began = time.perf_counter()
    await restored(held)
    blocks_s = time.perf_counter() - began
    began = time.perf_counter()
    for chunks_, pointer in pieces:
        Assembly([]).restore(unpack(chunks_, pointer, Buffer()).state)
    print(
        f"\nrestore of all partitions, from records to arrays: {blocks_s:.1f} s; whole: {time.perf_counter() - began:.1f} s"
    )


def main() -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()};", end=" "
    )
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "cramjam", "xxhash", "numba")))
    asyncio.run(measure())
    print(f"peak RSS  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, every log in memory")


if __name__ == "__main__":
    main()
