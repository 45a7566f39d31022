"""From records of the topic to the ledger: the same ledger whatever is said again, mixed, cut or unreadable."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from actions.ledger import Busy, Ledger
from actions.tables import tables
from schemas.batch import SLICE, Ms
from schemas.directory import Directory
from schemas.orders import Delivery
from schemas.pulse import PULSE, Pulse
from schemas.reading import READING, Reading
from schemas.rollup import MEASURES, USAGE, Rollup
from stream.duty import Duty
from stream.hearing import Hearing
from stream.measures import OF_A_CALL
from stream.responder import settle_in_shadow
from stream.settings import Settings
from stream.windows import DAY, HOUR, MINUTE
from tests.conftest import NewLedger, fewer
from tests.story import ARMED, KEY, T0
from tests.topic import Record, Said, burn, logged, pulse, slots

ROLLUP = Rollup(
    0,
    T0,
    (KEY,),
    (("openai", "gpt-4o"),),
    (("",),),
    (("chat",),),
    key=np.zeros(1, np.int32),
    model=np.zeros(1, np.int32),
    feature=np.zeros(1, np.int32),
    operation=np.zeros(1, np.int32),
    tier=np.zeros(1, np.int8),
    hour=np.full(1, T0 // HOUR, np.int32),
    counted=np.full(1, T0 // HOUR, np.int32),
    values=np.arange(12).reshape(1, 12),
    books=(("0.2.3",),),
    book=np.zeros(1, np.int32),
)
READ = Reading(
    0,
    T0,
    (("acme", "search", "openai", "gpt-4o"),),
    health=np.array([[0, 2, T0 // DAY, *range(OF_A_CALL)]]),
    seen=np.array([[0, 7, T0 // MINUTE]]),
    sizes=np.array([[0, 1, 2 + T0 // DAY % 2, T0 // DAY, 9, 1]]),
)
OTHER = ("globex", "key-7")
PANES = 40


class Term:
    """A new ledger and whoever reads for it; `restart` drops everything but the ledger."""

    def __init__(self, ledger: str) -> None:
        self.ledger = Ledger(ledger)
        self.now: Ms = T0
        self.restart(0, 0)

    def restart(self, first: int, end: int) -> int:
        """The offset at which it goes on in a log from `first` to `end`."""
        self.duty = Duty(self.ledger, ARMED, Directory(), Settings(), lambda line: None)
        self.hearing = Hearing(self.duty, self.ledger, "usage")
        return self.hearing.begin(first, end)

    def take(self, records: list[Record]) -> None:
        """One after the other; now is the end of the newest pane."""
        for record in records:
            self.hearing.take([record], self.now)
            self.now = max(self.now, clock_of(record))
            settle_in_shadow(self.duty.responder, self.now)
            self.duty.responder.tick(self.now)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """What the ledger holds, in the order of the primary key."""
        of = tables.tables[table]
        with self.ledger._database.transaction(reads=True) as connection:
            return [tuple(row) for row in connection.execute(select(of).order_by(*of.primary_key.columns))]

    def effects(self) -> dict[str, list[Any]]:
        """What the ledger holds, but for times and sequences: those follow the mixture."""
        deliveries = [msgspec.json.decode(row[-1], type=Delivery) for row in self.rows("deliveries")]
        return {
            "signals": self.rows("signals"),
            "incidents": [row[:2] for row in self.rows("incidents")],
            "orders": [row[:3] for row in self.rows("orders")],
            "usage": self.rows("usage"),
            "deliveries": sorted((d.order, d.verb, d.done) for d in deliveries),
        }


def clock_of(record: Record) -> Ms:
    try:
        return min(Pulse.read(record.value or b"").clock, T0 + HOUR)
    except msgspec.DecodeError:
        return 0


def pane(n: int, partition: int) -> list[Said]:
    """A partition's n-th pulse since T0."""
    return pulse(T0 + (n + 1) * SLICE, (), partition, ("acme", f"only-{partition}"), usd=1_000 * (n + 1))


def usage(n: int, partition: int) -> list[Said]:
    """What a cell holds at a partition's n-th pulse."""
    rollup = replace(ROLLUP, partition=partition, values=np.full((1, len(MEASURES)), n + 1))
    return [Said(USAGE, part) for part in rollup.parts()]


def story() -> list[list[list[Said]]]:
    """By partition and pane, what is said: a key of each burns, is throttled, taken back and resolved."""
    one, two = ([[*pane(n, partition), *usage(n, partition)] for n in range(PANES)] for partition in (0, 1))
    one[0].insert(0, burn(T0))
    two[0].insert(0, burn(T0, partition=1, key=OTHER))
    return [one, two]


def lockstep() -> list[Said]:
    return [said for both in zip(*story(), strict=True) for pane in both for said in pane]


def mixture(chance: random.Random) -> list[Said]:
    """The same story; a partition is at most 4 panes ahead of the other, and says its last few panes again at times."""
    by_partition, at = story(), [0, 0]
    mixed: list[Said] = []
    while min(at) < PANES:
        which = at.index(min(at)) if abs(at[0] - at[1]) > 4 else chance.randrange(2)
        to = min(PANES, at[which] + chance.randrange(4))
        again = max(0, at[which] - chance.choice([0, 0, 1, 5]))
        mixed += itertools.chain(*by_partition[which][again:to])
        at[which] = to
    return mixed


NewTerm = Callable[[], Term]


@pytest.fixture
def new_term(new_ledger: NewLedger) -> Iterator[NewTerm]:
    """Terms on ledgers in memory, and on a server."""
    with ExitStack() as stack:

        def begun() -> Term:
            name = new_ledger()
            term = Term(name if name.startswith("postgresql") else "sqlite://")
            stack.callback(term.ledger.close)
            return term

        yield begun


def heard(term: Term, said: list[Said]) -> Term:
    term.take(logged(said))
    return term


def test_a_burn_is_throttled_taken_back_and_resolved_and_the_position_is_in_the_ledger(new_term: NewTerm) -> None:
    term = heard(new_term(), lockstep())
    assert [row[1] for row in term.rows("incidents")] == ["resolved", "resolved"]
    term.duty.responder.watch(term.now)
    assert term.ledger.position() == len(lockstep())


def test_said_twice_mixed_and_cut_by_restarts_it_is_the_same_ledger_and_the_same_money(
    new_ledger: NewLedger, new_term: NewTerm
) -> None:
    @settings(max_examples=fewer(60, new_ledger()), deadline=None)
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        same_ledger(seed, new_term)

    holds()


def same_ledger(seed: int, new_term: NewTerm) -> None:
    """Told in lockstep and told as a mixture, with restarts."""
    chance = random.Random(seed)
    once, log = heard(new_term(), lockstep()), logged(mixture(chance))
    term, read, reached = new_term(), 0, 0
    while read < len(log):
        upto = min(len(log), read + chance.randint(1, 40))
        term.take(log[read:upto])
        if chance.random() < 0.5:
            term.hearing.keep(term.now)
        read = term.restart(0, len(log)) if chance.random() < 0.3 and upto < len(log) else upto
        assert read <= upto
        assert (term.ledger.position() or 0) >= reached, "the ledger's position went back"
        reached = term.ledger.position() or 0
    assert term.effects() == once.effects()
    assert term.duty.tenants.spent(HOUR) == once.duty.tenants.spent(HOUR)


GOOD = [
    burn(T0 + 1),
    *pulse(T0 + SLICE, (KEY,)),
    *(Said(USAGE, part) for part in ROLLUP.parts()),
    *(Said(READING, part) for part in READ.parts()),
    Said(b"signal", b""),
    Said(b"pulse", b"\x97"),
    Said(b"usage", b"\x9e"),
]


def test_whatever_a_record_holds_the_next_one_is_heard_and_the_ledger_can_be_loaded(
    new_ledger: NewLedger, new_term: NewTerm
) -> None:
    @settings(max_examples=fewer(400, new_ledger()), deadline=None)
    @given(st.sampled_from(GOOD), st.integers(0, 10**6), st.binary(max_size=9), st.integers(0, 9))
    def holds(good: Said, at: int, noise: bytes, cut: int) -> None:
        at %= len(good.value) + 1
        term = new_term()
        term.take(logged([Said(good.key, good.value[:at] + noise + good.value[at + cut :]), *pane(0, 0), *pane(1, 0)]))
        term.hearing.keep(term.now)
        assert term.restart(0, 3) == 3
        assert term.ledger.position() == 3
        term.ledger.close()

    holds()


def test_usage_that_could_not_be_written_is_read_again_by_whoever_is_next(new_term: NewTerm) -> None:
    term = new_term()
    log = logged([said for n in range(4) for said in usage(n, 0)])
    term.take(log[:2])
    term.duty.responder._failpoint = dies
    with pytest.raises(Busy):
        term.take(log[2:3])
    assert term.ledger.position() == 2
    term.take(log[term.restart(0, 4) :])
    assert term.ledger.usage((), range(2**31 - 1), {})[0][0] == 4


def dies(step: str) -> None:
    raise Busy(step)


def test_unreadable_records_are_counted_and_said_once(new_term: NewTerm, capsys: pytest.CaptureFixture[str]) -> None:
    term = new_term()
    strange = [Said(b"signal", b"{"), Said(b"pulse", b""), Said(b"else", b"")]
    term.take([*logged(strange), Record(3, None, None), Record(4, b"signal", None)])
    assert term.hearing.unreadable == 5
    assert capsys.readouterr().out.count("unreadable record skipped") == 1


def test_what_retention_took_is_counted_and_it_goes_on_from_the_start_of_the_log(new_term: NewTerm) -> None:
    term = heard(new_term(), lockstep())
    term.hearing.keep(term.now)
    read = len(lockstep())
    assert term.restart(read + 7, read + 9) == read + 7
    assert term.hearing.lost == 7
    assert term.restart(0, read + 9) == read
    assert term.hearing.lost == 0


def test_a_topic_that_was_made_anew_is_read_from_its_start(new_term: NewTerm) -> None:
    term = heard(new_term(), lockstep())
    term.hearing.keep(term.now)
    assert term.restart(0, 3) == 0
    term.take(logged([*pane(PANES, 0), *pane(PANES + 1, 0)]))
    term.hearing.keep(term.now)
    assert term.ledger.position() == 2


def test_without_the_kept_fold_the_money_is_read_again_and_nothing_is_decided_again(new_term: NewTerm) -> None:
    once = heard(new_term(), lockstep())
    once.duty.responder.watch(once.now)
    before, spent = once.rows("signals"), once.duty.tenants.spent(HOUR)
    once.ledger.keep_fold(7, b"no fold", None)
    assert once.restart(0, len(lockstep())) == 0
    once.take(logged(lockstep()))
    assert once.rows("signals") == before
    assert once.duty.tenants.spent(HOUR) == spent


def test_a_key_whose_calls_come_on_two_partitions_is_told_once(new_term: NewTerm) -> None:
    term = new_term()
    heard = [
        Said(PULSE, part)
        for n, partition in enumerate((0, 1, 0, 1))
        for part in Pulse(partition, T0 + n * SLICE, n, {}, slots(), slots((KEY, ("acme", str(n))), n), ()).parts()
    ]
    term.take(logged(heard))
    told = [news.said for news in term.duty.responder.news() if news.what == "incident_opened"]
    assert told == ["telemetry_gap of acme/key-1: 2 partitions that its calls come on, 0 and 1"]


@pytest.mark.parametrize("name", [("acme",), ("acme", "key-1", "more"), ("", "key-1")])
def test_a_pulse_whose_names_are_no_keys_is_unreadable(new_term: NewTerm, name: tuple[str, ...]) -> None:
    """Were it believed, the responder would end where such a key is told, and again at every restart."""
    term = new_term()
    pulses = [Pulse(p, T0, 0, {}, slots(), slots((name,)), ()) for p in (0, 1)]
    term.take(logged([Said(PULSE, part) for pulse in pulses for part in pulse.parts()]))
    assert term.hearing.unreadable == 2
