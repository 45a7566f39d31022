"""The same pipeline and responder over recorded traffic, in event time, with shadow delivery."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from actions.incidents import alert_row
from actions.ledger import Ledger
from schemas.batch import Ms
from schemas.directory import Directory
from schemas.incidents import News
from schemas.policy import Policy
from schemas.prices import PriceEntry
from stream.assembly import AFTER_END, Assembly, respond
from stream.dedupe import MOST_IDS
from stream.lab.alerts import Alert
from stream.lab.spending import Spending, Spent
from stream.pipeline import Output
from stream.responder import Responder, settle_in_shadow
from stream.sources import LineReader, read_file


@dataclass(frozen=True, slots=True)
class Totals:
    """What was read; equal to the input's own sums. `usd` in nano-dollars."""

    calls: int
    unique: int
    usd: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy came to: everything that happened, in order, and the alerts among it."""

    policy: Policy
    news: tuple[News, ...]
    alerts: tuple[Alert, ...]

    def write(self, path: Path) -> None:
        """The alerts, one JSON object a line. Raises OSError."""
        path.write_bytes(b"".join(msgspec.json.encode(alert) + b"\n" for alert in self.alerts))


@dataclass(frozen=True, slots=True)
class Backtest:
    """What recorded traffic came to, with one policy or several beside each other."""

    totals: Totals
    spent: Spent
    played: tuple[Played, ...]


def backtest(source: Path, prices: list[PriceEntry], directory: Directory, policies: Sequence[Policy], out: Path) -> Backtest:
    """Play `source` to each policy; refused lines go to `out/quarantine.jsonl`. Raises OSError, BrokenFile.

    The same input gives the same result. `source` is read once, so it may be a pipe. Duplicates are known among the
    newest MOST_IDS ids.
    """
    assembly = Assembly(prices, most=MOST_IDS)
    shadows = [Shadow(policy, directory) for policy in policies]
    spending = Spending(assembly.prices, assembly.decoder)
    reader = LineReader(assembly.decoder)
    quarantined = 0
    with (out / "quarantine.jsonl").open("wb") as refused:
        for batch in read_file(source, reader):
            spending.take(batch)
            output = assembly.pipeline.feed(batch)
            for shadow in shadows:
                shadow.hear(output)
            refused.writelines(row.to_json() + b"\n" for row in reader.quarantined)
            quarantined += len(reader.quarantined)
            reader.quarantined.clear()
    if assembly.pipeline.clock is not None:
        end = assembly.pipeline.clock + AFTER_END
        output = assembly.pipeline.advance(end)
        for shadow in shadows:
            shadow.hear(output)
            shadow.end(end)
    counted = assembly.pipeline.counters
    totals = Totals(counted["calls"], counted["unique"], counted["usd"], quarantined)
    return Backtest(totals, spending.spent(), tuple(shadow.played() for shadow in shadows))


class Shadow:
    """The responder of one policy, every rule of which is armed, and whose orders leave nowhere."""

    def __init__(self, policy: Policy, directory: Directory) -> None:
        self._policy = policy
        self._responder = Responder(
            Ledger("sqlite://"), policy, directory, arming=lambda rule: True, jitter=random.Random(0), now=0
        )
        self._news: list[News] = []

    def hear(self, output: Output) -> None:
        """What came of a step of the pipeline."""
        respond(output, self._responder, None, self._settle)

    def end(self, now: Ms) -> None:
        """Nothing comes any more."""
        self._responder.tick(now)
        self._settle(now)

    def played(self) -> Played:
        """What it all came to."""
        rows = [row for news in self._news if (row := alert_row(news)) is not None]
        return Played(self._policy, tuple(self._news), tuple(Alert(**row) for row in rows))

    def _settle(self, now: Ms) -> None:
        settle_in_shadow(self._responder, now)
        self._news += self._responder.news()


def difference(one: Sequence[Alert], other: Sequence[Alert]) -> tuple[list[Alert], list[Alert]]:
    """The alerts of each that the other has not: by incident, severity and action."""

    def only(here: Sequence[Alert], there: Sequence[Alert]) -> list[Alert]:
        known = {(alert.incident, alert.severity, alert.action) for alert in there}
        return [alert for alert in here if (alert.incident, alert.severity, alert.action) not in known]

    return only(one, other), only(other, one)
