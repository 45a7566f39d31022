"""The same pipeline and responder over recorded traffic, in event time, with shadow delivery."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from actions.incidents import alert_row
from actions.ledger import Ledger
from schemas.batch import Batch, Ms
from schemas.decode import Decoder
from schemas.directory import Directory
from schemas.incidents import News
from schemas.policy import Policy
from schemas.prices import Entry
from schemas.pulse import Pulse
from schemas.quarantine import Quarantined
from schemas.signals import Signal
from stream.assembly import AFTER_END, Assembly, respond
from stream.dedupe import MOST_IDS
from stream.lab.alerts import Alert
from stream.lab.spending import Spending, Spent, together
from stream.lab.topic import Recorded, lines
from stream.responder import Responder, settle_in_shadow
from stream.settings import KafkaSettings
from stream.sources import LineReader, read_file
from stream.tenants import Behind

EVERY = 2**31
"""A backtest forgets no key: its memory is the file's."""
AT_ONCE = 1_000
"""Words that every policy hears before the next."""


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


class Source(Protocol):
    """Where a partition's calls come from: batches with their clock, and the rows that were refused since the last one."""

    def batches(self, decoder: Decoder) -> Iterator[tuple[Batch, Sequence[Quarantined]]]: ...


@dataclass(frozen=True, slots=True)
class File:
    """An NDJSON file (.gz too), read once, so it may be a pipe."""

    path: Path

    def batches(self, decoder: Decoder) -> Iterator[tuple[Batch, Sequence[Quarantined]]]:
        """Raises OSError, BrokenFile."""
        reader = LineReader(decoder)
        for batch in read_file(self.path, reader):
            refused, reader.quarantined = reader.quarantined, []
            yield batch, refused


@dataclass(frozen=True, slots=True)
class Topic:
    """One partition of a topic in Kafka."""

    settings: KafkaSettings
    topic: str
    part: Recorded

    def batches(self, decoder: Decoder) -> Iterator[tuple[Batch, Sequence[Quarantined]]]:
        """Raises Unreachable, SettingsError."""
        for some in lines(self.settings, self.topic, self.part):
            yield decoder.decode(some, partition=self.part.partition)


def backtest(
    sources: Sequence[Source], prices: Sequence[Entry], directory: Directory, policies: Sequence[Policy], out: Path
) -> Backtest:
    """Play the sources, each a partition of its own, to each policy; refused lines go to `out/quarantine.jsonl`.

    The same input gives the same result. Duplicates are known among the newest MOST_IDS ids of a partition, and no key is
    forgotten. Raises what the sources raise, and OSError.
    """
    shadows = [Shadow(policy, directory) for policy in policies]
    with (out / "quarantine.jsonl").open("wb") as refused:
        parts = [
            Part(Assembly(prices, partition=n, most=MOST_IDS, keys=EVERY), source, refused)
            for n, source in enumerate(sources)
        ]
        for words in _together(heapq.merge(*(part.panes() for part in parts), key=lambda pane: pane[1].clock)):
            for shadow in shadows:
                shadow.hear(words)
    ends = [part.clock for part in parts if part.clock is not None]
    for shadow in shadows:
        shadow.end(max(ends, default=0) + AFTER_END)
    counted = [part.counters for part in parts]
    totals = Totals(
        calls=sum(counters["calls"] for counters in counted),
        unique=sum(counters["unique"] for counters in counted),
        usd=sum(counters["usd"] for counters in counted),
        quarantined=sum(part.quarantined for part in parts),
    )
    return Backtest(totals, together([part.spent() for part in parts]), tuple(shadow.played() for shadow in shadows))


class Part:
    """One partition at work: what its pipeline says, and what its calls cost."""

    def __init__(self, assembly: Assembly, source: Source, refused: BinaryIO) -> None:
        self._assembly = assembly
        self._source = source
        self._refused = refused
        self._spending = Spending(assembly.prices, assembly.decoder)
        self.quarantined = 0

    @property
    def clock(self) -> Ms | None:
        return self._assembly.pipeline.clock

    @property
    def counters(self) -> dict[str, int]:
        return self._assembly.pipeline.counters

    def panes(self) -> Iterator[tuple[list[Signal], Pulse]]:
        """All that it says of every pane, in the order of their ends."""
        pipeline = self._assembly.pipeline
        for batch, refused in self._source.batches(self._assembly.decoder):
            self._refused.writelines(row.to_json() + b"\n" for row in refused)
            self.quarantined += len(refused)
            self._spending.take(batch)
            yield from pipeline.feed(batch).panes()
        if pipeline.clock is not None:
            yield from pipeline.advance(pipeline.clock + AFTER_END).panes()

    def spent(self) -> Spent:
        return self._spending.spent()


def _together(panes: Iterable[tuple[list[Signal], Pulse]]) -> Iterator[list[Signal | Pulse]]:
    """Words in lists that end with a pulse, as a step of a pipeline does."""
    some: list[Signal | Pulse] = []
    for signals, pulse in panes:
        some += (*signals, pulse)
        if len(some) >= AT_ONCE:
            yield some
            some = []
    yield some


class Shadow:
    """The responder of one policy, every rule of which is armed, and whose orders leave nowhere."""

    def __init__(self, policy: Policy, directory: Directory) -> None:
        self._policy = policy
        self._responder = Responder(
            Ledger("sqlite://"), policy, directory, arming=lambda rule: True, jitter=random.Random(0), now=0
        )
        self._tenants = Behind()
        self._news: list[News] = []

    def hear(self, words: Iterable[Signal | Pulse]) -> None:
        """What pipelines said, in the order of time, up to a pulse."""
        respond(words, self._responder, self._tenants, None, self._settle)

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
