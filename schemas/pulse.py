"""What a partition says of itself and its tenants at every closed pane: absolute values that only grow; the largest holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from schemas.batch import I8, I32, I64, Ms

PART_BYTES = 500_000
PULSE = b"pulse"
"""The record key of a part of a pulse on its topic."""
RINGS, COUNTS = 3, 6
MOST = 2**62
"""No slot number, sum or count of a pulse is so large."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Slots that changed, one row each: whose (`entity`, an index into `names`), which, and what they now hold.

    `ring` is 0 (5 s), 1 (1 min) or 2 (1 h); `slot` the absolute number of the slot (epoch time / its span);
    `usd` nano-dollars; `counts` rows x 6 (calls, fresh, cached, cache-write, output, reasoning tokens).
    `grace` has one row for each of `names`: so many slices of 5 s its newest closed one may be older than the pulse's.
    """

    names: tuple[tuple[str, ...], ...]
    entity: I32
    ring: I32
    slot: I64
    usd: I64
    counts: I64
    grace: I8

    def __len__(self) -> int:
        return len(self.entity)

    def rows(self, lo: int, hi: int) -> Slots:
        """Rows lo..hi-1, with the names that they use."""
        used, entity = np.unique(self.entity[lo:hi], return_inverse=True)
        return Slots(
            tuple(self.names[int(u)] for u in used),
            entity.astype(np.int32),
            self.ring[lo:hi],
            self.slot[lo:hi],
            self.usd[lo:hi],
            self.counts[lo:hi],
            self.grace[used],
        )


@dataclass(frozen=True, slots=True)
class Pulse:
    """One partition at the end of one pane.

    `clock` is the end of the pane (Ms), `covered` the position of the last call folded before it closed;
    `counters` are totals since the start (calls, unique, duplicate, late, skewed, usd in nano-dollars);
    `tenants` and `keys` the slots that changed (keys: with an open episode, and the 100 dearest of the pane);
    `burning` the (tenant, key_id) whose open episode still burned in this pane, or, while their tenant waits for its next
    slice to close, in the last one.
    """

    partition: int
    clock: Ms
    covered: int
    counters: dict[str, int]
    tenants: Slots
    keys: Slots
    burning: tuple[tuple[str, str], ...]

    def parts(self, limit: int = PART_BYTES) -> Iterator[bytes]:
        """The pulse as messages of at most `limit` bytes; each stands alone, in any order.

        Raises ValueError where even one row does not fit.
        """
        message = msgspec.msgpack.encode(_wire(self))
        if len(message) <= limit:
            yield message
            return
        half, rest = self._halves()
        yield from half.parts(limit)
        yield from rest.parts(limit)

    def _halves(self) -> tuple[Pulse, Pulse]:
        t, k, b = len(self.tenants), len(self.keys), len(self.burning)
        if t + k + b <= 1:
            raise ValueError("one row of a pulse is larger than a part may be")
        cut = (t + 1) // 2, (k + 1) // 2, (b + 1) // 2
        if max(t, k, b) <= 1:
            cut = (t, 0, 0) if t else (0, k, 0)
        first = replace(
            self,
            tenants=self.tenants.rows(0, cut[0]),
            keys=self.keys.rows(0, cut[1]),
            burning=self.burning[: cut[2]],
        )
        second = replace(
            self,
            tenants=self.tenants.rows(cut[0], t),
            keys=self.keys.rows(cut[1], k),
            burning=self.burning[cut[2] :],
        )
        return first, second

    @staticmethod
    def read(message: bytes) -> Pulse:
        """The pulse (or part) that `parts` wrote. Raises msgspec.DecodeError for everything else."""
        try:
            wire = msgspec.msgpack.decode(message, type=_Pulse)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(f"not a pulse: {error}") from error
        if not (0 <= wire.partition < 2**31 and 0 <= wire.clock < MOST):
            raise msgspec.ValidationError(f"a pulse of partition {wire.partition} at {wire.clock} cannot be")
        return Pulse(
            wire.partition,
            wire.clock,
            wire.covered,
            wire.counters,
            _slots(wire.tenants, 1),
            _slots(wire.keys, 2),
            wire.burning,
        )


class _Slots(msgspec.Struct, array_like=True):
    """`grace` is missing where a worker of an older version spoke."""

    names: tuple[tuple[str, ...], ...]
    entity: bytes
    ring: bytes
    slot: bytes
    usd: bytes
    counts: bytes
    grace: bytes | None = None


class _Pulse(msgspec.Struct, array_like=True):
    partition: int
    clock: int
    covered: int
    counters: dict[str, int]
    tenants: _Slots
    keys: _Slots
    burning: tuple[tuple[str, str], ...]


def _wire(pulse: Pulse) -> _Pulse:
    return _Pulse(
        pulse.partition,
        pulse.clock,
        pulse.covered,
        pulse.counters,
        _columns(pulse.tenants),
        _columns(pulse.keys),
        pulse.burning,
    )


def _columns(slots: Slots) -> _Slots:
    columns = (slots.entity, slots.ring, slots.slot, slots.usd, slots.counts, slots.grace)
    return _Slots(slots.names, *(np.ascontiguousarray(c).tobytes() for c in columns))


def _slots(wire: _Slots, parts: int) -> Slots:
    try:
        slots = Slots(
            wire.names,
            np.frombuffer(wire.entity, np.int32),
            np.frombuffer(wire.ring, np.int32),
            np.frombuffer(wire.slot, np.int64),
            np.frombuffer(wire.usd, np.int64),
            np.frombuffer(wire.counts, np.int64).reshape(-1, COUNTS),
            np.zeros(len(wire.names), np.int8) if wire.grace is None else np.frombuffer(wire.grace, np.int8),
        )
    except ValueError as error:
        raise msgspec.ValidationError(f"a column of a pulse has a wrong length: {error}") from error
    if len({len(column) for column in (slots.entity, slots.ring, slots.slot, slots.usd, slots.counts)}) > 1:
        raise msgspec.ValidationError("the columns of a pulse have different lengths")
    if len(slots.grace) != len(slots.names) or (slots.grace < 0).any():
        raise msgspec.ValidationError("a pulse says another grace than one for each name")
    if not (within(slots.entity, len(slots.names)) and within(slots.ring, RINGS) and within(slots.slot, MOST)):
        raise msgspec.ValidationError("a pulse names an entity, a ring or a slot that cannot be")
    if not (within(slots.usd, MOST) and within(slots.counts.ravel(), MOST)):
        raise msgspec.ValidationError("a pulse names a sum that cannot be")
    if not all(len(name) == parts and name[0] for name in slots.names):
        raise msgspec.ValidationError("a pulse names nobody, or a name of another number of parts")
    return slots


def within(column: I32 | I64, end: int) -> bool:
    """Whether every number is at least 0 and below `end`."""
    return not len(column) or (int(column.min()) >= 0 and int(column.max()) < end)
