"""`python -m bench.meters`: price and meters after decode, per call, at 1k and 250k uniform keys; memory at 250k keys.

Beside the same sums in a hand-written Python loop over dictionaries and in numpy, in the same run.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from bench.calls import STEP, calls
from detectors.base import PaneDetector
from schemas.batch import Batch
from schemas.decode import split
from stream.assembly import Assembly, pane_detectors
from stream.dedupe import SeenIds
from stream.measures import measures
from stream.pipeline import Pipeline
from stream.windows import HOUR

T0, CALLS, WARM, PER_SECOND, ROUNDS = 1_790_000_000_000, 1_000_000, 2_000_000, 100_000, 3
KEYS = 1_000, 250_000
PARTITIONS = 12


def decoded(assembly: Assembly, keys: int, count: int) -> list[Batch]:
    """Calls over uniform keys, 50 of them a tenant, three models; 100,000 a second of their clock."""
    batches = []
    for n, rows in enumerate(calls(count, keys, lambda k: T0 / 1000 + k / PER_SECOND)):
        lines = split(b"\n".join(rows))
        lines.clock[:] = T0 + (n + 1) * STEP * 1000 // PER_SECOND
        batches.append(assembly.decoder.decode(lines)[0])
    return batches


def seconds(run: Callable[[], object]) -> float:
    """Of CPU."""
    began = time.process_time()
    run()
    return time.process_time() - began


def rate(keys: int, judges: list[PaneDetector]) -> float:
    """Calls a second through a warm pipeline: dedupe, price, panes, rings, usage, meters; and what judges."""
    assembly = Assembly([])
    batches = decoded(assembly, keys, WARM + CALLS)
    pipeline = Pipeline(assembly.prices, assembly.decoder, judges, seen=SeenIds())
    for batch in batches[: WARM // STEP]:
        pipeline.feed(batch)
    return CALLS / seconds(lambda: [pipeline.feed(batch) for batch in batches[WARM // STEP :]])


def loop(keys: int) -> float:
    """Calls a second of a plain loop: what a call adds to its key and to its tenant, feature and model, by the hour."""
    assembly = Assembly([])
    batches = decoded(assembly, keys, CALLS // 10)
    rows: list[tuple[int, ...]] = []
    for batch in batches:
        cost, _ = assembly.prices.cost(batch, assembly.decoder.models.names)
        named = (batch.key, batch.tenant, batch.feature, batch.model, batch.ts // HOUR, batch.status, batch.latency_ms)
        rows += zip(*(column.tolist() for column in (*named, batch.input_tokens, batch.output_tokens, cost)), strict=True)
    sums: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0] * 6)
    users: dict[tuple[int, int], set[int]] = defaultdict(set)

    def add() -> None:
        for n, (key, tenant, feature, model, hour, status, latency, read, said, usd) in enumerate(rows):
            for place in ((key, hour), (tenant, feature, model, hour)):
                held = sums[place]
                held[0] += 1
                held[1] += read
                held[2] += said
                held[3] += usd
                held[4] += status >= 400
                held[5] += latency
            users[key, hour].add(n)

    return len(rows) / seconds(add)


def vectorised(keys: int) -> float:
    """Calls a second of numpy: the measures of a batch grouped by key and by use, added up and merged."""
    assembly = Assembly([])
    batches = decoded(assembly, keys, CALLS // 5)
    priced = [(b, *assembly.prices.cost(b, assembly.decoder.models.names)) for b in batches]
    of_keys = np.zeros((keys, 25), np.int64)
    of_uses: dict[int, np.ndarray] = {}

    def add() -> None:
        for batch, cost, guessed in priced:
            sums = measures(batch, cost, guessed)
            np.add.at(of_keys, batch.key, sums)
            use = (batch.tenant.astype(np.int64) << 20) | batch.feature << 10 | batch.model
            found, places = np.unique(use, return_inverse=True)
            totals = np.zeros((len(found), sums.shape[1]), np.int64)
            np.add.at(totals, places, sums)
            for name, row in zip(found.tolist(), totals, strict=True):
                of_uses[name] = of_uses.get(name, 0) + row

    return CALLS // 5 / seconds(add)


def memory() -> None:
    """RSS with all keys in PARTITIONS partitions and everything of a key in use, in a process of its own."""
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keys, assemblies = KEYS[1], [Assembly([], partition=n) for n in range(PARTITIONS)]
    for n, rows in enumerate(calls(4 * keys, keys, lambda k: T0 / 1000 + k / 2_000)):
        blocks: list[list[bytes]] = [[] for _ in assemblies]
        for line in rows:
            at = line.index(b'"tenant-') + 8
            blocks[int(line[at : line.index(b'"', at)]) % PARTITIONS].append(line)
        for assembly, block in zip(assemblies, blocks, strict=True):
            lines = split(b"\n".join(block))
            lines.clock[:] = T0 + (n + 1) * STEP // 2
            assembly.pipeline.feed(assembly.decoder.decode(lines)[0])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    known = sum(len(assembly.decoder.keys) for assembly in assemblies)
    arrays = sum(column.nbytes for assembly in assemblies for column in assembly.pipeline.snapshot().values())
    print(
        f"\n{known:,} keys in {PARTITIONS} partitions: {rss / 1e6:.2f} GB RSS ({started / 1e6:.2f} GB before the first call)"
    )
    print(f"state: {arrays / 1e9:.2f} GB, of it {of_a_key(assemblies[0]):,} bytes a key")


def of_a_key(assembly: Assembly) -> int:
    """Bytes of every array with a row for each key."""
    keys, state = len(assembly.decoder.keys), assembly.snapshot()
    return sum(column.nbytes // keys for column in state.values() if len(column) == keys)


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        memory()
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one core;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("numba", "numpy")))
    rate(10, pane_detectors())
    found = {}
    for keys in KEYS:
        found[keys] = max(rate(keys, []) for _ in range(ROUNDS))
        judged = max(rate(keys, pane_detectors()) for _ in range(ROUNDS))
        print(f"\n{keys:,} uniform keys, after decode")
        print(f"price and meters        {found[keys]:12,.0f} calls/s  {1e9 / found[keys]:6.0f} ns a call")
        print(f"and all detectors       {judged:12,.0f} calls/s  {1e9 / judged:6.0f} ns a call")
        for name, peer in (("a loop over dictionaries", loop(keys)), ("numpy, grouped", vectorised(keys))):
            print(f"{name:24}{peer:12,.0f} calls/s  price and meters are {found[keys] / peer:.1f} times that")
    few, many = (1e9 / found[keys] for keys in KEYS)
    print(f"\na call costs {many / few:.2f} times as much with {KEYS[1]:,} keys as with {KEYS[0]:,}")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "bench.meters", "memory"], check=True)


if __name__ == "__main__":
    main()
