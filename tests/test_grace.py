"""Tenants whose exporters flush late: their slices wait for their calls, and are judged once each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

from schemas.batch import SLICE
from schemas.pulse import Pulse
from schemas.snapshot import BadCheckpoint
from stream.grace import TENANT, Graces
from stream.tenants import TenantMeters
from stream.windows import HOUR
from tests.calls import T0, Call, batch, pipeline
from tests.exporters import NoGrace, Played, every_slice, exporters, flushed

KNOWN = 160 * 60
"""Seconds after which a key is judged by its own past, and its exporter is long known."""
END = KNOWN + 1_200
PERIODS = [0, 5, 7, 10, 20, 30]


@dataclass
class Tenant:
    """A tenant as a twin of the kernels sees it."""

    edge: int
    grace: int = 0
    calls: list[int] = field(default_factory=lambda: [0] * 7)
    era: int = 0
    heard: int = 0

    def note(self, missed: int, era: int) -> None:
        if missed > 6:
            return
        while self.era < era and any(self.calls):
            self.calls = [n // 2 for n in self.calls]
            self.era += 1
        self.era = era
        self.calls[missed] += 1
        self.heard = max(self.heard, 2 if missed > self.grace else int(missed > 0 or self.grace > 0))

    def share(self, grace: int) -> float:
        return sum(self.calls[: grace + 1]) / sum(self.calls)

    def follow(self) -> bool:
        """Raise the grace; whether it is to be lowered."""
        heard, self.heard = self.heard, 0
        if not heard or sum(self.calls) < 20:
            return False
        if heard == 2 and self.share(self.grace) < 0.99:
            self.grace = next(g for g in range(7) if self.share(g) >= 0.99)
            return False
        return self.grace > 0 and self.share(self.grace - 1) >= 0.995


class Twin:
    """Every tenant's edge as a number that is moved, every open slice in a dictionary, no jump over anything."""

    def __init__(self, calls: list[Call]) -> None:
        self.edge: int | None = None
        self.tenants: dict[int, Tenant] = {}
        self.open: dict[tuple[int, int], tuple[int, int]] = {}
        self.judged: list[tuple[int, int, int, int]] = []
        clock = 0
        for at, ts, key, usd in calls:
            clock = max(clock, T0 + at)
            self.move((clock - 2_000) // SLICE)
            self.fold(clock if T0 + ts > clock + 60_000 else T0 + ts, key, round(usd * 1000))
        self.move((clock + 900_000 - 2_000) // SLICE)

    def fold(self, ts: int, key: int, cost: int) -> None:
        assert self.edge is not None
        tenant = self.tenants.setdefault(key // 4, Tenant(self.edge))
        slot = ts // SLICE
        tenant.note(max(self.edge - slot, 0), self.edge // 24)
        place = key, max(slot, tenant.edge)
        usd, late = self.open.get(place, (0, 0))
        self.open[place] = usd + cost, late + (slot < tenant.edge)

    def move(self, edge: int) -> None:
        if self.edge is None:
            self.edge = edge
        while self.edge < edge:
            lowered = {t for t, tenant in self.tenants.items() if tenant.follow()}
            self.edge += 1
            for t, tenant in self.tenants.items():
                self.close(t, tenant)
                if t in lowered:
                    tenant.grace -= 1
                    self.close(t, tenant)

    def close(self, t: int, tenant: Tenant) -> None:
        assert self.edge is not None
        while tenant.edge < self.edge - tenant.grace:
            for key, slot in sorted(self.open):
                if key // 4 == t and slot == tenant.edge:
                    self.judged.append((key, slot, *self.open.pop((key, slot))))
            tenant.edge += 1


@settings(max_examples=80, deadline=None)
@given(exporters())
def test_slices_close_as_the_twin_says_whatever_the_exporters_do(calls: list[Call]) -> None:
    twin, played = Twin(calls), Played(calls)
    spent = [(s.key, (T0 + s.start) // SLICE, round(s.usd * 1000), s.late) for s in played.slices if s.usd or s.late]
    assert sorted(spent) == sorted(slot for slot in twin.judged if slot[2] or slot[3])
    assert [tenant.grace for _, tenant in sorted(twin.tenants.items())] == [
        int(played.line._graces.tenants["grace"][t]) for t in sorted(twin.tenants)
    ]


@settings(max_examples=80, deadline=None)
@given(exporters())
def test_no_slice_is_judged_twice_or_out_of_order_and_all_money_is(calls: list[Call]) -> None:
    played = Played(calls)
    for key in {call[2] for call in calls}:
        starts = [slice.start for slice in played.of(key)]
        assert starts == sorted(set(starts))
        assert sum(slice.usd for slice in played.of(key)) == pytest.approx(sum(c[3] for c in calls if c[2] == key))


@pytest.mark.parametrize("phase", [0, 4_200])
@pytest.mark.parametrize("period", PERIODS)
def test_a_steady_exporter_has_no_lumps_no_late_calls_and_no_signal(period: int, phase: int) -> None:
    played = Played(flushed((0, END), period, phase=phase))
    known = played.of(1, 120, END - 5)
    assert [slice.start for slice in known] == every_slice(120, END - 5)
    assert max(slice.usd for slice in known) <= 1.01 * 5 * 0.05
    assert len(set(played.late[second] for second in played.late if second >= 120)) == 1
    assert not [signal for at, signal in played.signals(1) if at >= KNOWN * 1000]


def test_without_grace_its_money_comes_in_lumps_and_late() -> None:
    played = Played(flushed((0, END), 30), NoGrace())
    known = played.of(1, 120, END - 5)
    assert max(slice.usd for slice in known) >= 4 * 5 * 0.05
    assert played.line.counters["late"] > 0.8 * END


@pytest.mark.parametrize("period", [5, 10, 20, 30])
def test_a_burn_is_noticed_at_most_a_flush_later_than_that_of_an_exporter_on_time(period: int) -> None:
    opened = {}
    for one in (0, period):
        played = Played(flushed((0, END), one, usd=lambda second: 1.0 if second >= KNOWN + 303 else 0.05))
        opened[one] = next(at for at, signal in played.signals(1) if at > KNOWN * 1000 and signal.phase == "open")
    assert 0 < opened[period] - opened[0] <= period * 1000


def test_an_exporter_that_begins_to_keep_calls_back_and_stops_again_is_followed() -> None:
    calls = flushed((0, KNOWN), 0) + flushed((KNOWN, KNOWN + 3_000), 30) + flushed((KNOWN + 3_000, KNOWN + 6_000), 0)
    played = Played(calls)
    unknown = every_slice(KNOWN, KNOWN + 35)
    judged = [slice.start for slice in played.of(1, 0, KNOWN + 5_995)]
    assert [s for s in judged if s not in unknown] == [s for s in every_slice(0, KNOWN + 5_995) if s not in unknown]
    assert not [signal for at, signal in played.signals(1) if at >= KNOWN * 1000]
    behind = {at: at - slice.start - SLICE for slice in played.of(1) for at in [slice.at // 1000 * 1000]}
    assert {behind[at] for at in behind if at < KNOWN * 1000} == {0}
    assert {behind[at] for at in behind if KNOWN * 1000 + 100_000 < at < (KNOWN + 3_000) * 1000} <= {25_000, 30_000}
    assert {behind[at] for at in behind if (KNOWN + 5_000) * 1000 < at < (KNOWN + 5_990) * 1000} == {0}
    steps = [behind[at] for at in sorted(behind) if KNOWN + 3_000 < at // 1000 < KNOWN + 5_990]
    assert all(0 <= before - after <= SLICE for before, after in pairwise(steps))


def test_a_tenant_on_time_is_judged_as_if_the_late_one_were_not_there() -> None:
    def usd(second: int) -> float:
        return 1.0 if KNOWN + 300 <= second < KNOWN + 400 else 0.05

    mine = flushed((0, END), 0, key=1, usd=usd)
    others = [*flushed((0, END), 30, key=5, usd=usd), *flushed((200, END), 7, key=9)]
    alone, beside = Played(mine), Played(mine + others)
    assert beside.of(1, 0, END - 5) == alone.of(1, 0, END - 5)
    settled, same = ([(at, s) for at, s in one.signals(1) if at > KNOWN * 1000] for one in (alone, beside))
    assert {signal.phase for _, signal in settled} == {"open", "update", "clear"}
    assert same == settled


def test_a_few_late_calls_make_nobody_wait_and_neither_do_calls_that_no_grace_would_cover() -> None:
    few = Played(flushed((0, 19), 30))
    assert few.line._graces.tenants["grace"].tolist() == [0] * 64
    hours_late = [(at + 7_200_000, ts, key, usd) for at, ts, key, usd in flushed((0, 200), 0)]
    assert Played(hours_late).line._graces.tenants["grace"].tolist() == [0] * 64


def test_a_key_whose_tenant_waits_burns_on_until_its_slice_is_judged() -> None:
    burn = flushed((0, KNOWN + 200), 0, usd=lambda second: 2.0 if second >= KNOWN else 0.05)
    played = Played(burn + flushed((KNOWN + 60, KNOWN + 200), 30, key=2))
    said = {pulse.clock - T0: ("tenant-0", "key-1") in pulse.burning for _, pulse in played.panes}
    first = min(at for at in said if said[at] and at > KNOWN * 1000)
    waited = {at for at in said if first <= at <= (KNOWN + 200) * 1000}
    judged = {slice.at for slice in played.of(1)}
    assert len(waited - judged) >= 5
    assert all(said[at] for at in waited)


def test_a_tenant_that_is_behind_is_not_taken_for_silent() -> None:
    calls = flushed((0, 600), 30) + flushed((0, 600), 0, key=5)
    told = TenantMeters()
    without = TenantMeters()
    spent, believed = [], []
    for _, pulse in Played(calls).panes:
        told.fold(pulse)
        without.fold(replace(pulse, tenants=replace(pulse.tenants, grace=np.zeros_like(pulse.tenants.grace))))
        if 200_000 <= pulse.clock - T0 <= 590_000:
            spent.append(told.spent(60_000)["tenant-0"] / 3e9)
            believed.append(without.spent(60_000)["tenant-0"] / 3e9)
    assert (min(spent), max(spent)) == (1.0, 1.0)
    assert min(believed) < 0.6


def test_how_far_a_tenant_is_behind_survives_old_words_and_a_restart() -> None:
    played = Played(flushed((0, 400), 30) + flushed((0, 400), 0, key=5))
    pulses = [pulse for _, pulse in played.panes]
    tenants = TenantMeters()
    for pulse in [*pulses, *pulses[::3]]:
        for part in pulse.parts(700):
            tenants.fold(Pulse.read(part))
    assert dict(tenants.behind(0)) == {"tenant-0": 30_000}
    again = TenantMeters()
    again.restore(tenants.snapshot())
    again.fold(pulses[2])
    assert dict(again.behind(0)) == {"tenant-0": 30_000}
    days_later = replace(pulses[-1], partition=1, clock=pulses[-1].clock + 51 * HOUR)
    again.fold(days_later)
    assert dict(again.behind(0)) == {}, "who is forgotten is not remembered to be behind"
    older = {name: column for name, column in tenants.snapshot().items() if not name.startswith("behind.")}
    fresh = TenantMeters()
    fresh.restore(older)
    assert dict(fresh.behind(0)) == {}


def test_a_checkpoint_from_before_there_was_grace_goes_on_with_none() -> None:
    line, fresh = pipeline(), pipeline()
    line.feed(batch(sorted(flushed((0, 300), 30))))
    fresh.restore({name: column for name, column in line.snapshot().items() if not name.startswith("grace.")})
    assert not fresh._graces.tenants["grace"].any()
    wrong = np.zeros(1, TENANT)
    wrong["grace"] = 7
    with pytest.raises(BadCheckpoint, match="grace"):
        Graces().restore({"tenants": wrong})
