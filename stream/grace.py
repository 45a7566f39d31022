"""Grace: for how many slices more than the clock's own a tenant's slices wait, because its exporter flushes late."""

from __future__ import annotations

import numpy as np
from numba import njit

from schemas.batch import I32, I64, Ms
from schemas.snapshot import BadCheckpoint, Snapshot, records

GRACE: Ms = 2_000
"""What every slice waits after its end."""
MOST = 6
"""Slices of 5 s: the longest grace of a tenant is 30 s, the slowest flush that LiteLLM's and OTel's exporters come with."""
COVERED, LOWERED = (99, 100), (199, 200)
"""The share of a tenant's recent calls that its grace covers, and the share that a lower one must cover to take its place."""
EVIDENCE = 20
"""Recent calls below which a tenant keeps the grace that it has: among fewer, one stray call is more than 5 %."""
ERA = 24
"""Slices after which a call counts half: two minutes, four flushes of the slowest exporter."""
RULE = f"grace {GRACE} {MOST} {COVERED} {LOWERED} {EVIDENCE} {ERA}"
TENANT = np.dtype(
    [("floor", np.int64), ("era", np.int32), ("grace", np.int32), ("heard", np.int32), ("calls", np.int32, MOST + 1)]
)
"""`calls[n]` are the recent calls that would have been on time with a grace of n slices and no less, as of `era`;
`floor` is the slice before which nothing of the tenant closes again, whatever its grace; `heard` is 1 where calls came
since the last edge that its grace may have to follow, 2 where some were later than it."""


@njit(cache=True)
def own_edge(tenant, edge):  # type: ignore[no-untyped-def]  # numba infers the types
    """A tenant's next slice to be closed while `edge` is the partition's."""
    return max(tenant.floor, edge - tenant.grace)


@njit(cache=True)
def note_call(tenants, row, missed, era, heard, news):  # type: ignore[no-untyped-def]
    """Note by how many slices a call missed the partition's edge; one that no grace would cover says nothing.

    `heard` lists the tenants whose grace is to be looked at, `news` is how many they are; returns that.
    """
    if missed > MOST:
        return news
    tenant = tenants[row]
    if tenant.era != era:
        halvings = min(era - tenant.era, 62)
        for n in range(MOST + 1):
            tenant.calls[n] >>= halvings
        tenant.era = era
    tenant.calls[missed] += 1
    if missed > 0 or tenant.grace > 0:
        if tenant.heard == 0:
            heard[news] = row
            news += 1
        tenant.heard = max(tenant.heard, 2 if missed > tenant.grace else 1)
    return news


@njit(cache=True)
def _covers(calls, grace, share):  # type: ignore[no-untyped-def]
    return calls[: grace + 1].sum() * share[1] >= calls.sum() * share[0]


@njit(cache=True)
def follow(tenants, heard, edge):  # type: ignore[no-untyped-def]
    """Raise the grace of those of `heard` whose calls come later than it, and return the rows of those to be lowered."""
    lowered = np.empty(len(heard), np.int64)
    n = 0
    for row in heard:
        tenant = tenants[row]
        if tenant.calls.sum() >= EVIDENCE:
            if tenant.heard == 2 and not _covers(tenant.calls, tenant.grace, COVERED):
                tenant.floor = own_edge(tenant, edge)
                while not _covers(tenant.calls, tenant.grace, COVERED):
                    tenant.grace += 1
            elif tenant.grace > 0 and _covers(tenant.calls, tenant.grace - 1, LOWERED):
                lowered[n] = row
                n += 1
        tenant.heard = 0
    return lowered[:n]


class Graces:
    """The grace of every tenant of a partition, learnt from its calls: the least that covers 99 % of the recent ones.

    A tenant's slices close in order, each once: those before its own edge are closed. With a raised grace it waits until
    the clock is that far ahead of its edge; a lowered grace is one slice less, and closes two at once. A tenant
    whose calls are on time has none.
    """

    def __init__(self) -> None:
        self.tenants = np.zeros(64, TENANT)
        self.heard = np.empty(64, np.int64)
        self.news = 0

    def grow(self, tenants: int) -> None:
        """Make room for `tenants` tenants."""
        have = len(self.tenants)
        if tenants > have:
            rows, heard = np.zeros(max(tenants, 2 * have), TENANT), np.empty(max(tenants, 2 * have), np.int64)
            rows[:have], heard[: self.news] = self.tenants, self.heard[: self.news]
            self.tenants, self.heard = rows, heard

    def forget(self, rows: I32) -> None:
        """These rows are other tenants' from now on, of whom nothing is known."""
        self.tenants[rows] = np.zeros((), TENANT)

    def follow(self, edge: int) -> I64:
        """Before the partition's `edge` moves: raise what must be raised. Returns the tenants that may be lowered."""
        heard, self.news = self.heard[: self.news], 0
        lowered: I64 = follow(self.tenants, heard, edge)
        return lowered

    def lower(self, tenants: I64) -> None:
        """One slice less for each of `tenants`."""
        self.tenants["grace"][tenants] -= 1

    def closing(self, tenants: I32, slot: int) -> tuple[I64, I64]:
        """The slice of each tenant that closes together with the partition's `slot`, and the tenants' floors: a tenant
        waits where its floor is above that slice."""
        return np.int64(slot) - self.tenants["grace"][tenants], self.tenants["floor"][tenants]

    def snapshot(self, tenants: int) -> Snapshot:
        return {"tenants": self.tenants[:tenants]}

    def restore(self, snapshot: Snapshot) -> None:
        """A tenant that the snapshot does not know has no grace. Raises BadCheckpoint."""
        tenants = records(snapshot, "tenants", TENANT)
        if ((tenants["grace"] < 0) | (tenants["grace"] > MOST)).any():
            raise BadCheckpoint(f"a grace is not one of 0 to {MOST} slices")
        self.tenants, self.heard = tenants, np.empty(len(tenants), np.int64)
        heard = np.flatnonzero(tenants["heard"])
        self.news = len(heard)
        self.heard[: self.news] = heard
