"""The two columnar shapes: a batch of calls, and a pane (a closed slice of time, one row per key)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ms: TypeAlias = int
"""Milliseconds since the epoch, or a length in milliseconds."""
Nano: TypeAlias = int
"""Nano-dollars: 1 USD = 10**9."""
I8: TypeAlias = NDArray[np.int8]
I16: TypeAlias = NDArray[np.int16]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint8]
U64: TypeAlias = NDArray[np.uint64]
F64: TypeAlias = NDArray[np.float64]

ABSENT = -1
"""What a column holds where the event did not say: unknown, never 0."""
SERVICE_TIERS = ("standard", "batch", "flex", "priority")
RESPONSE_CACHE = ("hit", "miss", "bypass")
UNNAMED, OTHER = 0, 1
"""The rows of a bounded vocabulary that are there from the start: no name, and every name that found no room."""
NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lines:
    """Raw usage events: one contiguous buffer and the bounds of each line in it, each behind the one before.

    `clock` is the source's clock at each line (Ms), or ABSENT throughout where the source derives it from the
    events themselves (files). `position` is the Kafka offset or the byte offset at which the line begins.
    """

    buffer: U8
    start: I64
    end: I64
    position: I64
    clock: I64

    def rows(self, lo: int, hi: int) -> Lines:
        """Lines lo..hi-1, at least one, as views of their own stretch of the buffer."""
        start, end = self.start[lo:hi], self.end[lo:hi]
        return Lines(
            self.buffer[start[0] : end[-1]], start - start[0], end - start[0], self.position[lo:hi], self.clock[lo:hi]
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls in columns: row i is one call, all columns have the same length.

    `tenant`, `key`, `model`, `feature` and `operation` are rows of the decoder's vocabularies (the last two of bounded
    ones); `event` is a stable hash of tenant and event id; `tier` is an index into SERVICE_TIERS (absent is standard). Where
    the event did not say, the token columns and those from `attempt` to `cost_usd` hold ABSENT.

    `attempt` is 1 for a first attempt, 2 for its retry; `status` is HTTP's; `latency_ms` is rounded half up and ends at
    2**31 - 1. `fallback` is 1 where another model was served than asked for, 0 where it was that one or a version of it.
    `response_cache` is an index into RESPONSE_CACHE. `cost_usd` is what the emitter says that the call cost, in nano-dollars,
    at most 2**61; it is only compared. `request`, `user`, `address`, `session` and `fingerprint` are stable hashes, never 0
    but where the event did not say or said nothing; fingerprints in either case of hex are one, and requests of two keys
    never are.
    """

    clock: I64
    position: I64
    ts: I64
    event: U64
    tenant: I32
    key: I32
    model: I32
    feature: I32
    operation: I32
    tier: I8
    input_tokens: I32
    cached_input_tokens: I32
    cache_write_tokens: I32
    cache_write_1h_tokens: I32
    output_tokens: I32
    reasoning_tokens: I32
    audio_input_tokens: I32
    audio_output_tokens: I32
    web_search_requests: I32
    attempt: I32
    status: I16
    latency_ms: I32
    fallback: I8
    response_cache: I8
    cost_usd: I64
    request: U64
    user: U64
    address: U64
    session: U64
    fingerprint: U64

    def __len__(self) -> int:
        return len(self.ts)

    def rows(self, lo: int, hi: int) -> Batch:
        """Rows lo..hi-1 as views."""
        return Batch(*(getattr(self, column.name)[lo:hi] for column in fields(self)))

    @staticmethod
    def join(*parts: Batch) -> Batch:
        """All batches, one after the other."""
        return Batch(*(np.concatenate([getattr(part, c.name) for part in parts]) for c in fields(Batch)))


SLICE: Ms = 5_000
WINDOWS: tuple[Ms, ...] = (60_000, 300_000, 900_000, 3_600_000, 21_600_000)
RECENT: tuple[Ms, ...] = (5_000, 25_000, 60_000, 300_000, 1_800_000)
"""The short window beside each long one: its twelfth (SRE workbook ch. 5), in slots that the rings hold."""


@dataclass(frozen=True, slots=True)
class Pane:
    """What one closed slice of time means for every key that spent in it or is being watched; row i is one key.

    `key` and `tenant` are vocabulary rows; `start` is where each row's slice began (Ms), the same for all keys of a tenant
    and earlier for one whose calls come late; money is in nano-dollars.
    `cost` is what became known in this slice: what was spent in it, and what `late` calls, which came after their own
    slice had closed, spent before. `guessed` is the part of it whose model has no known price.
    `windows[i, w]` is what the key spent over WINDOWS[w] ending with this slice, `recent[i, w]` over RECENT[w], of which
    the shortest is `cost` itself.
    `onset(i, window, rate)` tells when within the window the key first spent at `rate` (nano-dollars a second) or more.
    """

    start: I64
    key: I32
    tenant: I32
    cost: I64
    guessed: I64
    late: I64
    windows: I64
    recent: I64
    onset: Callable[[int, Ms, float], Ms]

    def __len__(self) -> int:
        return len(self.key)
