"""What the report's charts show, and the tables that say the same in numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.batch import F64, I64, NANO, Ms
from stream.lab import charts, prose
from stream.lab.accounts import Account
from stream.lab.charts import Span, Word
from stream.lab.labels import Label, Labels
from stream.lab.savings import in_force_until
from stream.lab.spending import Spent
from stream.lab.tables import Table
from stream.windows import MINUTE

STORIES = 12
"""How many incidents are told at length, dearest first."""
TENANTS = 5
"""How many tenants have a shade of their own."""
MOST_ROWS = 60
"""The longest table."""
DAY: Ms = 86_400_000
Over = Mapping[tuple[str, int], float]
"""USD over normal by (tenant, epoch minute)."""


@dataclass(frozen=True, slots=True)
class Shade:
    """One layer of a stacked chart."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A strip under a chart: when something was."""

    name: str
    style: str
    path: str
    links: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows, as the template draws it; `label` says it in words to those who do not see it."""

    label: str
    each: str
    shades: tuple[Shade, ...]
    heights: tuple[Word, ...]
    times: tuple[Word, ...]
    bands: str = ""
    marks: tuple[Word, ...] = ()
    expected: float | None = None
    lanes: tuple[Lane, ...] = ()


def overview(
    spent: Spent, found: Sequence[Account], over: Over, labels: Labels | None, start: Ms, end: Ms
) -> tuple[Chart, Chart]:
    """Everything with the burn on top, and the ordinary spend alone by tenant."""
    shown = charts.span(start, end)
    burn = shown.sums([minute for _, minute in over], list(over.values()))
    ordinary = _ordinary_by_tenant(spent, over, shown)
    together = np.sum([usd for _, usd in ordinary], axis=0)
    each = prose.each(shown.step)
    spans = [(account.began, account.until) for account in found]
    most = float((together + burn).max())
    both = Chart(
        label=f"USD per {each}: ordinary spend, and on top of it what was over normal; at most {prose.dollars(most)}.",
        each=each,
        shades=_stack([("ordinary", together), ("over normal", burn)], charts.ceiling(most)),
        heights=_heights(charts.ceiling(most)),
        times=tuple(charts.times(shown)),
        bands=charts.bands(spans, shown),
        lanes=_lanes(found, labels, shown),
    )
    top = charts.ceiling(float(together.max()))
    alone = Chart(
        label=f"Ordinary USD per {each} by tenant, without what was over normal.",
        each=each,
        shades=_stack(ordinary, top),
        heights=_heights(top),
        times=both.times,
    )
    return both, alone


def _lanes(found: Sequence[Account], labels: Labels | None, shown: Span) -> tuple[Lane, ...]:
    links: list[Word] = []
    for n, account in enumerate(found[:STORIES], 1):
        at = shown.percent(account.began)
        if all(abs(at - word.at) >= charts.NEAR for word in links):
            links.append(Word(at, str(n)))
    noticed = charts.bands([(account.began, account.until) for account in found], shown)
    planted = () if labels is None else _planted(labels.labels, shown)
    return Lane("noticed", "noticed", noticed, tuple(links)), *planted


def _planted(labels: Sequence[Label], shown: Span) -> tuple[Lane, Lane]:
    real, alike = ([(x.start * 1000, x.end * 1000) for x in labels if x.lookalike == wanted] for wanted in (False, True))
    return (
        Lane("planted incidents", "planted", charts.bands(real, shown)),
        Lane("planted look-alikes", "alike", charts.bands(alike, shown)),
    )


def _ordinary_by_tenant(spent: Spent, over: Over, shown: Span) -> list[tuple[str, F64]]:
    """The dearest tenants and the rest, each without what was over normal."""
    names, tenant_of = _tenants(spent)
    number = {name: n for n, name in enumerate(names)}
    burnt = [(number[tenant], minute, -usd) for (tenant, minute), usd in over.items()]
    who, when, usd = np.array(burnt).T if burnt else np.empty((3, 0))
    place = shown.places(np.concatenate([spent.minute, when.astype(np.int64)]))
    flat = np.concatenate([tenant_of, who.astype(np.int64)]) * shown.buckets + place
    sums = np.bincount(flat[place >= 0], np.concatenate([spent.usd / NANO, usd])[place >= 0], len(names) * shown.buckets)
    rows = np.maximum(sums.reshape(len(names), shown.buckets), 0)
    dearest = sorted(range(len(names)), key=lambda n: (-float(rows[n].sum()), names[n]))
    layers = [(prose.name(names[n]), rows[n]) for n in dearest[:TENANTS]]
    others = dearest[TENANTS:]
    return [*layers, (prose.counted(len(others), "other tenant"), rows[others].sum(axis=0))] if others else layers


def _tenants(spent: Spent) -> tuple[list[str], I64]:
    """The tenants by name, and which of them each row of `spent` is of."""
    names = sorted({tenant for tenant, _ in spent.names})
    number = {tenant: n for n, tenant in enumerate(names)}
    return names, np.array([number[tenant] for tenant, _ in spent.names], np.int64)[spent.key]


def _stack(layers: Sequence[tuple[str, F64]], top: float) -> tuple[Shade, ...]:
    lower = np.zeros(len(layers[0][1]))
    shades = []
    for name, usd in layers:
        shades.append(Shade(name, charts.area(lower + usd, lower, top)))
        lower = lower + usd
    return tuple(shades)


def _heights(top: float) -> tuple[Word, ...]:
    """Round amounts up the side, in percent from below."""
    return tuple(Word(100 * part, f"${_round(top * part)}") for part in (0, 0.5, 1))


def _round(usd: float) -> str:
    """As few digits as it needs, cents in full."""
    if usd == int(usd):
        return f"{usd:,.0f}"
    return f"{usd:,.2f}" if round(usd, 2) == usd else f"{usd:,.10g}"


def evidence(account: Account) -> Chart | None:
    """What the entity spent a minute around the incident, and the moments in it."""
    if not account.about_money or not len(account.minutes):
        return None
    shown = charts.span(*account.shown)
    rate = shown.sums(account.minutes, account.usd) * MINUTE / shown.step
    minutes, over = account.over_by_minute()
    burn = shown.sums(minutes, over) * MINUTE / shown.step
    most = max(float(rate.max()), account.normal)
    top = charts.ceiling(most)
    orders = [(refused.order.applied_at or 0, in_force_until(refused.order)) for refused in account.refused]
    throttled = [Lane("throttled", "applied", charts.bands(orders, shown))] if orders else []
    planted = [lane for lane in _planted(account.labels, shown) if lane.path]
    marks = [Word(shown.percent(m.at), m.mark) for m in prose.moments(account) if m.mark]
    return Chart(
        label=f"USD a minute of {prose.who(account)} around the incident: at most {prose.dollars(most)}, "
        f"{prose.dollars(account.normal)} expected.",
        each=prose.each(shown.step),
        shades=_stack([("ordinary", rate - burn), ("over normal", burn)], top),
        heights=_heights(top),
        times=tuple(charts.times(shown)),
        bands=charts.bands([(account.began, account.until)], shown),
        marks=tuple(charts.apart(marks)),
        expected=charts.level(account.normal, top),
        lanes=(*throttled, *planted),
    )


def by_day(spent: Spent, found: Sequence[Account], over: Over) -> Table:
    """What each day came to, the newest MOST_ROWS of them."""
    days, which = np.unique(spent.minute * MINUTE // DAY, return_inverse=True)
    usd, calls = (np.bincount(which, column, len(days)) for column in (spent.usd / NANO, spent.calls))
    burnt: defaultdict[int, float] = defaultdict(float)
    for (_, minute), burn in over.items():
        burnt[minute * MINUTE // DAY] += burn
    began = Counter(account.began // DAY for account in found)
    rows = [
        (prose.day(d * DAY), f"{int(c):,}", prose.dollars(float(u)), prose.dollars(burnt[d]), str(began[d]))
        for d, c, u in zip(days.tolist(), calls, usd, strict=True)
    ]
    title = f"The last {MOST_ROWS} of {len(rows)} days" if len(rows) > MOST_ROWS else "By day"
    return Table(title, ("day, UTC", "calls", "USD", "over normal", "incidents"), tuple(rows[-MOST_ROWS:]))


def by_tenant(spent: Spent, found: Sequence[Account], over: Over) -> Table:
    """What each tenant came to, the dearest MOST_ROWS of them."""
    names, tenant_of = _tenants(spent)
    usd, calls = (np.bincount(tenant_of, column, len(names)) for column in (spent.usd / NANO, spent.calls))
    keys = Counter(tenant for tenant, _ in spent.names)
    burnt: defaultdict[str, float] = defaultdict(float)
    for (tenant, _), burn in over.items():
        burnt[tenant] += burn
    began = Counter(account.opened.tenant for account in found)
    rows = [
        (prose.name(t), f"{keys[t]:,}", f"{int(c):,}", prose.dollars(u), prose.dollars(burnt[t]), str(began[t]))
        for t, c, u in sorted(zip(names, calls, usd.tolist(), strict=True), key=lambda row: (-row[2], row[0]))
    ]
    title = f"The dearest {MOST_ROWS} of {len(rows)} tenants" if len(rows) > MOST_ROWS else "By tenant"
    return Table(title, ("tenant", "keys", "calls", "USD", "over normal", "incidents"), tuple(rows[:MOST_ROWS]))
