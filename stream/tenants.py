"""What every tenant spends, put together from the pulses of all partitions."""

from __future__ import annotations

from schemas.batch import SLICE, Ms
from schemas.pulse import Pulse
from stream.windows import COUNTS, Meter, slot_of


class TenantMeters:
    """Tenants' windows over all partitions. A pulse sets absolute values, so hearing one twice changes nothing."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._rows: dict[tuple[int, str], int] = {}
        self._clock: Ms = 0

    def fold(self, pulse: Pulse) -> None:
        """Set every slot that the pulse names; slots that the rings no longer reach are dropped."""
        self._clock = max(self._clock, pulse.clock)
        slots = pulse.tenants
        rows = [self._rows.setdefault((pulse.partition, name[0]), len(self._rows)) for name in slots.names]
        self._meter.grow(len(self._rows))
        m = self._meter
        for entity, ring, slot, usd, counts in zip(
            slots.entity.tolist(), slots.ring.tolist(), slots.slot.tolist(), slots.usd, slots.counts, strict=True
        ):
            column = slot_of(m.usd, m.counts, m.head, rows[entity], ring, slot)
            if column >= 0:
                m.usd[rows[entity], column] = usd
                m.counts[rows[entity], column, : len(COUNTS)] = counts

    def spent(self, window: Ms) -> dict[str, int]:
        """Nano-dollars per tenant over a window that ends with the newest pane, dearest first."""
        slot = self._clock // SLICE - 1
        total: dict[str, int] = {}
        for (_, tenant), row in self._rows.items():
            total[tenant] = total.get(tenant, 0) + self._meter.spent(row, slot, window)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
