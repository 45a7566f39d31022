"""The same pipeline and responder over recorded traffic, in event time, with shadow delivery."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from actions.incidents import alert_row
from actions.ledger import Ledger
from schemas.batch import Ms
from schemas.directory import Directory
from schemas.policy import Policy
from schemas.prices import PriceEntry
from stream.assembly import AFTER_END, Assembly, respond
from stream.dedupe import MOST_IDS
from stream.responder import Responder, settle_in_shadow
from stream.sources import LineReader, read_file


@dataclass(frozen=True, slots=True)
class Totals:
    """What was read; equal to the input's own sums. `usd` in nano-dollars."""

    calls: int
    unique: int
    usd: int
    quarantined: int
    alerts: int


def backtest(source: Path, prices: list[PriceEntry], directory: Directory, policy: Policy, out: Path) -> Totals:
    """Write `out/alerts.jsonl` and `out/quarantine.jsonl`; the same input gives the same bytes. Raises OSError, BrokenFile.

    `source` is read once, so it may be a pipe. Duplicates are known among the newest MOST_IDS ids.
    """
    out.mkdir(parents=True, exist_ok=True)
    assembly = Assembly(prices, most=MOST_IDS)
    responder = Responder(Ledger("sqlite://"), policy, directory, arming=lambda rule: True, jitter=random.Random(0), now=0)
    reader = LineReader(assembly.decoder)
    alerts = 0
    with (out / "alerts.jsonl").open("wb") as rows, (out / "quarantine.jsonl").open("wb") as refused:

        def after(now: Ms) -> None:
            nonlocal alerts
            settle_in_shadow(responder, now)
            for news in responder.news():
                row = alert_row(news)
                if row is not None:
                    rows.write(msgspec.json.encode(row) + b"\n")
                    alerts += 1

        quarantined = 0
        for batch in read_file(source, reader):
            respond(assembly.pipeline.feed(batch), responder, None, after)
            refused.writelines(row.to_json() + b"\n" for row in reader.quarantined)
            quarantined += len(reader.quarantined)
            reader.quarantined.clear()
        if assembly.pipeline.clock is not None:
            end = assembly.pipeline.clock + AFTER_END
            respond(assembly.pipeline.advance(end), responder, None, after)
            responder.tick(end)
            after(end)
    counted = assembly.pipeline.counters
    return Totals(counted["calls"], counted["unique"], counted["usd"], quarantined, alerts)
