"""Who has a row: since when and until when each key and tenant was heard of, and who is forgotten when."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.kernels import YOUNG
from schemas.batch import I32, I64, Batch, Ms
from schemas.snapshot import BadCheckpoint, Snapshot, number, of_numbers, records
from stream.columns import MOST_KEYS, enlarged
from stream.windows import HOUR

HARD = 2
"""A new key finds no room where so many times the most are known."""
LEAVES = 16
"""A round makes room for one key in so many of the most."""
RECENT: Ms = 3 * HOUR
"""Who was heard of within this is not forgotten: usage and windows of hours that are not over may refer to it."""
EMPTY: Ms = 49 * HOUR
"""All meters of who was silent for longer are empty."""
HEARD = np.dtype([("first", np.int64), ("last", np.int64), ("call", np.int64)])
"""Clock of the first and of the last call of a row, and the last one's number among the partition's; 0: never heard of."""
Heard: TypeAlias = NDArray[np.void]


@njit(cache=True)
def hear(keys, tenants, clock, calls, numbers, known, limit, of_keys, of_tenants, beyond):  # type: ignore[no-untyped-def]  # numba infers the types
    """Note `calls`, and mark those whose key is new where `limit` are known already. Returns how many are known then."""
    for i in range(len(calls)):
        call = calls[i]
        tenant = of_tenants[tenants[call]]
        tenant.last = max(tenant.last, clock[call])
        tenant.call = max(tenant.call, numbers[i])
        key = of_keys[keys[call]]
        beyond[i] = key.call == 0 and known >= limit
        if beyond[i]:
            continue
        if key.call == 0:
            key.first = clock[call]
            known += 1
        key.last = max(key.last, clock[call])
        key.call = max(key.call, numbers[i])
    return known


class Rows:
    """The keys and tenants that a partition knows. Everything here is a function of the calls and of the clock.

    It keeps `most` keys. At the end of a minute of the clock in which it knows more, it forgets them down to 15/16 of
    `most`: first those that never got past learning (from first call to last less than `young`, 150 minutes), the longest
    silent first; then the settled ones, the longest silent first, as long as more than 15/16 of `most` are settled: a flood
    of made-up keys pushes out no real one. Never one with an open episode, nor one heard of within three hours. Where that
    leaves no room there may be up to twice as many; a key that is new beyond that is not known at all, and its calls are
    for the pipeline to count as those of its tenant's other keys. Tenants are forgotten when they were silent for more than
    49 hours, which empties all their meters, and no key of theirs is known. Who comes back is new.
    """

    def __init__(self, most: int = MOST_KEYS, young: Ms = YOUNG) -> None:
        self.keys: Heard = np.zeros(64, HEARD)
        self.tenants: Heard = np.zeros(64, HEARD)
        self._most = most
        self._young = young
        self._known = 0
        self._calls = 0

    @property
    def crowded(self) -> bool:
        """Whether there are more keys than it keeps."""
        return self._known > self._most

    def grow(self, keys: int, tenants: int) -> None:
        """Make room for so many rows."""
        if keys > len(self.keys):
            self.keys = enlarged(self.keys, max(keys, 2 * len(self.keys)), 0)
        if tenants > len(self.tenants):
            self.tenants = enlarged(self.tenants, max(tenants, 2 * len(self.tenants)), 0)

    def hear(self, batch: Batch, clock: I64, calls: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Note the calls, those of `calls`, in order; marks those of a new key that found no room."""
        numbers = np.arange(self._calls + 1, self._calls + len(calls) + 1)
        self._calls += len(calls)
        return self._hear(batch, clock, calls, numbers, HARD * self._most)

    def hear_of_others(self, batch: Batch, clock: I64, calls: NDArray[np.intp], beyond: NDArray[np.bool_]) -> None:
        """Note those of the calls heard last that found no room, now under keys that always find one."""
        numbers = np.arange(self._calls - len(calls) + 1, self._calls + 1)
        self._hear(batch, clock, calls[beyond], numbers[beyond], 2**62)

    def _hear(self, batch: Batch, clock: I64, calls: NDArray[np.intp], numbers: I64, limit: int) -> NDArray[np.bool_]:
        beyond = np.zeros(len(calls), np.bool_)
        self._known = hear(
            batch.key, batch.tenant, clock, calls, numbers, self._known, limit, self.keys, self.tenants, beyond
        )
        return beyond

    def forget_keys(self, now: Ms, watched: I32) -> I32:
        """Forget keys as the rule says when the minute ends at `now`. Returns their rows."""
        known = np.flatnonzero(self.keys["call"])
        of, least = self.keys[known], self._most - self._most // LEAVES
        settled = of["last"] - of["first"] >= self._young
        silent = of["last"] <= now - RECENT
        silent[np.isin(known, watched)] = False
        fleeting = self._longest_silent(known[silent & ~settled], len(known) - least)
        excess = min(len(known) - len(fleeting), int(settled.sum())) - least
        rows = np.concatenate([fleeting, self._longest_silent(known[silent & settled], excess)])
        self.keys[rows] = np.zeros((), HEARD)
        self._known = len(known) - len(rows)
        return rows.astype(np.int32)

    def forget_tenants(self, now: Ms, tenant_of: I32) -> I32:
        """Forget tenants as the rule says; `tenant_of` is of every row of a key. Returns their rows."""
        silent = (self.tenants["call"] > 0) & (self.tenants["last"] < now - EMPTY)
        if silent.any():
            silent[tenant_of[np.flatnonzero(self.keys["call"])]] = False
        self.tenants[silent] = np.zeros((), HEARD)
        return np.flatnonzero(silent).astype(np.int32)

    def unknown(self, keys: I32, tenants: I32) -> tuple[I32, I32]:
        """Those of the rows that stand for nobody now, each once."""
        return np.unique(keys[self.keys["call"][keys] == 0]), np.unique(tenants[self.tenants["call"][tenants] == 0])

    def snapshot(self, keys: int, tenants: int) -> Snapshot:
        """Of so many rows, as records, so that a field added later starts at 0."""
        return {"keys": self.keys[:keys], "tenants": self.tenants[:tenants]} | of_numbers(calls=self._calls)

    def restore(self, snapshot: Snapshot, keys: int, tenants: int, clock: Ms) -> None:
        """Keys and tenants of a checkpoint that does not say are settled, and were heard of at its `clock`, in their order.

        Raises BadCheckpoint.
        """
        if not snapshot:
            snapshot = {"keys": _settled(keys, clock), "tenants": _settled(tenants, clock)} | of_numbers(calls=keys)
        self.keys, self.tenants = records(snapshot, "keys", HEARD), records(snapshot, "tenants", HEARD)
        if (len(self.keys), len(self.tenants)) != (keys, tenants):
            raise BadCheckpoint(
                f"{len(self.keys)} keys and {len(self.tenants)} tenants were heard of, not {keys} and {tenants}"
            )
        self._known = int(np.count_nonzero(self.keys["call"]))
        self._calls = number(snapshot, "calls")

    def _longest_silent(self, rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
        """At most so many of the rows. No two keys have one last call, so the order of rows does not matter."""
        if most >= len(rows):
            return rows
        return rows[np.argpartition(self.keys["call"][rows], most)[:most]] if most > 0 else rows[:0]


def _settled(rows: int, clock: Ms) -> Heard:
    heard = np.zeros(rows, HEARD)
    heard["first"], heard["last"], heard["call"] = clock - YOUNG, clock, np.arange(1, rows + 1)
    return heard
