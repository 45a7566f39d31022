"""What every key spent in every minute, from the calls themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.batch import I32, I64, Batch
from schemas.rollup import used
from stream.dedupe import MOST_IDS, NEWEST_IDS, SeenIds
from stream.pipeline import Prices, Vocabularies

MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Spent:
    """Row i: key `names[key[i]]` made `calls[i]` calls for `usd[i]` nano-dollars in `minute[i]` (epoch minutes).

    Sorted by key, then minute; a minute without calls has no row.
    """

    names: tuple[tuple[str, str], ...]
    key: I32
    minute: I64
    usd: I64
    calls: I64

    def between(self, first: float, last: float) -> Spent:
        """What was spent from `first` to `last`, epoch seconds."""
        keep = (self.minute >= first // MINUTE_S) & (self.minute <= last // MINUTE_S)
        return Spent(self.names, self.key[keep], self.minute[keep], self.usd[keep], self.calls[keep])

    def of_key(self, key: int) -> tuple[I64, I64]:
        """(minutes, nano-dollars) of one key."""
        lo, hi = np.searchsorted(self.key, [key, key + 1])
        return self.minute[lo:hi], self.usd[lo:hi]


class Spending:
    """Gathers batches of a pipeline that forgets no key.

    Duplicates are left out, as the pipeline leaves them out, and calls count in their own minute.
    """

    def __init__(self, prices: Prices, names: Vocabularies) -> None:
        self._prices = prices
        self._names = names
        self._seen = SeenIds(NEWEST_IDS, MOST_IDS)
        self._parts: list[tuple[I64, I64, I64]] = [(np.empty(0, np.int64),) * 3]

    def take(self, batch: Batch) -> None:
        """Add the calls of a batch."""
        cost, _ = self._prices.cost(batch, self._names.models.names, self._names.tenants.names)
        fresh = self._seen.first_seen(batch.event)
        place = batch.key[fresh].astype(np.int64) << 32 | batch.ts[fresh] // (1000 * MINUTE_S)
        self._parts.append(_summed(place, cost[fresh], np.ones(int(fresh.sum()), np.int64)))

    def spent(self) -> Spent:
        """Everything so far."""
        place, usd, calls = _summed(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))
        names, key = used(self._names.keys.names, place >> 32)
        return Spent(tuple((n[0], n[1]) for n in names), key, place & 0xFFFFFFFF, usd, calls)


def together(parts: Sequence[Spent]) -> Spent:
    """Several partitions' spend as one; a key that is on two of them is one key."""
    row: dict[tuple[str, str], int] = {}
    places = []
    for part in parts:
        of = np.array([row.setdefault(name, len(row)) for name in part.names], np.int64)
        places.append(of[part.key] << 32 | part.minute if len(of) else part.minute)
    place, usd, calls = _summed(*(np.concatenate(c) for c in (places, [p.usd for p in parts], [p.calls for p in parts])))
    return Spent(tuple(row), (place >> 32).astype(np.int32), place & 0xFFFFFFFF, usd, calls)


def _summed(place: I64, usd: I64, calls: I64) -> tuple[I64, I64, I64]:
    places, which = np.unique(place, return_inverse=True)
    sums = np.zeros((2, len(places)), np.int64)
    np.add.at(sums[0], which, usd)
    np.add.at(sums[1], which, calls)
    return places, sums[0], sums[1]
