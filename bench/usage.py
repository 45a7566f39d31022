"""`python -m bench.usage`: what hourly usage costs: in memory, on the topic, in the responder and in the ledger."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import cramjam
import numpy as np

from actions.incidents import Changes
from actions.ledger import Ledger
from actions.usage import used
from bench.calls import STEP, calls
from schemas.batch import I64, Batch
from schemas.decode import Decoder, split
from schemas.rollup import Rollup
from stream.assembly import Assembly
from stream.cells import Cells
from stream.windows import MEASURES

HOUR_S = 1_790_000_000 // 3600 * 3600
CALLS, KEYS, ROUNDS = 300_000, (1_000, 3_334, 100_000), 3
Made = TypeVar("Made")


def timed(make: Callable[[], Made]) -> tuple[float, Made]:
    """Seconds of CPU, and what was made."""
    began = time.process_time()
    made = make()
    return time.process_time() - began, made


def minute(keys: int) -> list[Batch]:
    """Calls over keys and three models within one minute."""
    decoder, batches = Decoder(), []
    for n, rows in enumerate(calls(CALLS, keys, lambda n: HOUR_S + 5 + n / CALLS * 50)):
        lines = split(b"\n".join(rows))
        lines.clock[:] = HOUR_S * 1000 + 5_000 + n * STEP * 50_000 // CALLS
        batches.append(decoder.decode(lines)[0])
    return batches


def fold(cells: Cells, batches: list[Batch], sums: I64) -> None:
    """All calls once."""
    rows = np.arange(STEP)
    for batch in batches:
        cells.fold(batch, batch.clock, sums, rows, HOUR_S // 3600)


def said(keys: int) -> list[Rollup]:
    """What a partition says at the end of the minute."""
    assembly = Assembly([])
    for n, rows in enumerate(calls(CALLS, keys, lambda n: HOUR_S + 5 + n / CALLS * 50)):
        lines = split(b"\n".join(rows))
        lines.clock[:] = HOUR_S * 1000 + 5_000 + n * STEP * 50_000 // CALLS
        assembly.pipeline.feed(assembly.decoder.decode(lines)[0])
    return assembly.pipeline.advance(HOUR_S * 1000 + 63_000).usage


def measure(keys: int, ledger: Ledger) -> None:
    cells, batches, sums = Cells(), minute(keys), np.ones((STEP, MEASURES), np.int64)
    fold(Cells(), batches[:1], sums)
    first = timed(lambda: fold(cells, batches, sums))[0]
    again = min(timed(lambda: fold(cells, batches, sums))[0] for _ in range(ROUNDS))
    print(f"\n{keys:,} keys, {len(cells):,} cells", end="; ")
    print(f"a call {again / CALLS * 1e9:.0f} ns, {first / CALLS * 1e9:.0f} ns while the cells are new")
    rollups = said(keys)
    rows = sum(map(len, rollups))
    saying, parts = timed(lambda: [part for rollup in rollups for part in rollup.parts()])
    size, packed = sum(map(len, parts)), sum(len(cramjam.lz4.compress_block(part)) for part in parts)
    print(f"a minute says {rows:,} cells: {size / 1e6:.2f} MB in {len(parts)} records, {packed / 1e6:.2f} MB in lz4")
    reading, heard = timed(lambda: [[*used(Rollup.read(part), "usage")] for part in parts])
    writes = []
    for _ in range(ROUNDS):
        for row in (row for part in heard for row in part):
            row["calls"] += 1
        writes += [sum(timed(partial(ledger.write, Changes(), used=part))[0] for part in heard)]
    costs = (f"{seconds / rows * 1e6:.1f} us to {what}" for seconds, what in ((saying, "say"), (reading, "read")))
    print(f"a cell takes {', '.join(costs)}, {min(writes) / rows * 1e6:.1f} us to write")


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one core;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "sqlalchemy", "msgspec")))
    for keys in KEYS:
        with tempfile.TemporaryDirectory(prefix="bench-usage-") as folder:
            path = Path(folder) / "ledger.sqlite"
            ledger = Ledger(str(path))
            ledger.take_epoch(0)
            measure(keys, ledger)
            rows = ledger.usage((), range(2**31 - 1), {})[0][0]
            ledger.close()
            print(f"the ledger's file: {path.stat().st_size / 1e6:.1f} MB, {rows:,} calls in it")


if __name__ == "__main__":
    main()
