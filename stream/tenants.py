"""What every tenant spends, put together from the pulses of all partitions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress

import numpy as np

from schemas.batch import SLICE, Ms
from schemas.pulse import Pulse
from schemas.snapshot import BadCheckpoint, Snapshot, array, joined, number, of_numbers, of_texts, part, texts
from stream.readings import Readings
from stream.rows import EMPTY
from stream.windows import HOUR, Meter, raise_slots


class Behind:
    """How far behind its partition's clock the slices of a tenant close; the word of the newest pulse about it holds."""

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Ms]] = {}
        self._said: dict[tuple[int, str], Ms] = {}

    def fold(self, pulse: Pulse) -> None:
        """Note the grace of every tenant that the pulse names; one that was never said to have any has none."""
        slots, of = pulse.tenants, self._of.setdefault(pulse.partition, {})
        if not of and not slots.grace.any():
            return
        for (tenant, *_), grace in zip(slots.names, slots.grace.tolist(), strict=True):
            place = pulse.partition, tenant
            if (grace or place in self._said) and pulse.clock >= self._said.get(place, 0):
                self._said[place] = pulse.clock
                of[tenant] = grace * SLICE

    def behind(self, partition: int) -> Mapping[str, Ms]:
        """The tenants of a partition that are behind, or once were, and how far."""
        return self._of.get(partition, {})

    def forget(self, before: Ms) -> None:
        """Tenants of whom nothing was said since then."""
        for partition, tenant in [place for place, said in self._said.items() if said <= before]:
            del self._said[partition, tenant], self._of[partition][tenant]

    def snapshot(self) -> Snapshot:
        return {
            "partition": np.array([partition for partition, _ in self._said], np.int32),
            "tenant": of_texts(tenant for _, tenant in self._said),
            "said": np.array(list(self._said.values()), np.int64),
            "behind": np.array([self._of[partition][tenant] for partition, tenant in self._said], np.int64),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Nobody is behind where there is no snapshot. Raises BadCheckpoint."""
        if not snapshot:
            return
        partitions, tenants = array(snapshot, "partition", np.int32).tolist(), texts(snapshot, "tenant")
        said, behind = (array(snapshot, name, np.int64).tolist() for name in ("said", "behind"))
        if len({len(partitions), len(said), len(behind), len(tenants)}) > 1:
            raise BadCheckpoint("the tenants that are behind have columns of different lengths")
        for partition, tenant, clock, late in zip(partitions, tenants, said, behind, strict=True):
            self._said[partition, tenant] = clock
            self._of.setdefault(partition, {})[tenant] = late


class TenantMeters:
    """Tenants' windows over all partitions, whatever the order of their pulses and however often each is heard.

    A pulse has absolute values, and a slot's value only grows as more of the log is folded: the largest is the newest. A
    worker that was frozen and wakes, or one that goes on at a checkpoint, says older values after newer ones. At the end
    of an hour those of which nobody said anything for 49 hours are forgotten: all their meters are empty.
    """

    def __init__(self) -> None:
        self._meter = Meter()
        self._rows: dict[tuple[int, str], int] = {}
        self._clock: Ms = 0
        self._behind = Behind()
        self.readings = Readings()

    def fold(self, pulse: Pulse) -> None:
        """Raise every slot that the pulse names; slots that the rings no longer reach are dropped."""
        before, self._clock = self._clock, max(self._clock, pulse.clock)
        if self._clock // HOUR > before // HOUR:
            self._forget()
            self._behind.forget(self._clock - EMPTY)
            self.readings.tidy(self._clock)
        self._behind.fold(pulse)
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
        parts = joined(meter=self._meter.snapshot(), behind=self._behind.snapshot(), readings=self.readings.snapshot())
        return rows | of_numbers(clock=self._clock) | parts

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        partitions, tenants = array(snapshot, "partition", np.int32).tolist(), texts(snapshot, "tenant")
        self._meter.restore(part(snapshot, "meter"))
        if not len(partitions) == len(tenants) == self._meter.rows:
            raise BadCheckpoint(f"{len(partitions)} partitions, {len(tenants)} tenants, {self._meter.rows} windows")
        self._rows = {name: row for row, name in enumerate(zip(partitions, tenants, strict=True))}
        self._clock = number(snapshot, "clock")
        self._behind.restore(part(snapshot, "behind"))
        self.readings.restore(part(snapshot, "readings"))

    @property
    def clock(self) -> Ms:
        """The end of the newest pane; 0 before the first."""
        return self._clock

    def behind(self, partition: int) -> Mapping[str, Ms]:
        """The tenants of a partition that are behind its clock, or once were, and how far."""
        return self._behind.behind(partition)

    def spent(self, window: Ms) -> dict[str, int]:
        """Nano-dollars per tenant that spent, over a window that ends with the newest pane, dearest first.

        Where a tenant's slices close later than its partition's panes, its window ends with its own newest one.
        """
        total: dict[str, int] = {}
        for (partition, tenant), row in self._rows.items():
            slot = (self._clock - self.behind(partition).get(tenant, 0)) // SLICE - 1
            total[tenant] = total.get(tenant, 0) + self._meter.spent(row, slot, window)
        spent = ((tenant, usd) for tenant, usd in total.items() if usd)
        return dict(sorted(spent, key=lambda item: (-item[1], item[0])))
