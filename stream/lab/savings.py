"""What the orders of a backtest would have saved, and what they would have cost.

A backtest's throttle stops nothing: the calls are in the record. So we count, minute by minute while an order was applied,
`strength` times the burn as saved and `strength` times everything else that the key spent as harm. The burn is what was
spent over the key's expected rate when the order was applied; where labels say what was injected, it is that, and an order
where nothing was to be refused (background, a look-alike, something that only wanted telling) has no burn: all is harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.batch import I64, NANO, Ms
from schemas.incidents import News
from schemas.orders import Order
from schemas.signals import WHOLE_TENANT, Evidence
from stream.lab.labels import Label, Labels
from stream.lab.spending import Spent

F64 = NDArray[np.float64]
MINUTE: Ms = 60_000


@dataclass(frozen=True, slots=True)
class Refused:
    """USD that an order would have refused: `saved` was burn, `harm` was not. `false`: it should never have been applied."""

    order: Order
    saved: float
    harm: float
    false: bool


@dataclass(frozen=True, slots=True)
class Balance:
    """USD saved, less what ordinary spend the right orders refused (`harm`) and all that the false ones did."""

    saved: float
    harm: float
    false_harm: float
    false_orders: int

    @property
    def net(self) -> float:
        return self.saved - self.harm - self.false_harm


class Minutes:
    """What an entity spent, minute by minute."""

    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._rows = {name: row for row, name in enumerate(spent.names)}

    def of(self, tenant: str, key_id: str) -> tuple[I64, F64]:
        """(epoch minutes, USD in each) of a key, of a whole tenant, or of everybody."""
        if key_id != WHOLE_TENANT:
            row = self._rows.get((tenant, key_id))
            minutes, usd = self._spent.of_key(row) if row is not None else (np.empty(0, np.int64),) * 2
            return minutes, usd / NANO
        mine = np.array([tenant in (name[0], WHOLE_TENANT) for name in self._spent.names], np.bool_)[self._spent.key]
        minutes, which = np.unique(self._spent.minute[mine], return_inverse=True)
        return minutes, np.bincount(which, self._spent.usd[mine], len(minutes)) / NANO


def per_minute(evidence: Evidence) -> float:
    """The expected rate, USD a minute."""
    return evidence.expected * MINUTE / evidence.window if evidence.window else 0.0


def refusals(news: Iterable[News], minutes: Minutes, labels: Labels | None) -> list[Refused]:
    """One for every throttle that was applied, in the order of their times.

    Orders of one entity that overlap refuse a call once: the earlier one has it.
    """
    applied: dict[str, tuple[Order, Evidence]] = {}
    for one in news:
        if one.order is None or one.order.applied_at is None or one.order.action == "notify" or one.incident is None:
            continue
        at_apply = applied[one.order.id][1] if one.order.id in applied else one.incident.evidence
        applied[one.order.id] = one.order, at_apply
    found = []
    covered: dict[tuple[str, str], Ms] = {}
    for order, evidence in sorted(applied.values(), key=lambda known: (known[0].applied_at or 0, known[0].id)):
        entity = order.tenant, order.key_id
        start, end = max(order.applied_at or 0, covered.get(entity, 0)), in_force_until(order)
        covered[entity] = max(end, covered.get(entity, 0))
        found.append(_refused(order, start, end, per_minute(evidence), minutes, labels))
    return found


def in_force_until(order: Order) -> Ms:
    """When an applied order ended: the receiver lets go at the end of the lease by itself."""
    return order.expires_at if order.ended_at is None else min(order.ended_at, order.expires_at)


def balance(refused: Sequence[Refused]) -> Balance:
    """What they come to together."""
    return Balance(
        saved=sum(r.saved for r in refused),
        harm=sum(r.harm for r in refused if not r.false),
        false_harm=sum(r.harm for r in refused if r.false),
        false_orders=sum(r.false for r in refused),
    )


def wants_refusing(label: Label) -> bool:
    """Whether refusing calls is right about it."""
    return not label.lookalike and label.action not in ("none", "notify")


def _refused(order: Order, start: Ms, end: Ms, expected: float, minutes: Minutes, labels: Labels | None) -> Refused:
    when, usd = minutes.of(order.tenant, order.key_id)
    inside = (when * MINUTE < end) & ((when + 1) * MINUTE > start)
    when, usd = when[inside], usd[inside]
    lo, hi = np.maximum(when * MINUTE, start), np.minimum((when + 1) * MINUTE, end)
    share = (hi - lo) / MINUTE
    spent = float((usd * share).sum())
    if labels is None:
        burn, false = float((np.maximum(usd - expected, 0) * share).sum()), False
    else:
        about = [
            label
            for label in labels.labels
            if wants_refusing(label)
            and label.concerns(order.tenant, order.key_id)
            and label.start * 1000 < end
            and label.end * 1000 > start
        ]
        injected = sum(_injected(label, order, lo, hi, when, usd, minutes) for label in about)
        burn, false = min(injected, spent), not about
    return Refused(order, order.strength * burn, order.strength * (spent - burn), false)


def _injected(label: Label, order: Order, lo: I64, hi: I64, when: I64, usd: F64, minutes: Minutes) -> float:
    """USD that the label put into these minutes of the entity: of every minute as large a part as of its keys' spend."""
    if not label.curve:
        return 0.0
    times, so_far = np.array(label.curve).T
    injected = np.diff(np.interp(np.stack([lo, hi]) / 1000, times, so_far, left=0.0), axis=0)[0]
    if order.key_id == WHOLE_TENANT:
        return float(injected.sum())
    together = np.zeros(len(when))
    for key_id in label.key_ids:
        minute, spent = minutes.of(label.tenant, key_id)
        _, here, there = np.intersect1d(when, minute, assume_unique=True, return_indices=True)
        together[here] += spent[there]
    return float((injected * np.divide(usd, together, out=np.zeros(len(when)), where=together > 0)).sum())
