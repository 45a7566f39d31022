"""An account: everything that one incident of a backtest came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.batch import F64, I64, Ms
from schemas.incidents import Incident, News
from schemas.signals import WHOLE_TENANT
from stream.lab.labels import Label, Labels
from stream.lab.savings import Minutes, Refused, per_minute
from stream.windows import MINUTE

AROUND: Ms = 20 * MINUTE
"""At least so much before and after an incident belongs to its account."""


@dataclass(frozen=True, slots=True)
class Account:
    """`news` in time order, from `opened` on; `last` is the incident as it was last heard of.

    It lasted from `began` to `until`: when it was resolved, else the end of the record. `minutes` and `usd` are what the
    entity spent then and around it, `shown` from when to when; `normal` is what it was expected to spend a minute.
    `labels` are what it may really have been.
    """

    opened: Incident
    last: Incident
    news: tuple[News, ...]
    began: Ms
    until: Ms
    shown: tuple[Ms, Ms]
    minutes: I64
    usd: F64
    normal: float
    refused: tuple[Refused, ...]
    labels: tuple[Label, ...]

    @property
    def about_money(self) -> bool:
        """False: it is about what we are told, not about spend."""
        return self.opened.family != "data"

    @property
    def noticed_at(self) -> Ms:
        return self.news[0].at

    @property
    def told(self) -> bool:
        return any(news.what == "notified" for news in self.news)

    @property
    def acted(self) -> bool:
        return any(news.what == "throttle_applied" for news in self.news)

    @property
    def observed(self) -> float:
        """USD while it lasted, in whole minutes."""
        return float(self.usd[self._lasting()].sum())

    @property
    def over(self) -> float:
        """USD over normal while it lasted."""
        return float(self.over_by_minute()[1].sum())

    def over_by_minute(self) -> tuple[I64, F64]:
        """(epoch minutes, USD over normal in each) while it lasted."""
        lasting = self._lasting()
        return self.minutes[lasting], np.maximum(self.usd[lasting] - self.normal, 0)

    def over_by(self, at: Ms) -> float:
        """USD over normal from its beginning until then; a minute's dollars are spread evenly over it."""
        minutes, over = self.over_by_minute()
        ends = np.concatenate([[self.began], (minutes + 1) * MINUTE])
        return float(np.interp(at, ends, np.concatenate([[0.0], np.cumsum(over)]))) if len(minutes) else 0.0

    def _lasting(self) -> slice:
        lo, hi = np.searchsorted(self.minutes, [self.began // MINUTE, -(-self.until // MINUTE)])
        return slice(int(lo), int(hi))


def accounts(
    news: Iterable[News], minutes: Minutes, refused: Sequence[Refused], labels: Labels | None, end: Ms
) -> list[Account]:
    """One for every incident, dearest first. The record ends at `end`."""
    told: dict[str, list[News]] = {}
    orders: dict[str, list[Refused]] = {}
    for each in refused:
        orders.setdefault(each.order.incident, []).append(each)
    for one in news:
        about = one.incident.id if one.incident is not None else one.order.incident if one.order is not None else None
        if about is not None:
            told.setdefault(about, []).append(one)
    found = [_account(tuple(mine), minutes, orders.get(about, ()), labels, end) for about, mine in told.items()]
    return sorted(found, key=lambda account: (-account.over, account.began, account.opened.id))


def over_normal(of: Sequence[Account]) -> dict[tuple[str, int], float]:
    """USD over normal of (tenant, epoch minute), whichever incidents it is in: no dollar counts twice."""
    keys: dict[tuple[str, str, int], float] = {}
    for account in of:
        if account.about_money:
            for minute, usd in zip(*account.over_by_minute(), strict=True):
                place = account.opened.tenant, account.opened.key_id, int(minute)
                keys[place] = max(keys.get(place, 0.0), float(usd))
    tenants: dict[tuple[str, int], float] = {}
    for (tenant, key_id, minute), usd in keys.items():
        if key_id != WHOLE_TENANT:
            tenants[tenant, minute] = tenants.get((tenant, minute), 0.0) + usd
    for (tenant, key_id, minute), usd in keys.items():
        if key_id == WHOLE_TENANT:
            tenants[tenant, minute] = max(tenants.get((tenant, minute), 0.0), usd)
    return tenants


def missed(labels: Labels, of: Sequence[Account]) -> list[Label]:
    """The material incidents of the scored part that no account is about, dearest first."""
    seen = {label.id for account in of for label in account.labels}
    scored = [label for label in labels.labels if labels.scored_from <= label.start < labels.until]
    unseen = [label for label in scored if label.material and not label.lookalike and label.id not in seen]
    return sorted(unseen, key=lambda label: (-label.usd, label.id))


def _account(news: tuple[News, ...], minutes: Minutes, refused: Sequence[Refused], labels: Labels | None, end: Ms) -> Account:
    known = [one.incident for one in news if one.incident is not None]
    opened, last = known[0], known[-1]
    began = opened.evidence.since
    until = last.resolved_at if last.resolved_at is not None else max(end, news[-1].at)
    data = opened.family == "data"
    around = max(AROUND, (until - began) // 2)
    when, usd = (np.empty(0, np.int64), np.empty(0)) if data else minutes.of(opened.tenant, opened.key_id)
    shown = (began - around, until + around)
    lo, hi = np.searchsorted(when, np.array(shown) // MINUTE)
    return Account(
        opened=opened,
        last=last,
        news=news,
        began=began,
        until=until,
        shown=shown,
        minutes=when[lo:hi].copy(),
        usd=usd[lo:hi].copy(),
        normal=0.0 if data else per_minute(opened.evidence),
        refused=tuple(refused),
        labels=() if labels is None else _about(labels, opened, began, until),
    )


def _about(labels: Labels, incident: Incident, began: Ms, until: Ms) -> tuple[Label, ...]:
    """The labels that an incident overlaps with, real ones first, then those with the longest overlap."""

    def overlap(label: Label) -> float:
        return min(label.end, until / 1000) - max(label.start, began / 1000)

    about = [x for x in labels.labels if x.concerns(incident.tenant, incident.key_id) and overlap(x) > 0]
    return tuple(sorted(about, key=lambda label: (label.lookalike, -overlap(label), label.id)))
