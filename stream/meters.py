"""A partition's meters beside its rings of dollars and tokens: how calls went, whose they were, how large, which session."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.base import Names
from schemas.batch import I32, I64, Batch, Ms
from schemas.reading import Reading
from schemas.snapshot import Snapshot, joined, number, of_numbers, part
from stream.claims import Claims
from stream.columns import Column, Columns
from stream.distinct import MANY, Distinct
from stream.health import SPANS, Health
from stream.measures import USD
from stream.sessions import Sessions
from stream.sketches import Sketches
from stream.uses import Uses
from stream.windows import DAY, MINUTE

MOST_SAID = 1_000
"""Uses said at a time: making and sending so many takes some 60 ms, in which nothing is folded."""


class Marks(Columns):
    """A mark for every row."""

    marked: NDArray[np.bool_]

    def __init__(self, capacity: int = 64) -> None:
        super().__init__({"marked": Column(np.bool_)}, capacity)


class Group:
    """What the calls of each of several rows came to: all their sums, how many were behind them, and how large they were."""

    def __init__(self, most_said: int = MOST_SAID) -> None:
        self._most_said = most_said
        self._next = 0
        self.health = Health(whole=True)
        self.seen = Distinct(MANY)
        self.sizes = Sketches()
        self._marks = Marks()

    def grow(self, rows: int) -> None:
        """Make room for so many rows."""
        for columns in self._columns().values():
            columns.grow(rows)

    def add(self, batch: Batch, calls: I64, rows: I32, ts: I64, sums: I64) -> None:
        """The calls `calls` (places in the batch) were of `rows` (below 0: of none), at `ts`."""
        tokens = batch.input_tokens.astype(np.int64) + batch.output_tokens
        self.health.add(calls, rows, ts, sums)
        self.seen.add(calls, rows, ts, (batch.user, batch.address, batch.session, batch.fingerprint))
        self.sizes.add(calls, rows, ts, tokens, np.ascontiguousarray(sums[:, USD]))
        self._marks.marked[rows[calls]] = True

    def take_marked(self) -> I64:
        """The rows that had a call since they were last taken, at most so many that the others may wait for their turn."""
        rows = np.flatnonzero(self._marks.marked[: self._marks.rows])
        if len(rows) > self._most_said:
            rows = np.roll(rows, -int(np.searchsorted(rows, self._next)))[: self._most_said]
            self._next = int(rows[-1]) + 1
        self._marks.marked[rows] = False
        return rows

    def standing(self, rows: I64) -> tuple[I64, I64, I64]:
        """The three tables of a Reading: what these rows stand at."""
        health, seen, sizes = (np.column_stack(meter.standing(rows)) for meter in (self.health, self.seen, self.sizes))
        return health, seen, sizes

    def unite(self, reading: Reading, rows: I64) -> None:
        """Take in what a reading says of its entities, which are `rows` here: the largest holds."""
        health, seen, sizes = reading.health, reading.seen, reading.sizes
        self.health.unite(rows[health[:, 0]], health[:, 1], health[:, 2], health[:, 3:])
        self.seen.unite(rows[seen[:, 0]], seen[:, 1], seen[:, 2])
        self.sizes.unite(rows[sizes[:, 0]], *sizes[:, 1:].T)

    def idle(self, now: Ms) -> NDArray[np.bool_]:
        """Which rows had no call for so long that all their meters are empty: since before yesterday.

        Calls that do not say who was behind them are only in `health` where a reading brought them.
        """
        rows, before = self.seen.rows, now - 2 * DAY
        seen, told = self.seen.head[:rows] >= before // MINUTE, self.health.head[:rows, 0] >= before // SPANS[0]
        idle: NDArray[np.bool_] = ~(seen | told)
        return idle

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these, closed up."""
        for columns in self._columns().values():
            columns.keep(rows)

    def snapshot(self) -> Snapshot:
        kept = joined(**{name: columns.snapshot() for name, columns in self._columns().items()})
        return kept | of_numbers(next=self._next)

    def restore(self, snapshot: Snapshot, rows: int) -> None:
        """Of so many rows; what the checkpoint does not know is empty. Raises BadCheckpoint."""
        self._next = number(snapshot, "next", default=0)
        for name, columns in self._columns().items():
            columns.restore(part(snapshot, name), rows)

    def _columns(self) -> dict[str, Columns]:
        return {"health": self.health, "seen": self.seen, "sizes": self.sizes, "marks": self._marks}


class Meters:
    """Of keys: how their calls went and who was behind them. Of uses (tenant, feature, model): all of Group, and
    what was claimed (`cost_usd`) since it was last compared. And sessions.

    They are folded call by call; neither the order of calls nor how late they are changes them, as far as they reach. What a
    tenant, a feature or a model stands at, is the sum or the union of its uses.
    """

    def __init__(self) -> None:
        self.key_health = Health()
        self.key_seen = Distinct()
        self.uses = Uses()
        self.of_uses = Group()
        self.claims = Claims()
        self.sessions = Sessions()

    def grow(self, keys: int) -> None:
        """Make room for so many keys."""
        self.key_health.grow(keys)
        self.key_seen.grow(keys)

    def add(self, batch: Batch, clock: I64, sums: I64, calls: I64) -> tuple[int, int]:
        """The calls `calls` (places in the batch), sums x OF_A_CALL; one that is ahead of its clock is counted at the clock.

        Returns how many are of a use too many, and how many sessions were forgotten.
        """
        ts = np.minimum(batch.ts, clock)
        self.key_health.add(calls, batch.key, ts, sums)
        self.key_seen.add(calls, batch.key, ts, (batch.user, batch.address, batch.session, batch.fingerprint))
        forgotten = self.sessions.add(calls, batch.session, batch.key, ts, sums)
        rows, unmetered = self.uses.rows(calls, batch.tenant, batch.feature, batch.model)
        self.of_uses.grow(len(self.uses))
        self.of_uses.add(batch, calls, rows, ts, sums)
        self.claims.grow(len(self.uses))
        self.claims.add(calls, rows, batch.cost_usd, sums)
        return unmetered, forgotten

    def reading(self, partition: int, clock: Ms, tenants: Names, features: Names, models: Names) -> Reading | None:
        """What the uses stand at that had a call since they were last said, MOST_SAID at a time; None where none had."""
        rows = self.of_uses.take_marked()
        if not len(rows):
            return None
        names = tuple((tenants[t][0], features[f][0], models[m][0], models[m][1]) for t, f, m in self.uses.of(rows))
        return Reading(partition, clock, names, *self.of_uses.standing(rows))

    def tidy(self, now: Ms) -> None:
        """Uses whose meters are all empty leave."""
        self._keep(~self.of_uses.idle(now))

    def forget_keys(self, rows: I32) -> None:
        """These rows begin anew, as another key's."""
        self.key_health.forget(rows)
        self.key_seen.forget(rows)
        self.sessions.forget(rows)

    def forget_tenants(self, rows: I32) -> None:
        """These rows of tenants are another's from now on."""
        self._keep(~np.isin(self.uses.tenants, rows))

    def snapshot(self) -> Snapshot:
        return joined(**{name: meter.snapshot() for name, meter in vars(self).items()})

    def restore(self, snapshot: Snapshot, keys: int) -> None:
        """Of so many keys; what the checkpoint does not know begins empty. Raises BadCheckpoint."""
        self.uses.restore(part(snapshot, "uses"))
        self.sessions.restore(part(snapshot, "sessions"))
        self.of_uses.restore(part(snapshot, "of_uses"), len(self.uses))
        self.claims.restore(part(snapshot, "claims"), len(self.uses))
        self.key_health.restore(part(snapshot, "key_health"), keys)
        self.key_seen.restore(part(snapshot, "key_seen"), keys)

    def _keep(self, uses: NDArray[np.bool_]) -> None:
        if not uses.all():
            self.uses.keep(uses)
            self.of_uses.keep(uses)
            self.claims.keep(uses)
