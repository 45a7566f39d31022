"""The watch after a throttle was taken back: which panes count, however often and in whatever mixture they are said."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from actions.context import Context
from actions.incidents import Book
from schemas.batch import SLICE, Ms
from schemas.incidents import IncidentState
from schemas.orders import Receipt
from tests.story import ARMED, KEY, T0, signal

REVERTED = 60_000 // SLICE
"""The pane that begins when the first throttle has been taken back."""


class Said(NamedTuple):
    """A part of a pulse: the pane's number since T0, and whether the key burns, as far as this part says."""

    partition: int
    pane: int
    burns: bool


class Watch:
    """A book with one throttled key of partition 0; `now` is the end of the newest pane of that partition.

    The key's tenant is so many slices `behind`.
    """

    def __init__(self, behind: int = 0) -> None:
        self.behind = behind
        self.book = Book(ARMED, lambda rule: True, random.Random(0), "")
        self.now: Ms = T0
        self.effects: list[str] = []
        self.book.observe(signal(T0), Context("page", ()), T0)
        self.deliver()

    def hear(self, said: Iterable[Said]) -> Watch:
        for partition, pane, burns in said:
            start = T0 + pane * SLICE
            if partition == 0 and start + SLICE > self.now:
                self.now = start + SLICE
                self.book.tick(self.now)
                self.deliver()
            self.book.pane(partition, start, [KEY] if burns else [], self.now, {KEY[0]: self.behind * SLICE})
            self.deliver()
        return self

    def deliver(self) -> None:
        for delivery in self.book.due(self.now):
            if self.book.claim(delivery, self.now):
                self.book.settle(Receipt(delivery.webhook_id, self.now, ok=True, retry=False, said=""))
                self.effects.append(delivery.verb)

    def state(self) -> IncidentState:
        (incident,) = self.book.incidents.values()
        return incident.state


def quiet(first: int, last: int, partition: int = 0) -> list[Said]:
    return [Said(partition, pane, False) for pane in range(first, last + 1)]


def test_two_quiet_panes_resolve_when_the_third_is_heard_of() -> None:
    watch = Watch().hear(quiet(0, REVERTED + 1))
    assert watch.state() is IncidentState.OPEN
    assert watch.hear(quiet(REVERTED + 2, REVERTED + 2)).state() is IncidentState.RESOLVED


def test_a_pane_said_a_hundred_times_is_one_pane() -> None:
    watch = Watch().hear(quiet(0, REVERTED) + quiet(REVERTED, REVERTED) * 100 + quiet(0, REVERTED))
    assert watch.state() is IncidentState.OPEN


def test_panes_of_another_partition_say_nothing_about_this_one() -> None:
    watch = Watch().hear(quiet(0, REVERTED) + quiet(0, 100, partition=1))
    assert watch.state() is IncidentState.OPEN
    watch.hear([Said(1, 101, True)])
    assert watch.effects == ["apply", "revert"]


def test_a_burn_in_any_part_of_a_pane_keeps_it_from_being_quiet() -> None:
    parts = [Said(0, REVERTED + 1, False), Said(0, REVERTED + 1, True), Said(0, REVERTED + 1, False)]
    watch = Watch().hear(quiet(0, REVERTED) + parts)
    assert watch.state() is IncidentState.ACTED
    assert watch.effects == ["apply", "revert", "apply"]


def test_panes_from_before_the_revert_say_nothing_about_a_tenant_whose_slices_close_later() -> None:
    slices = [Said(0, pane, pane >= REVERTED + 6) for pane in range(REVERTED + 8)]
    assert Watch(behind=6).hear(slices).effects == ["apply", "revert", "apply"]
    assert Watch().hear(slices[: REVERTED + 4]).state() is IncidentState.RESOLVED
    assert Watch(behind=6).hear(quiet(0, REVERTED + 7)).state() is IncidentState.OPEN
    assert Watch(behind=6).hear(quiet(0, REVERTED + 8)).state() is IncidentState.RESOLVED


def test_a_tenant_that_begins_to_wait_is_not_quiet_meanwhile() -> None:
    watch = Watch().hear(quiet(0, REVERTED + 1))
    watch.behind = 6
    assert watch.hear(quiet(REVERTED + 2, REVERTED + 7)).state() is IncidentState.OPEN
    watch.hear([Said(0, REVERTED + 8, True)])
    assert watch.effects == ["apply", "revert", "apply"]


@st.composite
def tapes(draw: st.DrawFn) -> tuple[list[Said], list[Said]]:
    """What partition 0 said once; and the same said again in stretches, mixed with what partition 1 says."""
    once: list[Said] = []
    for pane in range(draw(st.integers(REVERTED, 60))):
        parts = [Said(0, pane, False)] * draw(st.integers(1, 3))
        if pane >= REVERTED - 1 and draw(st.integers(0, 2)) == 0:
            parts[draw(st.integers(0, len(parts) - 1))] = Said(0, pane, True)
        once += parts
    again: list[Said] = []
    stretches = st.tuples(st.integers(0, 90), st.integers(0, 90), st.booleans())
    cuts = sorted(draw(st.lists(stretches, max_size=6)))
    read = 0
    for upto, back, burns in cuts:
        again += once[read:upto]
        read = max(read, min(upto, len(once)))
        again += once[max(0, read - back) : read]
        again.append(Said(1, read, burns))
    return once, again + once[read:]


@settings(max_examples=300, deadline=None)
@given(tapes())
def test_whatever_is_said_again_or_mixed_with_other_partitions_changes_nothing(tape: tuple[list[Said], list[Said]]) -> None:
    once, again = (Watch().hear(said) for said in tape)
    assert once.effects == again.effects
    assert once.book.incidents == again.book.incidents
    assert once.book.orders == again.book.orders
