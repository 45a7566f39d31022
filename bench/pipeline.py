"""`python -m bench.pipeline`: calls/s on one core of bytes -> signals, beside bytes -> Batch and msgspec alone, same run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import msgspec

from bench.calls import STEP, calls
from schemas.call import Call
from schemas.decode import Decoder, split
from stream.assembly import Assembly

CALLS, KEYS, PER_SECOND, ROUNDS = 1_000_000, 100_000, 50_000, 3


def lines() -> list[bytes]:
    """A million calls over 100,000 keys, 20 s of traffic, in blocks."""
    return [b"\n".join(rows) for rows in calls(CALLS, KEYS, lambda n: 1_790_000_000 + n / PER_SECOND)]


def best(run: Callable[[], None]) -> float:
    """Calls a second, the best of three."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return CALLS / min(times)


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    blocks = lines()
    clock = 1_790_000_000_000
    step = STEP * 1000 // PER_SECOND

    def decode() -> None:
        decoder = Decoder()
        for block in blocks:
            decoder.decode(split(block))

    def signals() -> None:
        assembly = Assembly([])
        for n, block in enumerate(blocks, 1):
            cut = split(block)
            cut.clock[:] = clock + n * step
            assembly.pipeline.feed(assembly.decoder.decode(cut)[0])

    def peer() -> None:
        decoder = msgspec.json.Decoder(Call)
        for block in blocks:
            for line in block.split(b"\n"):
                decoder.decode(line)

    signals()
    size = sum(map(len, blocks)) // CALLS
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one core;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "msgspec")))
    print(f"{CALLS:,} calls of {size} bytes, {KEYS:,} keys")
    bare, whole, other = best(decode), best(signals), best(peer)
    print(f"bytes -> Batch    {bare:12,.0f} calls/s")
    print(f"bytes -> signals  {whole:12,.0f} calls/s   {whole / bare:.2f} of bytes -> Batch")
    print(f"msgspec decode    {other:12,.0f} calls/s   bytes -> signals is {whole / other:.2f} of it")


if __name__ == "__main__":
    main()
