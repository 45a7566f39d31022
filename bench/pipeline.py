"""`python -m bench.pipeline`: calls/s on one core of bytes -> signals, beside bytes -> Batch and msgspec alone, same run."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import msgspec
import numpy as np

from schemas.decode import Call, Decoder, split
from stream.assembly import Assembly

CALLS, KEYS, PER_SECOND, ROUNDS = 1_000_000, 100_000, 50_000, 3
BLOCK = 10_000


def lines() -> list[bytes]:
    """A million calls of 21 fields over 100,000 keys, 20 s of traffic, in blocks."""
    rng = np.random.default_rng(1)
    key, tokens = rng.integers(0, KEYS, CALLS), rng.integers(10, 4000, (CALLS, 3))
    rows = []
    for n in range(CALLS):
        i, o, c = tokens[n].tolist()
        event = {
            "event_id": f"01890a5d-ac96-774b-bcce-{n:012x}",
            "ts": 1_790_000_000 + n / PER_SECOND,
            "tenant": f"tenant-{key[n] // 50}",
            "key_id": f"key-{key[n]}",
            "provider": "openai",
            "model": ("gpt-4o", "gpt-4o-mini", "o3")[n % 3],
            "requested_model": "gpt-4o",
            "operation": "chat",
            "input_tokens": i + c,
            "cached_input_tokens": c,
            "output_tokens": o,
            "service_tier": "standard",
            "status": 200,
            "latency_ms": 812.5,
            "session_id": f"session-{n % 5000}",
            "user_id": f"{n % 30_000:032x}",
            "client_ip": "203.0.113.7",
            "country": "DE",
            "user_agent": "OpenAI/Python 2.3.0 (Linux x86_64) httpx/0.28.1",
            "feature": "support-chat",
            "prompt_fingerprint": f"{n * 2654435761 % 2**64:016x}",
        }
        rows.append(json.dumps(event, separators=(",", ":")).encode())
    return [b"\n".join(rows[lo : lo + BLOCK]) for lo in range(0, CALLS, BLOCK)]


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
    step = BLOCK * 1000 // PER_SECOND

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
