"""`python -m bench.checkpoint`: what a checkpoint costs at 100k and 250k keys with full rings: stall, size, restore."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TypeVar

import numpy as np

from schemas.batch import SLICE
from schemas.decode import split
from stream.assembly import Assembly
from stream.checkpoint import Buffer, Checkpoint, Pointer, chunks, compress, pack, unpack
from stream.windows import MEASURES

KEYS, TENANT, CLOCK, ROUNDS, STEP = (100_000, 250_000), 50, 1_790_000_000_000, 5, 10_000
Made = TypeVar("Made")


def full(keys: int) -> Assembly:
    """A partition whose keys all spend now and then for a day: names, rings, detector, a full window of event ids."""
    assembly, rng = Assembly([]), np.random.default_rng(1)
    line = assembly.pipeline
    for at in range(0, keys, STEP):
        rows = b"\n".join(
            b'{"event_id":"01890a5d-%012x","ts":%d,"tenant":"tenant-%d","key_id":"key-%d","provider":"openai",'
            b'"model":"gpt-4o","input_tokens":900,"output_tokens":80}' % (key, CLOCK // 1000, key // TENANT, key)
            for key in range(at, min(at + STEP, keys))
        )
        lines = split(rows)
        lines.clock[:] = CLOCK
        line.feed(assembly.decoder.decode(lines)[0])
    line.advance(CLOCK + 20_000)
    for hours in np.linspace(-23.9, 0.0, 120).tolist():
        spend(assembly, keys, CLOCK // SLICE + round(hours * 3_600_000 / SLICE), rng)
    for column in ("peak", "before", "now", "bar", "learnt", "expected"):
        habit = line._detectors[0].snapshot()["columns"][column]
        habit[...] = rng.integers(0, 10**9, habit.shape)
    line._seen.first_seen(rng.integers(1, 2**63, 1 << 20, np.uint64))
    return assembly


def spend(assembly: Assembly, keys: int, slot: int, rng: np.random.Generator) -> None:
    """A third of the keys spend in one slice, straight into their rings."""
    rows = np.flatnonzero(rng.random(keys) < 1 / 3).astype(np.int32)
    sums = rng.integers(0, 5_000, (len(rows), MEASURES))
    sums[:, 0] *= 1_000
    sums[:, 3] = rng.integers(1, 4, len(rows))
    assembly.pipeline._keys.add(rows, sums, np.full(len(rows), slot))


def timed(make: Callable[[], Made]) -> tuple[float, Made]:
    """Seconds on the wall, and what was made."""
    began = time.perf_counter()
    made = make()
    return time.perf_counter() - began, made


def measure(keys: int) -> None:
    assembly, buffer = full(keys), Buffer()

    def stall(buffer: Buffer = buffer) -> memoryview:
        return pack(Checkpoint(assembly.snapshot(), assembly.config, {"next": keys}), buffer)

    unprepared = timed(lambda: len(stall(Buffer())))[0]
    preparing = timed(lambda: buffer.prepare(assembly.snapshot()))[0]
    first, packed = timed(stall)
    stalls = sorted(timed(stall)[0] for _ in range(ROUNDS))
    print(f"\n{keys:,} keys: {len(packed) / 1e6:,.0f} MB, {len(packed) / keys:,.0f} bytes a key")
    print(f"stall     {stalls[0] * 1e3:8.0f} ms best, {stalls[-1] * 1e3:.0f} ms worst of {ROUNDS}")
    print(
        f"the first {first * 1e3:8.0f} ms, prepared in {preparing:.2f} s off the loop; {unprepared * 1e3:.0f} ms if it is not"
    )
    for level in (1, 3):
        seconds, blob = timed(lambda level=level: compress(packed, level))  # type: ignore[misc]
        print(f"compress  {seconds:8.2f} s   level {level}: {len(blob) / 1e6:.0f} MB, {len(packed) / len(blob):.1f} : 1")
    blob = compress(packed)
    pieces = chunks(blob)
    pointer = Pointer.to(pieces, 1, 1, 0)
    unpacking, again = timed(lambda: unpack(pieces, pointer, Buffer()))
    fresh = Assembly([])
    restoring, _ = timed(lambda: fresh.restore(again.state))
    print(f"restore   {unpacking + restoring:8.2f} s   {unpacking:.2f} s of it from {len(pieces)} chunks to arrays")


def main() -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()};", end=" "
    )
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "cramjam", "numba")))
    full(10)
    fresh = Assembly([])
    fresh.restore(full(10).snapshot())
    for keys in KEYS:
        measure(keys)
    print(f"\npeak RSS  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
