"""One partition's calls to signals and pulses: a pure object that awaits nothing and reads no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.base import Names, PaneDetector
from detectors.mix import EVERY, Claim, PriceMismatch, TenantModel
from schemas.batch import I32, I64, NANO, SLICE, Batch, Ms, Pane
from schemas.pulse import Pulse, Slots
from schemas.reading import Reading
from schemas.rollup import Rollup, used
from schemas.signals import OTHER_KEYS, Signal
from schemas.snapshot import Snapshot, array, joined, number, of_numbers, part
from stream.attempts import Attempts
from stream.cells import WHAT, WHEN, WHO, Cells, values_of
from stream.claims import comparable
from stream.dedupe import SeenIds
from stream.grace import GRACE, Graces
from stream.measures import GUESSED, USD, measures
from stream.meters import Meters
from stream.rows import Rows
from stream.skew import Skews
from stream.windows import (
    HOUR,
    LATE,
    LATE_GUESSED,
    LATE_USD,
    MEASURES,
    MINUTE,
    NEVER,
    Meter,
    OpenPanes,
    changed_slots,
    fold_rows,
)

DEAREST = 100
COUNTERS = (
    "calls",
    "unique",
    "duplicate",
    "late",
    "skewed",
    "other",
    "other_model",
    "other_key",
    "evicted",
    "unmetered",
    "forgotten_session",
    "shared_request",
    "usd",
    "guessed_usd",
)
"""Totals of a partition; `other` are calls whose feature or operation is counted as "other", `other_model` those of models
beyond the first 5,000, `other_key` those of new keys that are counted under their tenant's key "other", `evicted` the keys
that were forgotten (see Rows), `unmetered` calls of a use (tenant, feature, model) that found no room among the meters of
uses, `forgotten_session` the sessions that left for newer ones, `shared_request` calls whose request id is that of too many
(see Attempts)."""


class Prices(Protocol):
    """What a batch costs."""

    @property
    def version(self) -> str:
        """The name of the price book."""
        ...

    def cost(self, batch: Batch, models: Names, tenants: Names) -> tuple[I64, NDArray[np.bool_]]:
        """Nano-dollars per call, and whether its price is a guess."""
        ...

    def discount(self, tenant: str, provider: str, model: str, at: Ms) -> float:
        """The share that a tenant pays less for a model at a time."""
        ...


class Vocabularies(Protocol):
    """What the rows of a batch's columns stand for; the decoder's."""

    @property
    def tenants(self) -> Reused: ...
    @property
    def keys(self) -> Reused: ...
    @property
    def models(self) -> Limited: ...
    @property
    def features(self) -> Named: ...
    @property
    def operations(self) -> Named: ...


class Named(Protocol):
    """A vocabulary: row -> names."""

    @property
    def names(self) -> Names: ...


class Limited(Named, Protocol):
    """A vocabulary in which names for whom there was no room are all `other`, -1 as long as there is some."""

    @property
    def other(self) -> int: ...


class Reused(Named, Protocol):
    """A vocabulary that may give its `idle` rows to other names once all that it gave rows to is folded."""

    idle: I32

    def row(self, *parts: str) -> int:
        """The row of a name, a new one if it is new."""
        ...


@dataclass(slots=True)
class Output:
    """What came of a step, in order. It does not matter when `usage` and `readings` are said: they are absolute."""

    signals: list[Signal] = field(default_factory=list)
    pulses: list[Pulse] = field(default_factory=list)
    usage: list[Rollup] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)

    def close(self, pulse: Pulse) -> None:
        """A pane ends with its pulse: the signals since the last one are its own."""
        self.pulses.append(pulse)
        self._ends.append(len(self.signals))

    def panes(self) -> Iterator[tuple[list[Signal], Pulse]]:
        """What was said of every pane: its signals and its pulse."""
        begin = 0
        for pulse, end in zip(self.pulses, self._ends, strict=True):
            yield self.signals[begin:end], pulse
            begin = end

    def in_order(self) -> Iterator[Signal | Pulse]:
        """The signals of every pane before its pulse."""
        return (word for signals, pulse in self.panes() for word in chain[Signal | Pulse](signals, [pulse]))


class Pipeline:
    """Calls in, signals and pulses out. Cutting a batch anywhere changes nothing.

    `feed` and `advance` move the clock, which never goes back. A pane of the partition closes when the clock passes its
    end + GRACE, and with it the slice of each tenant that is due by then: an older one where the tenant has a grace.
    Raises whatever a detector or the price book raises: a broken invariant stops the worker, it is never skipped.
    """

    def __init__(
        self,
        prices: Prices,
        vocabularies: Vocabularies,
        detectors: list[PaneDetector],
        *,
        seen: SeenIds,
        attempts: Attempts | None = None,
        rows: Rows | None = None,
        partition: int = 0,
        config: str = "",
    ) -> None:
        self._prices = prices
        self._names = vocabularies
        self._detectors = detectors
        self._seen = seen
        self._attempts = attempts or Attempts()
        self._rows = rows or Rows()
        self._partition = partition
        self._config = config
        self._keys = Meter()
        self._tenants = Meter()
        self._open = OpenPanes()
        self._graces = Graces()
        self._skews = Skews()
        self._cells = Cells(prices.version)
        self.meters = Meters()
        self._mismatch = PriceMismatch(partition)
        self._tenant_of: I32 = np.zeros(64, np.int32)
        self._late: list[I64] = []
        self._clock: Ms = NEVER
        self._edge = NEVER
        self._covered = -1
        self.counters = dict.fromkeys(COUNTERS, 0)

    @property
    def clock(self) -> Ms | None:
        """The newest clock seen, None before the first call."""
        return self._clock if self._clock != NEVER else None

    def feed(self, batch: Batch) -> Output:
        """Fold the calls of a batch in order, closing every pane that the clock passes on the way."""
        output = Output()
        if not len(batch):
            return output
        fresh = self._seen.first_seen(batch.event)
        clock = np.maximum(np.maximum.accumulate(batch.clock), self._clock)
        batch, shared = self._attempts.number(batch, clock, fresh)
        self.counters["shared_request"] += shared
        cost, guessed = self._prices.cost(batch, self._names.models.names, self._names.tenants.names)
        self._grow(batch)
        batch = replace(batch, cost_usd=comparable(batch, guessed))
        sums = measures(batch, cost, guessed)
        edges = (clock - GRACE) // SLICE
        starts = np.concatenate([[0], np.flatnonzero(np.diff(edges)) + 1, [len(batch)]])
        for lo, hi in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            self._pass_to(int(edges[lo]), output)
            self._fold(batch, clock, sums, fresh, lo, hi)
            self._covered = int(batch.position[hi - 1])
        self._clock = int(clock[-1])
        self._hand_back(batch.key[~fresh], batch.tenant[~fresh])
        return output

    def advance(self, now: Ms) -> Output:
        """Let the clock move without a call. Only the source may say so.

        Where panes closed, the newest one has a pulse even if nothing happened in it: the partition says that it lives.
        """
        output = Output()
        if self._clock != NEVER and now > self._clock:
            self._clock = now
            edge, before = (now - GRACE) // SLICE, self._edge
            self._pass_to(edge, output)
            if edge > before and (not output.pulses or output.pulses[-1].clock < edge * SLICE):
                for pulse in self.present():
                    output.close(pulse)
        return output

    def present(self) -> list[Pulse]:
        """That the partition lives, as a pulse of the newest closed pane; nothing before its first call."""
        if self._edge == NEVER:
            return []
        nothing = np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, MEASURES), np.int64)
        return [self._pulse(self._edge - 1, *nothing, self._burning())]

    def clocks(self) -> dict[str, Ms]:
        """The tenants whose clocks are off, and by how much they are ahead, or below 0 behind (see Skews)."""
        return {self._names.tenants.names[row][0]: ms for row, ms in self._skews.ahead(self._clock).items()}

    def rest(self) -> list[Rollup]:
        """The usage that was not said yet, where no call comes any more."""
        cells = self._cells.rest()
        return [self._rollup(cells, self._clock)] if len(cells) else []

    def unsaid(self) -> Iterator[Reading]:
        """What the uses stand at that was not said yet, where no call comes any more."""
        while (reading := self._reading(self._clock)) is not None:
            yield reading

    def standing(self) -> tuple[int, list[Rollup]]:
        """Since which epoch hour usage may still change, and what it is by now."""
        cells = self._cells.every()
        return self._cells.since(self._edge * SLICE // HOUR), [self._rollup(cells, self._clock)] if len(cells) else []

    def count_from_here(self) -> None:
        """What was folded so far was for baselines only: usage, and what is said of clocks, begin with the next call."""
        self._cells = Cells(self._prices.version)
        self._skews = Skews()
        self._skews.grow(self._tenants.rows)

    def snapshot(self) -> Snapshot:
        """Everything that the next call depends on but the vocabularies, which are the decoder's."""
        late = np.concatenate(self._late) if self._late else np.empty((0, 3), np.int64)
        own: Snapshot = {"tenant_of": self._tenant_of[: self._keys.rows], "late": late}
        return (
            own
            | of_numbers(clock=self._clock, edge=self._edge, covered=self._covered)
            | joined(
                keys=self._keys.snapshot(),
                tenants=self._tenants.snapshot(),
                open=self._open.snapshot(),
                grace=self._graces.snapshot(self._tenants.rows),
                skew=self._skews.snapshot(),
                usage=self._cells.snapshot(),
                meters=self.meters.snapshot(),
                mismatch=self._mismatch.snapshot(),
                seen=self._seen.snapshot(),
                attempts=self._attempts.snapshot(),
                rows=self._rows.snapshot(self._keys.rows, self._tenants.rows),
                counters=of_numbers(**self.counters),
                **{detector.name: detector.snapshot() for detector in self._detectors},
            )
        )

    def restore(self, snapshot: Snapshot) -> None:
        """A counter or detector that the snapshot does not know starts afresh; so do usage, requests, graces and clocks.

        Raises BadCheckpoint.
        """
        self._keys.restore(part(snapshot, "keys"))
        self._tenants.restore(part(snapshot, "tenants"))
        self._open.restore(part(snapshot, "open"))
        self._graces.restore(part(snapshot, "grace"))
        self._graces.grow(self._tenants.rows)
        self._skews.restore(part(snapshot, "skew"), self._tenants.rows)
        self._cells.restore(part(snapshot, "usage"))
        self.meters.restore(part(snapshot, "meters"), self._keys.rows)
        self._mismatch.restore(part(snapshot, "mismatch"))
        self._seen.restore(part(snapshot, "seen"))
        self._attempts.restore(part(snapshot, "attempts"))
        for detector in self._detectors:
            detector.restore(part(snapshot, detector.name))
        counters = part(snapshot, "counters")
        self.counters = {name: number(counters, name, default=0) for name in self.counters}
        self._tenant_of = array(snapshot, "tenant_of", np.int32)
        self._late = [array(snapshot, "late", np.int64, 3)]
        self._clock, self._edge, self._covered = (number(snapshot, name) for name in ("clock", "edge", "covered"))
        self._rows.restore(part(snapshot, "rows"), self._keys.rows, self._tenants.rows, self._clock)

    def _grow(self, batch: Batch) -> None:
        keys, tenants = len(self._names.keys.names), len(self._names.tenants.names)
        self._keys.grow(keys)
        self._tenants.grow(tenants)
        self._graces.grow(tenants)
        self._skews.grow(tenants)
        self.meters.grow(keys)
        self._rows.grow(keys, tenants)
        self._open.grow(keys, len(batch))
        if keys > len(self._tenant_of):
            self._tenant_of = np.resize(self._tenant_of, max(keys, 2 * len(self._tenant_of)))
        self._tenant_of[batch.key] = batch.tenant

    def _fold(self, batch: Batch, clock: I64, sums: I64, fresh: NDArray[np.bool_], lo: int, hi: int) -> None:
        keep = lo + np.flatnonzero(fresh[lo:hi])
        kept = slice(lo, hi) if len(keep) == hi - lo else keep
        self.counters["calls"] += hi - lo
        self.counters["duplicate"] += hi - lo - len(keep)
        if not len(keep):
            return
        batch = self._with_room(batch, clock, keep)
        self._skews.add(batch.tenant[kept], clock[kept], batch.ts[kept])
        late = np.empty((len(keep), 3), np.int64)
        graces = self._graces
        self._open.used, behind, skewed, graces.news = fold_rows(
            batch.ts[kept],
            clock[kept],
            batch.key[kept],
            batch.tenant[kept],
            sums[kept],
            self._edge,
            (graces.tenants, graces.heard, graces.news),
            self._open.arena,
            self._open.keys,
            self._open.slots,
            self._open.used,
            self._open.index,
            (self._keys.usd, self._keys.counts, self._keys.head),
            (self._tenants.usd, self._tenants.counts, self._tenants.head),
            late,
        )
        if behind:
            self._late.append(late[:behind])
        self.counters["unique"] += len(keep)
        self.counters["late"] += behind
        self.counters["skewed"] += skewed
        self.counters["other"] += self._cells.fold(batch, clock, sums, keep, self._edge * SLICE // HOUR)
        self.counters["other_model"] += int((batch.model[kept] == self._names.models.other).sum())
        self.counters["usd"] += int(sums[kept, USD].sum())
        self.counters["guessed_usd"] += int(sums[kept, GUESSED].sum())
        unmetered, forgotten = self.meters.add(batch.rows(lo, hi), clock[lo:hi], sums[lo:hi], keep - lo)
        self.counters["unmetered"] += unmetered
        self.counters["forgotten_session"] += forgotten

    def _pass_to(self, edge: int, output: Output) -> None:
        """Close every slice before `edge`, and say what was used where a minute ends on the way."""
        before = self._edge
        self._make_room(edge, output)
        self._close_before(edge, output)
        if before != NEVER and edge * SLICE // MINUTE > before * SLICE // MINUTE:
            said = self._cells.take(edge * SLICE // HOUR)
            minute = edge * SLICE // MINUTE * MINUTE
            if len(said):
                output.usage.append(self._rollup(said, minute))
            reading = self._reading(minute)
            if reading is not None:
                output.readings.append(reading)
            if minute // HOUR > before * SLICE // HOUR:
                self.meters.tidy(minute)

    def _make_room(self, edge: int, output: Output) -> None:
        """At the end of every minute up to `edge`, forget who need not be known any more (see Rows)."""
        if self._edge == NEVER:
            return
        minute, last = self._edge * SLICE // MINUTE + 1, edge * SLICE // MINUTE
        for end in range(minute * MINUTE, (last + 1) * MINUTE, MINUTE):
            if not self._rows.crowded:
                break
            self._close_before(end // SLICE, output)
            self._forget_keys(end)
        if minute <= last:
            self._forget_tenants(last * MINUTE)

    def _forget_keys(self, now: Ms) -> None:
        """The rows are as if nobody had ever been in them; who comes again before they are handed back is in his own."""
        watched = np.array([row for d in self._detectors for row in d.watched()], np.int32)
        rows = self._rows.forget_keys(now, watched)
        self._keys.forget(rows)
        self.meters.forget_keys(rows)
        for detector in self._detectors:
            detector.forget(rows)
        self.counters["evicted"] += len(rows)
        _leave(self._names.keys, rows)

    def _forget_tenants(self, now: Ms) -> None:
        rows = self._rows.forget_tenants(now, self._tenant_of)
        if len(rows):
            self._tenants.forget(rows)
            self._graces.forget(rows)
            self._skews.forget(rows)
            self.meters.forget_tenants(rows)
        _leave(self._names.tenants, rows)

    def _with_room(self, batch: Batch, clock: I64, calls: NDArray[np.intp]) -> Batch:
        """The batch in which calls that found no room for their new key are their tenant's other keys'."""
        beyond = self._rows.hear(batch, clock, calls)
        if not beyond.any():
            return batch
        _leave(self._names.keys, batch.key[calls[beyond]])
        key = batch.key.copy()
        for tenant in np.unique(batch.tenant[calls[beyond]]).tolist():
            mine = calls[beyond & (batch.tenant[calls] == tenant)]
            key[mine] = self._names.keys.row(self._names.tenants.names[tenant][0], OTHER_KEYS)
        batch = replace(batch, key=key)
        self._grow(batch)
        self._rows.hear_of_others(batch, clock, calls, beyond)
        self.counters["other_key"] += int(beyond.sum())
        return batch

    def _hand_back(self, keys: I32, tenants: I32) -> None:
        """Only rows that stand for nobody are idle: of who was forgotten and did not come again, or was never let in."""
        _leave(self._names.keys, keys)
        _leave(self._names.tenants, tenants)
        of_keys, of_tenants = self._rows.unknown(self._names.keys.idle, self._names.tenants.idle)
        self._names.keys.idle, self._names.tenants.idle = of_keys, of_tenants

    def _reading(self, clock: Ms) -> Reading | None:
        names = self._names
        return self.meters.reading(self._partition, clock, names.tenants.names, names.features.names, names.models.names)

    def _rollup(self, cells: I64, clock: Ms) -> Rollup:
        keys, key = used(self._names.keys.names, cells[:, WHO] >> 32)
        models, model = used(self._names.models.names, cells[:, WHO] & 0xFFFFFFFF)
        features, feature = used(self._names.features.names, cells[:, WHAT] >> 32)
        operations, operation = used(self._names.operations.names, (cells[:, WHAT] & 0xFFFFFFFF) >> 2)
        tier = (cells[:, WHAT] & 3).astype(np.int8)
        hour, counted = ((cells[:, WHEN] >> shift & 0xFFFFFFFF).astype(np.int32) for shift in (32, 0))
        names, places = (keys, models, features, operations), (key, model, feature, operation)
        books, book = self._cells.books(cells)
        return Rollup(self._partition, clock, *names, *places, tier, hour, counted, values_of(cells), books, book)

    def _close_before(self, edge: int, output: Output) -> None:
        """Close every slice before `edge`; slices in which nothing can happen are jumped over."""
        if self._edge == NEVER:
            self._edge = edge
        if self._edge >= edge:
            return
        lowered = self._graces.follow(self._edge)
        while self._edge < edge:
            if not len(lowered) and not any(len(d.watched()) for d in self._detectors):
                self._edge = self._open.next_due(self._tenant_of, self._graces, self._edge, self._no_jump_over(edge))
                if self._edge == edge:
                    return
            self._close(self._edge, lowered, output)
            lowered = lowered[:0]
            self._edge += 1

    def _close(self, slot: int, lowered: I64, output: Output) -> None:
        """Close the partition's `slot`: one slice of every tenant that does not wait, and a second of those to be lowered."""
        watched = self._watched()
        keys, slots, sums = self._judge(slot, watched, output)
        burning = self._burning()
        if len(lowered):
            self._graces.lower(lowered)
            second = self._judge(slot, watched[np.isin(self._tenant_of[watched], lowered)], output)
            keys, slots = np.concatenate([keys, second[0]]), np.concatenate([slots, second[1]])
            sums = np.concatenate([sums, second[2]])
            burning |= self._burning()
        if slot == self._next_comparison():
            output.signals += map(self._own, self._mismatch.judge((slot + 1) * SLICE, self._claims()))
        output.close(self._pulse(slot, keys, slots, sums, burning))
        self._late.clear()

    def _judge(self, slot: int, watched: I64, output: Output) -> tuple[I32, I64, I64]:
        """One pane: what closes together with the partition's `slot`, and the `watched` of tenants that do not wait.

        Returns what was open of it: keys, each with its slice and sums.
        """
        keys, slots, sums = self._open.take(self._tenant_of, self._graces, slot)
        self._keys.add(keys, sums, slots)
        self._tenants.add(self._tenant_of[keys], sums, slots)
        judged, starts = keys, slots
        if len(watched):
            quiet = watched[~np.isin(watched, keys)].astype(np.int32)
            closing, floor = self._graces.closing(self._tenant_of[quiet], slot)
            judged = np.concatenate([keys, quiet[closing >= floor]])
            starts = np.concatenate([slots, closing[closing >= floor]])
        pane = pane_of(self._keys, starts, judged, self._tenant_of[judged], sums)
        for detector in self._detectors:
            said = detector.judge(pane, self._names.keys.names)
            said.sort(key=lambda signal: (signal.tenant, signal.key_id))
            output.signals += map(self._own, said)
        return keys, slots, sums

    def _own(self, signal: Signal) -> Signal:
        return replace(signal, partition=self._partition, config=self._config)

    def _no_jump_over(self, edge: int) -> int:
        """The slice, at most `edge`, that must be closed even if no call is in it."""
        awaited = self._mismatch.watches or len(self.meters.claims.there())
        return min(edge, self._next_comparison()) if awaited else edge

    def _next_comparison(self) -> int:
        """The slice, from the next one to be closed on, at whose end claims are compared."""
        return self._edge + -(self._edge + 1) % (EVERY // SLICE)

    def _claims(self) -> dict[TenantModel, Claim]:
        """What was claimed since it was last compared; nothing of tenants that pay nothing: nobody knows what is right."""
        tenants, models, found = self._names.tenants.names, self._names.models.names, dict[TenantModel, tuple[int, int]]()
        rows, ours, theirs = self.meters.claims.take()
        for (tenant, _, model), one, other in zip(self.meters.uses.of(rows), ours.tolist(), theirs.tolist(), strict=True):
            named = tenants[tenant][0], models[model][0], models[model][1]
            more = found.get(named, (0, 0))
            found[named] = one + more[0], other + more[1]
        share = {named: 1 - self._prices.discount(*named, self._edge * SLICE) for named in found}
        return {
            named: Claim(one / NANO, one / NANO / share[named], other / NANO)
            for named, (one, other) in found.items()
            if share[named]
        }

    def _watched(self) -> I64:
        return np.array(sorted({int(row) for d in self._detectors for row in d.watched()}), np.int64)

    def _burning(self) -> set[int]:
        """What still burned when it was last judged; a key whose tenant waits burns on until then."""
        return {int(row) for d in self._detectors for row in d.burning()}

    def _pulse(self, slot: int, keys: I32, slots: I64, sums: I64, burning: set[int]) -> Pulse:
        late = np.concatenate(self._late) if self._late else np.empty((0, 3), np.int64)
        watched = self._watched()
        newest, _ = self._graces.closing(self._tenant_of[watched], slot)
        shown = np.isin(keys, watched)
        shown[_dearest(sums[:, USD], self._rows.keys["call"][keys])] = True
        told = np.concatenate([keys[shown], watched])
        spent = np.bincount((slot - slots) * self._tenants.rows + self._tenant_of[keys])
        behind, tenant = np.divmod(np.flatnonzero(spent), self._tenants.rows)
        names = self._names.keys.names
        return Pulse(
            partition=self._partition,
            clock=(slot + 1) * SLICE,
            covered=self._covered,
            counters=dict(self.counters),
            tenants=_slots(
                self._tenants,
                self._names.tenants.names,
                np.concatenate([np.stack([tenant, slot - behind], 1), late[:, ::2]]),
                lambda tenants: self._graces.tenants["grace"][tenants],
            ),
            keys=_slots(
                self._keys,
                names,
                np.concatenate(
                    [np.stack([told, np.concatenate([slots[shown], newest])], 1), late[np.isin(late[:, 1], told), 1:]]
                ),
                lambda keys: self._graces.tenants["grace"][self._tenant_of[keys]],
            ),
            burning=tuple((n[0], n[1]) for n in (names[row] for row in sorted(burning))),
        )


def _dearest(usd: I64, call: I64) -> NDArray[np.intp]:
    """Which keys of a pane were the dearest; of those that cost the same, the ones whose last call came first."""
    if len(usd) <= DEAREST:
        return np.arange(len(usd))
    least = np.partition(usd, -DEAREST)[-DEAREST]
    dearer, tied = np.flatnonzero(usd > least), np.flatnonzero(usd == least)
    return np.concatenate([dearer, tied[np.argsort(call[tied])[: DEAREST - len(dearer)]]])


def _leave(names: Reused, rows: I32) -> None:
    """Perhaps nobody needs these rows any more."""
    if len(rows):
        names.idle = np.concatenate([names.idle, rows])


def pane_of(meter: Meter, slots: I64, keys: I32, tenants: I32, sums: I64) -> Pane:
    """The pane of slices, one for each key, that the meter has: `sums` is of the first of `keys`, row by row; the others
    spent nothing."""
    spent = np.zeros((len(keys), MEASURES), np.int64)
    spent[: len(sums)] = sums
    cost, guessed = spent[:, USD] + spent[:, LATE_USD], spent[:, GUESSED] + spent[:, LATE_GUESSED]
    windows, recent = meter.windows(keys, slots)
    recent[:, 0] = cost
    return Pane(
        start=slots * SLICE,
        key=keys,
        tenant=tenants,
        cost=cost,
        guessed=guessed,
        late=spent[:, LATE],
        windows=windows,
        recent=recent,
        onset=lambda i, window, rate: meter.onset(int(keys[i]), int(slots[i]), window, rate),
    )


def _slots(meter: Meter, names: Names, touched: I64, grace: Callable[[I64], I64]) -> Slots:
    """The absolute values of what changed: for each (row, 5-s slot) of `touched` the slots of every ring."""
    used, entity, ring, slot, usd, counts = changed_slots(meter.usd, meter.counts, meter.head, touched)
    return Slots(tuple(names[row] for row in used.tolist()), entity, ring, slot, usd, counts, grace(used).astype(np.int8))
