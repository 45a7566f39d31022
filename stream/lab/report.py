"""The report of a backtest: one page that needs nothing but itself. The same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import islice

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.batch import NANO, Ms
from schemas.policy import Rule
from stream.lab import charts, prose
from stream.lab.accounts import Account, accounts, missed, over_normal
from stream.lab.backtest import Backtest, Played
from stream.lab.charts import Span, Word
from stream.lab.labels import Label, Labels
from stream.lab.savings import F64, MINUTE, Balance, Minutes, balance, in_force_until, refusals
from stream.lab.spending import Spent
from stream.lab.tables import Table

STORIES = 12
"""How many incidents are told at length, dearest first; the others have a line, up to LINES of them."""
LINES = 200
TENANTS = 5
"""How many tenants have a shade of their own."""
MOST_ROWS = 60
"""The longest table of days, missed incidents or rules; score tables may have LINES rows."""
DAY: Ms = 86_400_000


@dataclass(frozen=True, slots=True)
class Shade:
    """One layer of a stacked chart."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows, as the template draws it; `label` says it in words to those who do not see it."""

    label: str
    shades: tuple[Shade, ...]
    heights: tuple[Word, ...]
    times: tuple[Word, ...]
    span: Span
    bands: str = ""
    applied: str = ""
    marks: tuple[Word, ...] = ()
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """A strip under a chart: when something was."""

    name: str
    style: str
    path: str
    links: tuple[tuple[Word, str], ...] = ()


def report(
    played: Played,
    backtest: Backtest,
    source: str,
    labels: Labels | None = None,
    score: Sequence[Table] = (),
    runbooks: str = "docs/runbooks/",
) -> str:
    """The page for one of the policies of a backtest of `source`.

    It has no link that is followed by itself and stays under a megabyte: it says what it leaves out. `runbooks` is the base
    of the runbooks, as the policy's webhooks have it.
    """
    minutes = Minutes(backtest.spent)
    refused = refusals(played.news, minutes, labels)
    start, end = _range(backtest.spent)
    found = accounts(played.news, minutes, refused, labels, end)
    over = over_normal(found)
    told, lines = found[:STORIES], found[STORIES : STORIES + LINES]
    rest = found[STORIES + LINES :]
    result = balance(refused)
    page = Environment(
        loader=PackageLoader("stream.lab", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return page.get_template("report.html.j2").render(
        p=prose,
        source=prose.name(source),
        totals=backtest.totals,
        keys=len(backtest.spent.names),
        tenants=len({tenant for tenant, _ in backtest.spent.names}),
        usd=backtest.totals.usd / NANO,
        start=start,
        end=end,
        found=found,
        over=sum(over.values()),
        balance=result,
        acted=sum(account.acted for account in found),
        verdict=_verdict(found, sum(over.values()), result),
        overview=_overview(backtest.spent, found, over, labels, start, end) if len(backtest.spent.minute) else None,
        days=_days(backtest.spent, found, over, end),
        by_tenant=_by_tenant(backtest.spent, found, over),
        told=[(account, _evidence(account)) for account in told],
        lines=lines,
        rest=rest,
        labels=labels,
        missed=list(islice(missed(labels, found), MOST_ROWS)) if labels is not None else [],
        score=[Table(table.title, table.header, table.rows[:LINES]) for table in score],
        rules=played.policy.rules[:MOST_ROWS],
        runbook=lambda account: f"{runbooks}{account.opened.kind}.md",
        version=metadata.version("burnguard"),
    )


def _verdict(found: Sequence[Account], over: float, result: Balance) -> str:
    if not found:
        return "No incident: nobody would have been told anything, and nothing would have been refused."
    acted = sum(account.acted for account in found)
    burned = f"{prose.counted(len(found), 'incident')} came to {prose.dollars(over)} over normal."
    if not acted:
        return f"{burned} This policy would have told people and refused nothing."
    saved = f"and saved {prose.dollars(result.net)} net"
    if result.net < 0:
        saved = f"at a net loss of {prose.dollars(-result.net)}"
    return f"{burned} This policy would have throttled {acted} of them, {saved}."


def _range(spent: Spent) -> tuple[Ms, Ms]:
    """From the first to the end of the last minute that has a call."""
    if not len(spent.minute):
        return 0, 0
    return int(spent.minute.min()) * MINUTE, (int(spent.minute.max()) + 1) * MINUTE


def _overview(
    spent: Spent, found: Sequence[Account], over: dict[tuple[str, int], float], labels: Labels | None, start: Ms, end: Ms
) -> tuple[Chart, Chart, list[Lane], str]:
    """Everything with the burn on top, the ordinary spend alone by tenant, the lanes, and the name of a bucket."""
    shown = charts.span(start, end)
    burn = shown.sums((minute for _, minute in over), list(over.values()))
    ordinary = _ordinary_by_tenant(spent, over, shown)
    together = np.sum([usd for _, usd in ordinary], axis=0)
    bucket = prose.lasting(shown.step)
    spans = [(account.began, account.until) for account in found]
    most = float((together + burn).max())
    both = Chart(
        label=f"USD per {bucket}: ordinary spend, and on top of it what was over normal. "
        f"The highest {bucket} cost {prose.dollars(most)}.",
        shades=_stack([("ordinary", together), ("over normal", burn)], charts.ceiling(most)),
        heights=_heights(charts.ceiling(most)),
        times=tuple(charts.times(shown)),
        span=shown,
        bands=charts.bands(spans, shown),
    )
    top = charts.ceiling(float(together.max()))
    alone = Chart(
        label=f"Ordinary USD per {bucket} by tenant, without what was over normal.",
        shades=_stack(ordinary, top),
        heights=_heights(top),
        times=both.times,
        span=shown,
    )
    return both, alone, _lanes(found, labels, shown), bucket


def _lanes(found: Sequence[Account], labels: Labels | None, shown: Span) -> list[Lane]:
    links: list[tuple[Word, str]] = []
    for n, account in enumerate(found[:STORIES], 1):
        at = shown.percent(account.began)
        if all(abs(at - word.at) >= charts.NEAR for word, _ in links):
            links.append((Word(at, str(n)), f"i{n}"))
    lanes = [Lane("noticed", "noticed", charts.bands([(a.began, a.until) for a in found], shown), tuple(links))]
    for what, style, alike in (("planted incidents", "planted", False), ("planted look-alikes", "alike", True)):
        if labels is not None:
            of = [(x.start * 1000, x.end * 1000) for x in labels.labels if x.lookalike == alike]
            lanes.append(Lane(what, style, charts.bands(of, shown)))
    return lanes


def _ordinary_by_tenant(spent: Spent, over: dict[tuple[str, int], float], shown: Span) -> list[tuple[str, F64]]:
    """The dearest tenants and the rest, each without what was over normal."""
    names = sorted({tenant for tenant, _ in spent.names})
    number = {tenant: n for n, tenant in enumerate(names)}
    of_key = np.array([number[tenant] for tenant, _ in spent.names], np.int64)
    usd = spent.usd / NANO
    place = np.clip((spent.minute * MINUTE - shown.start) // shown.step, 0, shown.buckets - 1)
    flat = of_key[spent.key] * shown.buckets + place
    table = np.bincount(flat, usd, len(names) * shown.buckets).reshape(len(names), shown.buckets)
    for (tenant, minute), burn in over.items():
        at = (minute * MINUTE - shown.start) // shown.step
        if tenant in number and 0 <= at < shown.buckets:
            table[number[tenant], at] -= burn
    table = np.maximum(table, 0)
    dearest = sorted(range(len(names)), key=lambda n: (-float(table[n].sum()), names[n]))
    layers = [(prose.name(names[n]), table[n]) for n in dearest[:TENANTS]]
    others = dearest[TENANTS:]
    return [*layers, (prose.counted(len(others), "other tenant"), table[others].sum(axis=0))] if others else layers


def _stack(layers: Sequence[tuple[str, F64]], top: float) -> tuple[Shade, ...]:
    lower = np.zeros(len(layers[0][1]))
    shades = []
    for name, usd in layers:
        shades.append(Shade(name, charts.area(lower + usd, lower, top)))
        lower = lower + usd
    return tuple(shades)


def _heights(top: float) -> tuple[Word, ...]:
    """Round amounts up the side, in percent from below."""
    words = ("$0", *(f"${top * part:,.10g}" for part in (0.5, 1)))
    return tuple(Word(50.0 * n, word) for n, word in enumerate(words))


def _evidence(account: Account) -> Chart | None:
    """What the entity spent a minute around the incident, and the moments in it."""
    if not account.about_money or not len(account.minutes):
        return None
    shown = charts.span(*account.shown)
    rate = shown.sums(account.minutes.tolist(), account.usd) * MINUTE / shown.step
    most = max(float(rate.max()), account.normal)
    top = charts.ceiling(most)
    orders = [(refused.order.applied_at or 0, in_force_until(refused.order)) for refused in account.refused]
    marks = [Word(shown.percent(m.at), m.mark) for m in prose.moments(account) if m.mark]
    return Chart(
        label=f"USD a minute of {prose.who(account)} around the incident: at most {prose.dollars(most)}, "
        f"{prose.dollars(account.normal)} expected.",
        shades=_stack([("spent", rate)], top),
        heights=_heights(top),
        times=tuple(charts.times(shown)),
        span=shown,
        bands=charts.bands([(account.began, account.until)], shown),
        applied=charts.bands(orders, shown),
        marks=tuple(charts.apart(marks)),
        expected=charts.level(account.normal, top),
    )


def _days(spent: Spent, found: Sequence[Account], over: dict[tuple[str, int], float], end: Ms) -> Table:
    """What each day came to, the newest MOST_ROWS of them."""
    days, which = np.unique(spent.minute * MINUTE // DAY, return_inverse=True)
    usd, calls = (np.bincount(which, column, len(days)) for column in (spent.usd / NANO, spent.calls))
    burnt: dict[int, float] = {}
    for (_, minute), burn in over.items():
        burnt[minute * MINUTE // DAY] = burnt.get(minute * MINUTE // DAY, 0.0) + burn
    began = [account.began // DAY for account in found]
    rows = [
        (prose.day(d * DAY), f"{int(c):,}", prose.dollars(float(u)), prose.dollars(burnt.get(d, 0.0)), str(began.count(d)))
        for d, c, u in zip(days.tolist(), calls, usd, strict=True)
    ]
    title = f"The last {MOST_ROWS} of {len(rows)} days" if len(rows) > MOST_ROWS else "By day"
    return Table(title, ("day, UTC", "calls", "USD", "over normal", "incidents"), tuple(rows[-MOST_ROWS:]))


def _by_tenant(spent: Spent, found: Sequence[Account], over: dict[tuple[str, int], float]) -> Table:
    """What each tenant came to, the dearest MOST_ROWS of them."""
    names = sorted({tenant for tenant, _ in spent.names})
    number = {tenant: n for n, tenant in enumerate(names)}
    of_key = np.array([number[tenant] for tenant, _ in spent.names], np.int64)
    usd, calls = (np.bincount(of_key[spent.key], column, len(names)) for column in (spent.usd / NANO, spent.calls))
    keys = np.bincount(of_key, minlength=len(names))
    burnt: dict[str, float] = {}
    for (tenant, _), burn in over.items():
        burnt[tenant] = burnt.get(tenant, 0.0) + burn
    began = [account.opened.tenant for account in found]
    dearest = sorted(range(len(names)), key=lambda n: (-float(usd[n]), names[n]))
    rows = [
        (
            prose.name(names[n]),
            f"{int(keys[n]):,}",
            f"{int(calls[n]):,}",
            prose.dollars(float(usd[n])),
            prose.dollars(burnt.get(names[n], 0.0)),
            str(began.count(names[n])),
        )
        for n in dearest[:MOST_ROWS]
    ]
    title = f"The dearest {MOST_ROWS} of {len(names)} tenants" if len(names) > MOST_ROWS else "By tenant"
    return Table(title, ("tenant", "keys", "calls", "USD", "over normal", "incidents"), tuple(rows))
