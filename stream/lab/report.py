"""The report of a backtest: one page that needs nothing but itself. The same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.batch import NANO, Ms
from stream.lab import prose
from stream.lab.accounts import Account, accounts, missed, over_normal
from stream.lab.backtest import Backtest, Played
from stream.lab.labels import Labels
from stream.lab.pictures import MOST_ROWS, STORIES, by_day, by_tenant, evidence, overview
from stream.lab.savings import Balance, Minutes, balance, refusals
from stream.lab.spending import Spent
from stream.lab.tables import Table
from stream.windows import MINUTE

LINES = 150
"""How many incidents beside those STORIES have a line; also the longest score table."""


def report(
    played: Played,
    backtest: Backtest,
    source: str,
    labels: Labels | None = None,
    score: Sequence[Table] = (),
    runbooks: str = "docs/runbooks/",
) -> str:
    """The page for one of the policies of a backtest of `source`.

    It needs no network and stays under a megabyte, however many incidents there are: it says what it leaves out.
    `runbooks` is the base of the runbooks, as webhooks have it.
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
        held_against=_held_against(labels, found) if labels is not None else "",
        overview=overview(backtest.spent, found, over, labels, start, end) if len(backtest.spent.minute) else None,
        days=by_day(backtest.spent, found, over),
        by_tenant=by_tenant(backtest.spent, found, over),
        told=[(account, evidence(account)) for account in told],
        lines=lines,
        rest=rest,
        labels=labels,
        missed=missed(labels, found) if labels is not None else [],
        score=score,
        rules=played.policy.rules,
        most=MOST_ROWS,
        longest=LINES,
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
    them = "it" if len(found) == 1 else f"{acted} of them"
    return f"{burned} This policy would have throttled {them}, {saved}."


def _held_against(labels: Labels, found: Sequence[Account]) -> str:
    """How the verdict looks beside what was planted in the scored part."""
    scored = [x for x in labels.labels if labels.scored_from <= x.start < labels.until]
    real = sum(label.material and not label.lookalike for label in scored)
    alike = [label.id for label in scored if label.lookalike]
    fooled = {label.id for account in found if account.acted for label in account.labels[:1] if label.id in alike}
    nothing = sum(not account.labels and account.noticed_at / 1000 >= labels.scored_from for account in found)
    noticed = f"{real - len(missed(labels, found))} of {prose.counted(real, 'planted incident')} that cost enough to matter"
    acted = f"{len(fooled)} of {prose.counted(len(alike), 'look-alike')}"
    return f"Noticed: {noticed}. Throttled by mistake: {acted}. False alarms: {nothing}."


def _range(spent: Spent) -> tuple[Ms, Ms]:
    """From the first to the end of the last minute that has a call; a broken clock far from all others does not count."""
    if not len(spent.minute):
        return 0, 0
    low, high = np.quantile(spent.minute, (0.001, 0.999))
    around = (high - low) / 10 + 60
    near = spent.minute[(spent.minute >= low - around) & (spent.minute <= high + around)]
    return int(near.min()) * MINUTE, (int(near.max()) + 1) * MINUTE
