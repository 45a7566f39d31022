"""Batches made by hand, at fixed prices, for tests of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detectors.base import Names
from detectors.spend import SpendSpike
from schemas.batch import ABSENT, I32, I64, NANO, SLICE, Batch
from stream.dedupe import SeenIds
from stream.pipeline import Output, Pipeline

T0 = 1_700_000_000_000 // 3_600_000 * 3_600_000
Call = tuple[int, int, int, float]
"""clock (Ms after T0), ts (Ms after T0), key, USD"""


@dataclass
class Named:
    names: Names
    idle: I32 = field(default_factory=lambda: np.empty(0, np.int32))
    other: int = -1

    def row(self, *parts: str) -> int:
        return list(self.names).index(parts)


class Words:
    """Twenty keys, four to a tenant; their rows are never another's."""

    def __init__(self) -> None:
        self.tenants = Named([(f"tenant-{n}",) for n in range(5)])
        self.keys = Named([(f"tenant-{n // 4}", f"key-{n}") for n in range(20)])

    models = Named([("openai", "gpt-4o")])
    features = Named([("",), ("other",), ("search",), ("support",)])
    operations = Named([("",), ("other",), ("chat",)])


class DollarPerOutputToken:
    """A call costs a thousandth of a dollar per output token."""

    version = "a dollar for a thousand"

    def cost(self, batch: Batch, models: Names, tenants: Names) -> tuple[I64, NDArray[np.bool_]]:
        return batch.output_tokens.astype(np.int64) * (NANO // 1000), np.zeros(len(batch), np.bool_)

    def discount(self, tenant: str, provider: str, model: str, at: int) -> float:
        return 0.0


def batch(calls: list[Call], ids: list[int] | None = None) -> Batch:
    """One batch of calls in delivery order; ids default to 1, 2, 3 ..."""
    n = len(calls)
    clock, ts, key, usd = (np.array([c[i] for c in calls]) for i in range(4)) if n else (np.empty(0),) * 4
    unknown = np.full(n, ABSENT, np.int32)
    nobody = np.zeros(n, np.uint64)
    return Batch(
        clock=clock.astype(np.int64) + T0,
        position=np.arange(n),
        ts=ts.astype(np.int64) + T0,
        event=np.array(ids if ids is not None else range(1, n + 1), np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        tenant=(key // 4).astype(np.int32),
        key=key.astype(np.int32),
        model=np.zeros(n, np.int32),
        feature=(key % 4).astype(np.int32),
        operation=(key % 3).astype(np.int32),
        tier=np.zeros(n, np.int8),
        input_tokens=np.full(n, 100, np.int32),
        cached_input_tokens=unknown,
        cache_write_tokens=unknown,
        cache_write_1h_tokens=unknown,
        output_tokens=np.round(usd * 1000).astype(np.int32),
        reasoning_tokens=unknown,
        audio_input_tokens=unknown,
        audio_output_tokens=unknown,
        web_search_requests=unknown,
        attempt=unknown,
        status=unknown.astype(np.int16),
        latency_ms=unknown,
        fallback=unknown.astype(np.int8),
        response_cache=unknown.astype(np.int8),
        cost_usd=unknown.astype(np.int64),
        request=nobody,
        user=nobody,
        address=nobody,
        session=nobody,
        fingerprint=nobody,
    )


def pipeline(seen: SeenIds | None = None) -> Pipeline:
    return Pipeline(DollarPerOutputToken(), Words(), [SpendSpike()], seen=seen or SeenIds(2**12))


def play(calls: list[Call], cuts: list[int] | None = None, ids: list[int] | None = None) -> tuple[Pipeline, Output]:
    """All calls through a fresh pipeline, the batch cut at `cuts`, then 15 quiet minutes."""
    line = pipeline()
    whole = batch(calls, ids)
    said = Output()
    bounds = [0, *sorted(cuts or []), len(calls)]
    for lo, hi in pairwise(bounds):
        _extend(said, line.feed(whole.rows(lo, hi)))
    if calls:
        _extend(said, line.advance(T0 + max(c[0] for c in calls) + 900_000))
    return line, said


def _extend(said: Output, more: Output) -> None:
    said.signals += more.signals
    said.pulses += more.pulses
    said.usage += more.usage


def slot(ms: int) -> int:
    return (T0 + ms) // SLICE
