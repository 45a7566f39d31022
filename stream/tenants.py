"""What every tenant spends, put together from the pulses of all partitions."""

from __future__ import annotations

from itertools import compress

import numpy as np

from schemas.batch import SLICE, Ms
from schemas.pulse import Pulse
from schemas.snapshot import BadCheckpoint, Snapshot, array, joined, number, of_numbers, of_texts, part, texts
from stream.rows import EMPTY
from stream.windows import HOUR, Meter, raise_slots


class TenantMeters:
    """Tenants' windows over all partitions, whatever the order of their pulses and however often each is heard.

    A pulse has absolute values, and a slot's value only grows as more of the log is folded: the largest is the newest. A
    worker that was frozen and wakes, or one that goes on at a checkpoint, says older values after newer ones. At the end
    of an hour those of which nobody said anything for 25 hours are forgotten: all their windows are empty.
    """

    def __init__(self) -> None:
        self._meter = Meter()
        self._rows: dict[tuple[int, str], int] = {}
        self._clock: Ms = 0

    def fold(self, pulse: Pulse) -> None:
        """Raise every slot that the pulse names; slots that the rings no longer reach are dropped."""
        before, self._clock = self._clock, max(self._clock, pulse.clock)
        if self._clock // HOUR > before // HOUR:
            self._forget()
        slots = pulse.tenants
        rows = np.array(
            [self._rows.setdefault((pulse.partition, name[0]), len(self._rows)) for name in slots.names], np.int64
        )
        self._meter.grow(len(self._rows))
        m = self._meter
        raise_slots(m.usd, m.counts, m.head, rows[slots.entity], slots.ring, slots.slot, slots.usd, slots.counts)

    def _forget(self) -> None:
        heard = self._meter.head[: len(self._rows), 2] * HOUR > self._clock - EMPTY
        if not heard.all():
            self._rows = {name: row for row, name in enumerate(compress(self._rows, heard.tolist()))}
            self._meter.restore({name: column[heard] for name, column in self._meter.snapshot().items()})

    def snapshot(self) -> Snapshot:
        rows: Snapshot = {
            "partition": np.array([partition for partition, _ in self._rows], np.int32),
            "tenant": of_texts(tenant for _, tenant in self._rows),
        }
        return rows | of_numbers(clock=self._clock) | joined(meter=self._meter.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        partitions, tenants = array(snapshot, "partition", np.int32).tolist(), texts(snapshot, "tenant")
        self._meter.restore(part(snapshot, "meter"))
        if not len(partitions) == len(tenants) == self._meter.rows:
            raise BadCheckpoint(f"{len(partitions)} partitions, {len(tenants)} tenants, {self._meter.rows} windows")
        self._rows = {name: row for row, name in enumerate(zip(partitions, tenants, strict=True))}
        self._clock = number(snapshot, "clock")

    def spent(self, window: Ms) -> dict[str, int]:
        """Nano-dollars per tenant that spent, over a window that ends with the newest pane, dearest first."""
        slot = self._clock // SLICE - 1
        total: dict[str, int] = {}
        for (_, tenant), row in self._rows.items():
            total[tenant] = total.get(tenant, 0) + self._meter.spent(row, slot, window)
        spent = ((tenant, usd) for tenant, usd in total.items() if usd)
        return dict(sorted(spent, key=lambda item: (-item[1], item[0])))
