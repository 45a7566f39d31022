"""The responder: hears signals and panes, keeps the book, writes the ledger, hands out what is due."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from actions.context import in_context
from actions.deliver import Courier
from actions.incidents import ALL_ON_TIME, REOPENS, Book, Changes
from actions.ledger import Busy, Deposed, Fate, Ledger
from actions.usage import Anew, Used, holds_more, used
from schemas.batch import Ms
from schemas.directory import Directory
from schemas.incidents import News
from schemas.orders import Delivery, Order, Receipt
from schemas.policy import Policy, Rule
from schemas.rollup import Rollup
from schemas.signals import Signal
from stream.settings import SettingsError

STALE: Ms = 60_000
"""A signal older than this is recorded, never acted on (A3); a `clear` acts on nothing and is always heard."""
ALIVE: Ms = 8_000
"""A responder whose heartbeat is older than this does not live."""
LISTEN_S = 0.1
TAKE_BACK_S = 30.0
Failpoint = Callable[[str], None]
Decided = tuple[str, Ms, str | None, Fate]


def no_failpoint(name: str) -> None:
    """Nothing fails on purpose in production."""


class Responder:
    """The one active responder of a ledger. Every step that changes something is one transaction.

    `arming` says whether a rule's throttles may leave. Raises Deposed when another responder has taken the ledger.

    Where the ledger is Busy, an impatient responder raises that and is of no more use. A patient one goes on hearing and
    sends nothing until a later `watch` has written all that there was to write; it says so once.
    """

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        directory: Directory,
        *,
        arming: Callable[[Rule], bool],
        jitter: random.Random,
        now: Ms,
        runbooks: str = "docs/runbooks/",
        stale: Ms = STALE,
        patient: bool = False,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._ledger = ledger
        self._patient = patient
        self._paused = False
        self._unheard: list[Signal] = []
        self._decided: list[Decided] = []
        self._settled: list[Receipt] = []
        self._used: dict[tuple[int, str], Used] = {}
        self._anew: Anew | None = None
        self._directory = directory
        self._stale = stale
        self._failpoint = failpoint
        self._position: int | None = None
        self._book = Book(policy, arming, jitter, runbooks)
        ledger.take_epoch(now)
        self._book.load(*ledger.load(now - REOPENS))
        self._obey(now)

    def hear(self, signals: Sequence[Signal], now: Ms, position: int | None = None) -> None:
        """Decide about every signal that the ledger does not know yet.

        `position` is the offset after them, written with what they changed; where they changed nothing, with the next
        thing that is written.
        """
        self._unheard += signals
        try:
            known = self._ledger.knows([signal.id for signal in self._unheard])
        except Busy as busy:
            self._pause(busy, now)
            return
        known |= {decided[0] for decided in self._decided}
        for signal in self._unheard:
            if signal.id in known:
                continue
            known.add(signal.id)
            if signal.at < now - self._stale and signal.phase != "clear":
                self._decided.append((signal.id, signal.at, None, "stale"))
            else:
                incident = self._book.observe(signal, in_context(signal, self._directory), now)
                self._decided.append((signal.id, signal.at, incident, "decided"))
        self._unheard = []
        self._reached(position)
        self._write("hear", now)

    def pane(
        self,
        partition: int,
        start: Ms,
        burning: Collection[tuple[str, str]],
        now: Ms,
        position: int | None = None,
        behind: Mapping[str, Ms] = ALL_ON_TIME,
    ) -> None:
        """A pane that began at `start` has closed, for the tenants that are `behind` one that began so much earlier;
        `burning` still burned in it, as far as this part of it says."""
        self._book.pane(partition, start, burning, now, behind)
        self._reached(position)
        self._write("pane", now)

    def count(self, rollup: Rollup, source: str, now: Ms, position: int | None = None) -> None:
        """Keep what a partition of `source` says of its usage; what it has said before does no harm, nor does its order."""
        for row in used(rollup, source):
            place = (row["hour"], row["cell"])
            if place not in self._used or holds_more(row, self._used[place]):
                self._used[place] = row
        self._reached(position)
        self._write("count", now)

    def count_anew(self, source: str, since: int, now: Ms) -> None:
        """Drop what a source has said that was counted from an epoch hour on: it says that once more, perhaps otherwise."""
        self._anew = (source, since)
        self._write("count anew", now)

    def forget_usage(self, days: int, now: Ms) -> None:
        """Once a minute while live: delete usage that is older than so many days."""
        try:
            self._ledger.forget_usage(days, now)
        except Busy as busy:
            self._pause(busy, now)

    def tick(self, now: Ms) -> None:
        """Let leases end."""
        self._book.tick(now)
        self._write("tick", now)

    def watch(self, now: Ms) -> None:
        """Once a second while live: say that we live and how far we have read, and obey the kill switch."""
        try:
            self._ledger.beat(now, self._position)
        except Busy as busy:
            self._pause(busy, now)
            return
        self._go_on(now)
        self._obey(now)

    def take_all_back(self, now: Ms) -> None:
        """Nobody will watch any more: revert what is out."""
        self._book.take_all_back(now)
        self._write("take back", now)

    def out(self) -> list[Order]:
        """Throttles that are out, or may be."""
        return [o for o in self._book.orders.values() if o.action == "throttle" and o.state in ("sent", "applied")]

    def due(self, now: Ms) -> list[Delivery]:
        """What may be sent now."""
        return [] if self._paused else self._book.due(now)

    def claim(self, delivery: Delivery, now: Ms) -> bool:
        """Write down an attempt before it is made. False: it must not be made (stopped, too late, taken over)."""
        self._obey(now)
        if self._paused or delivery.done or not self._book.claim(delivery, now):
            self._write("unclaimed", now)
            return False
        self._write("claim", now)
        if self._paused:
            return False
        self._failpoint("before post")
        return True

    def settle(self, receipt: Receipt) -> None:
        """Write down what became of an attempt."""
        self._failpoint("after post")
        self._book.settle(receipt)
        self._settled.append(receipt)
        self._write("settle", receipt.at)

    @property
    def written(self) -> bool:
        """Whether the ledger holds all that was heard."""
        return not self._paused

    def news(self) -> list[News]:
        """What happened since the last time."""
        news, self._book.news = self._book.news, []
        return news

    def keep_fold(self, after: int, blob: bytes) -> None:
        """Write down what was folded of the pulses before the offset `after`."""
        self._ledger.keep_fold(after, blob, self._position)

    def _reached(self, position: int | None) -> None:
        if position is not None:
            self._position = position

    def _obey(self, now: Ms) -> None:
        try:
            stopped = self._ledger.newest_happening() == "stop"
        except Busy as busy:
            self._pause(busy, now)
            return
        if stopped and not self._book.stopped:
            self._book.stop(now)
        elif self._book.stopped and not stopped:
            self._book.release(now)
        self._write("obey", now)

    def _write(self, step: str, now: Ms) -> None:
        if not self._paused:
            try:
                self._write_all(step)
            except Busy as busy:
                self._pause(busy, now)

    def _write_all(self, step: str) -> None:
        changes = self._book.changes
        if not (changes or self._decided or self._settled or self._used or self._anew):
            return
        self._failpoint(f"before {step}")
        used = list(self._used.values())
        self._ledger.write(changes, self._decided, self._settled, used, self._anew, position=self._position)
        self._book.changes, self._decided, self._settled, self._used, self._anew = Changes(), [], [], {}, None
        self._failpoint(f"after {step}")

    def _pause(self, busy: Busy, now: Ms) -> None:
        if not self._patient:
            raise busy
        if not self._paused:
            self._paused = True
            self._book.news.append(News(now, "paused", f"{busy}; nothing is sent until it can be written"))

    def _go_on(self, now: Ms) -> None:
        """Perhaps the ledger can be written again: write what waited."""
        if self._paused:
            with suppress(Busy):
                self._write_all("catch up")
                self._paused = False
                self._book.news.append(News(now, "resumed", "the ledger is written again; nothing was lost"))
                self.hear((), now)


def settle_in_shadow(responder: Responder, now: Ms) -> None:
    """Delivery in a backtest: whatever is due leaves nowhere and is accepted at once."""
    while due := responder.due(now):
        for delivery in due:
            if responder.claim(delivery, now):
                responder.settle(Receipt(delivery.webhook_id, now, ok=True, retry=False, said="shadow"))


async def pull_switch(
    ledger: Ledger,
    release: bool,
    clock: Callable[[], Ms],
    courier_of: Callable[[Responder], Courier | None],
    policy: Policy,
) -> str:
    """`burnguard stop`: what was said is in the ledger at once; returns what came of it.

    Where no responder lives, this takes the epoch and delivers the reverts itself. Raises SettingsError where it cannot,
    after the stop was written down.
    """
    ledger.happen("release" if release else "stop", clock())
    if release:
        return "released: orders may leave again"
    if await _lives(ledger, clock):
        return "stopped: the running responder takes every throttle back"
    responder = Responder(ledger, policy, Directory(), arming=lambda rule: False, jitter=random.Random(), now=clock())
    try:
        said = await _take_back(responder, clock, courier_of(responder))
    except SettingsError as error:
        raise SettingsError(f"stopped, but cannot deliver: {error}") from error
    except Deposed:
        return "stopped: a responder has started and takes every throttle back"
    finally:
        with suppress(Deposed, Busy):
            ledger.resign()
    return said


async def _lives(ledger: Ledger, clock: Callable[[], Ms]) -> bool:
    """Whether a responder's heart beats: seen to beat again, not just lately."""
    last, until = ledger.last_beat(), clock() + ALIVE
    while last and clock() < min(last + ALIVE, until):
        await asyncio.sleep(LISTEN_S)
        beat = ledger.last_beat()
        if beat != last:
            return bool(beat)
    return False


async def _take_back(responder: Responder, clock: Callable[[], Ms], courier: Courier | None) -> str:
    """Deliver every revert, for so long as a person waits; what is left is in the ledger."""
    responder.take_all_back(clock())
    orders = responder.out()
    if not orders or courier is None:
        still = f"; {len(orders)} throttles are out, set BURNGUARD_WEBHOOK_URL to take them back" if orders else ""
        return f"stopped: no responder lives{still}"
    async with courier:
        until = clock() + round(TAKE_BACK_S * 1000)
        while responder.out() and clock() < until:
            courier.start_due()
            await asyncio.sleep(0.1)
    left = len(responder.out())
    return f"stopped: no responder lives; took back {len(orders) - left} of {len(orders)} throttles itself"
