"""Time made countable: rings of slots per key, and the panes that are still open."""

from __future__ import annotations

import numpy as np
from numba import njit

from schemas.batch import I32, I64, RECENT, SLICE, WINDOWS, Ms
from schemas.snapshot import BadCheckpoint, Snapshot, alike, array
from stream.grace import ERA, MOST, Graces, note_call, own_edge
from stream.measures import COUNTS, FIRST_COUNT, GUESSED, OF_A_SLICE, USD

MINUTE: Ms = 60_000
HOUR: Ms = 3_600_000
DAY: Ms = 86_400_000
SPANS = np.array([SLICE, MINUTE, HOUR])
LENGTHS = np.array([12, 60, 24])
BASES = np.array([0, 12, 72])
SLOTS = int(LENGTHS.sum())
LATE, LATE_USD, LATE_GUESSED = range(OF_A_SLICE, OF_A_SLICE + 3)
MEASURES = OF_A_SLICE + 3
"""What an open pane sums per key: OF_A_SLICE; calls that came after their own slice had closed only count as LATE."""
BEFORE = [*range(2), *range(5, 11), *range(2, 5)]
"""Where in the arena of checkpoints before 2026-11-24 each of these stood."""
NEVER = -(2**60)
U32_MAX = 2**32 - 1
AHEAD: Ms = 60_000
"""A call further ahead of the clock than this is counted at the clock."""
OPEN_SLOTS = MOST + 2 + AHEAD // SLICE
"""From the slice of a tenant that waits longest to the one of a call that is furthest ahead."""


@njit(cache=True)
def slot_of(usd, counts, head, row, ring, index):  # type: ignore[no-untyped-def]  # numba infers the types
    """The column of absolute slot `index`, begun empty if it is new; -1 where the ring no longer reaches it."""
    length = LENGTHS[ring]
    newest = head[row, ring]
    if index > newest:
        for s in range(max(newest + 1, index - length + 1), index + 1):
            column = BASES[ring] + s % length
            usd[row, column] = 0
            counts[row, column, :] = 0
        head[row, ring] = index
    elif index <= newest - length:
        return -1
    return BASES[ring] + index % length


@njit(cache=True)
def changed_slots(usd, counts, head, touched):  # type: ignore[no-untyped-def]
    """The slots of every ring that the (row, 5-s slot) of `touched` have changed, once each.

    Returns (rows, entity, ring, index, usd, counts) sorted by row, ring and index; `entity` is a place in `rows`. What a
    ring no longer reaches is left out.
    """
    places = np.empty(len(touched) * 3, np.int64)
    for i in range(len(touched)):
        for ring in range(3):
            places[3 * i + ring] = (touched[i, 0] * 3 + ring) << 32 | touched[i, 1] * SLICE // SPANS[ring]
    places.sort()
    used = np.empty(len(places), np.int64)
    entity = np.empty(len(places), np.int32)
    ring_of = np.empty(len(places), np.int32)
    index_of = np.empty(len(places), np.int64)
    spent = np.empty(len(places), np.int64)
    counted = np.empty((len(places), len(COUNTS)), np.int64)
    n = 0
    last = -1
    for i in range(len(places)):
        if i > 0 and places[i] == places[i - 1]:
            continue
        row, ring, index = (places[i] >> 32) // 3, (places[i] >> 32) % 3, places[i] & 0xFFFFFFFF
        column = slot_of(usd, counts, head, row, ring, index)
        if column >= 0:
            if last < 0 or used[last] != row:
                last += 1
                used[last] = row
            entity[n], ring_of[n], index_of[n] = last, ring, index
            spent[n] = usd[row, column]
            counted[n] = counts[row, column]
            n += 1
    return used[: last + 1], entity[:n], ring_of[:n], index_of[:n], spent[:n], counted[:n]


@njit(cache=True)
def add_rows(usd, counts, head, rows, sums, slots):  # type: ignore[no-untyped-def]
    """Add each row's sums of one slice (5-s slot `slots[i]`) to its three rings; u32 counts saturate."""
    for i in range(len(rows)):
        row = rows[i]
        for ring in range(3):
            column = slot_of(usd, counts, head, row, ring, slots[i] * SLICE // SPANS[ring])
            if column >= 0:
                usd[row, column] += sums[i, USD]
                for c in range(len(COUNTS)):
                    counts[row, column, c] = min(counts[row, column, c] + sums[i, FIRST_COUNT + c], U32_MAX)


@njit(cache=True)
def raise_slots(usd, counts, head, rows, rings, slots, values, sums):  # type: ignore[no-untyped-def]
    """Raise each named slot to its absolute value; those that the rings no longer reach are dropped."""
    for i in range(len(rows)):
        column = slot_of(usd, counts, head, rows[i], rings[i], slots[i])
        if column >= 0:
            usd[rows[i], column] = max(usd[rows[i], column], values[i])
            for c in range(len(COUNTS)):
                counts[rows[i], column, c] = max(counts[rows[i], column, c], min(sums[i, c], U32_MAX))


@njit(cache=True)
def _sum_back(usd, head, row, ring, index, slots):  # type: ignore[no-untyped-def]
    total = 0
    length = LENGTHS[ring]
    newest = head[row, ring]
    oldest = max(index - slots + 1, newest - length + 1)
    column = oldest % length
    for _ in range(oldest, min(index, newest) + 1):
        total += usd[row, BASES[ring] + column]
        column = column + 1 if column + 1 < length else 0
    return total


@njit(cache=True)
def sum_windows(usd, head, rows, slots, windows, recent):  # type: ignore[no-untyped-def]
    """Fill `windows` and `recent` (rows x 5): whole slots ending with 5-s slot `slots[i]`."""
    for i in range(len(rows)):
        row = rows[i]
        for w in range(len(WINDOWS)):
            windows[i, w] = _window(usd, head, row, slots[i], WINDOWS[w])
            recent[i, w] = _window(usd, head, row, slots[i], RECENT[w])


@njit(cache=True)
def _window(usd, head, row, slot, window):  # type: ignore[no-untyped-def]
    for ring in range(3):
        if window <= SPANS[ring] * LENGTHS[ring]:
            return _sum_back(usd, head, row, ring, slot * SLICE // SPANS[ring], window // SPANS[ring])
    return 0


@njit(cache=True)
def fold_rows(ts, clock, key, tenant, sums, edge, graces, arena, keys, slots, used, index, key_rings, tenant_rings, late):  # type: ignore[no-untyped-def]
    """Fold calls (of one clock edge) into the open panes; late ones straight into their own slots.

    `graces` are the tenants' columns, `heard` and `news` of `note_call`. `late` (rows x 3: tenant, key, slot) names what
    changed behind its tenant's edge. Returns (rows used, late, skewed, news).
    """
    tenants, heard, news = graces
    era = edge // ERA
    behind = 0
    skewed = 0
    for i in range(len(ts)):
        at = ts[i]
        if at > clock[i] + AHEAD:
            at = clock[i]
            skewed += 1
        slot = at // SLICE
        news = note_call(tenants, tenant[i], max(edge - slot, 0), era, heard, news)
        own = own_edge(tenants[tenant[i]], edge)
        is_late = slot < own
        if is_late:
            late[behind, 0] = tenant[i]
            late[behind, 1] = key[i]
            late[behind, 2] = slot
            row, its_slot = sums[i : i + 1], late[behind : behind + 1, 2]
            behind += 1
            add_rows(key_rings[0], key_rings[1], key_rings[2], key[i : i + 1], row, its_slot)
            add_rows(tenant_rings[0], tenant_rings[1], tenant_rings[2], tenant[i : i + 1], row, its_slot)
            slot = own
        place = index[slot % OPEN_SLOTS, key[i]]
        if place < 0:
            place = used
            used += 1
            index[slot % OPEN_SLOTS, key[i]] = place
            keys[place] = key[i]
            slots[place] = slot
            arena[place, :] = 0
        if is_late:
            arena[place, LATE] += 1
            arena[place, LATE_USD] += sums[i, USD]
            arena[place, LATE_GUESSED] += sums[i, GUESSED]
        else:
            for m in range(OF_A_SLICE):
                arena[place, m] += sums[i, m]
    return used, behind, skewed, news


@njit(cache=True)
def take_due(arena, keys, slots, used, index, tenant_of, tenants, slot, out_keys, out_slots, out_sums):  # type: ignore[no-untyped-def]
    """Move the rows that close together with the partition's `slot` out of the arena, by key. Returns (rows taken, left).

    By key, because whoever goes through the rings of these keys then meets them in the order in which they lie in memory.
    The last rows fill the gaps.
    """
    taken = 0
    columns = (slot - np.arange(MOST + 1)) % OPEN_SLOTS
    for key in range(min(len(tenant_of), index.shape[1])):
        grace = tenants[tenant_of[key]].grace
        place = index[columns[grace], key]
        if place >= 0:
            out_keys[taken] = key
            out_slots[taken] = slot - grace
            out_sums[taken] = arena[place]
            index[columns[grace], key] = -1
            keys[place] = -1
            taken += 1
    gap, last = 0, used - 1
    while gap <= last:
        if keys[last] < 0:
            last -= 1
        elif keys[gap] >= 0:
            gap += 1
        else:
            arena[gap] = arena[last]
            keys[gap] = keys[last]
            slots[gap] = slots[last]
            index[slots[gap] % OPEN_SLOTS, keys[gap]] = gap
            last -= 1
            gap += 1
    return taken, last + 1


@njit(cache=True)
def next_due(keys, slots, used, tenant_of, tenants, slot, end):  # type: ignore[no-untyped-def]
    """The first of the partition's slots from `slot` on with which a row closes; `end` where none does before."""
    first = end
    for place in range(used):
        first = min(first, slots[place] + tenants[tenant_of[keys[place]]].grace)
        if first <= slot:
            return slot
    return first


class Meter:
    """Windowed statistics per row: 12 slots of 5 s, 60 of 1 min, 24 of 1 h; 3.1 KB a row.

    `usd` is int64 nano-dollars (rows x 96), `counts` u32 (rows x 96 x 6, see COUNTS), `head` the newest slot a ring holds.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.usd = np.zeros((capacity, SLOTS), np.int64)
        self.counts = np.zeros((capacity, SLOTS, len(COUNTS)), np.uint32)
        self.head = np.full((capacity, 3), NEVER, np.int64)
        self.rows = 0

    def grow(self, rows: int) -> None:
        """Make room for at least `rows` rows; what is there stays."""
        self.rows = max(self.rows, rows)
        have = len(self.usd)
        if rows > have:
            capacity = max(rows, 2 * have)
            self.usd = enlarged(self.usd, capacity, 0)
            self.counts = enlarged(self.counts, capacity, 0)
            self.head = enlarged(self.head, capacity, NEVER)

    def forget(self, rows: I32) -> None:
        """Nothing was ever counted in these rows."""
        self.usd[rows] = 0
        self.counts[rows] = 0
        self.head[rows] = NEVER

    def snapshot(self) -> Snapshot:
        return {"usd": self.usd[: self.rows], "counts": self.counts[: self.rows], "head": self.head[: self.rows]}

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        alike(snapshot, "usd", "counts", "head")
        self.rows = len(snapshot["usd"])
        room = self.rows // 4
        self.usd = array(snapshot, "usd", np.int64, SLOTS, room=room)
        self.counts = array(snapshot, "counts", np.uint32, SLOTS, len(COUNTS), room=room)
        self.head = array(snapshot, "head", np.int64, 3, room=room)
        self.head[self.rows :] = NEVER

    def add(self, rows: I32, sums: I64, slots: I64) -> None:
        """Add the sums (rows x MEASURES) of each row's 5-s slot to the rings of `rows`."""
        add_rows(self.usd, self.counts, self.head, rows, sums, slots)

    def windows(self, rows: I32, slots: I64) -> tuple[I64, I64]:
        """Nano-dollars over WINDOWS and over RECENT, ending with each row's 5-s slot: two arrays, rows x 5."""
        windows = np.empty((len(rows), len(WINDOWS)), np.int64)
        recent = np.empty_like(windows)
        sum_windows(self.usd, self.head, rows, slots, windows, recent)
        return windows, recent

    def spent(self, row: int, slot: int, window: Ms) -> int:
        """Nano-dollars of one row over one window ending with 5-s slot `slot`."""
        return int(_window(self.usd, self.head, row, slot, window))

    def onset(self, row: int, slot: int, window: Ms, rate: float) -> Ms:
        """Start of the oldest slot within the window in which the row spent at `rate` nano-dollars a second or more."""
        newest_end = (slot + 1) * SLICE
        for ring in (1, 0):
            span, length, newest = int(SPANS[ring]), int(LENGTHS[ring]), int(self.head[row, ring])
            reach = (newest_end - window) // span if ring else max((newest_end - window) // span, newest - length + 1)
            for s in range(max(reach, newest - length + 1), newest + 1):
                if self.usd[row, BASES[ring] + s % length] < rate * span / 1000:
                    continue
                if ring and s >= newest - 1:
                    break
                return s * span
        return slot * SLICE


def enlarged(column: np.ndarray, rows: int, fill: int | float) -> np.ndarray:
    """A copy of `column` with `rows` rows, the new ones filled; rows of zeros take no memory until they are used."""
    out = np.zeros((rows, *column.shape[1:]), column.dtype)
    out[: len(column)] = column
    if fill:
        out[len(column) :] = fill
    return out


class OpenPanes:
    """Sums of the slices that the clock has not closed yet, one arena row per (slice, key)."""

    def __init__(self, capacity: int = 64) -> None:
        self.arena = np.zeros((1024, MEASURES), np.int64)
        self.keys = np.zeros(1024, np.int32)
        self.slots = np.zeros(1024, np.int64)
        self.index = np.full((OPEN_SLOTS, capacity), -1, np.int32)
        self.used = 0

    def grow(self, keys: int, calls: int) -> None:
        """Make room for `keys` keys and for `calls` more calls."""
        if keys > self.index.shape[1]:
            index = np.full((OPEN_SLOTS, max(keys, 2 * self.index.shape[1])), -1, np.int32)
            index[:, : self.index.shape[1]] = self.index
            self.index = index
        if self.used + calls > len(self.arena):
            rows = max(self.used + calls, 2 * len(self.arena))
            self.arena, self.keys, self.slots = (enlarged(a, rows, 0) for a in (self.arena, self.keys, self.slots))

    def snapshot(self) -> Snapshot:
        return {"sums": self.arena[: self.used], "keys": self.keys[: self.used], "slots": self.slots[: self.used]}

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        if "arena" in snapshot:
            snapshot = snapshot | {"sums": array(snapshot, "arena", np.int64, MEASURES)[:, BEFORE]}
        self.arena = array(snapshot, "sums", np.int64, MEASURES)
        self.keys = array(snapshot, "keys", np.int32)
        self.slots = array(snapshot, "slots", np.int64)
        alike(snapshot, "sums", "keys", "slots")
        if (self.keys < 0).any():
            raise BadCheckpoint("an open pane has a key below 0")
        self.used = len(self.keys)
        self.grow(int(self.keys.max(initial=-1)) + 1, 0)
        self.index[:] = -1
        self.index[self.slots % OPEN_SLOTS, self.keys] = np.arange(self.used)

    def next_due(self, tenant_of: I32, graces: Graces, slot: int, end: int) -> int:
        """The partition's first slot from `slot` on at which anything closes; `end` where nothing does before."""
        return int(next_due(self.keys, self.slots, self.used, tenant_of, graces.tenants, slot, end))

    def take(self, tenant_of: I32, graces: Graces, slot: int) -> tuple[I32, I64, I64]:
        """Close what is due with the partition's `slot`: keys, each with its own slice and sums (rows x MEASURES)."""
        keys, slots = np.empty(self.used, np.int32), np.empty(self.used, np.int64)
        sums = np.empty((self.used, MEASURES), np.int64)
        open_rows = (self.arena, self.keys, self.slots, self.used, self.index)
        taken, self.used = take_due(*open_rows, tenant_of, graces.tenants, slot, keys, slots, sums)
        return keys[:taken], slots[:taken], sums[:taken]
