"""A partition's meters beside its rings of dollars and tokens: how calls went, whose they were, how large, which session."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.base import Names
from schemas.batch import I32, I64, UNNAMED, Batch, Ms
from schemas.reading import Reading
from schemas.snapshot import Snapshot, joined, part
from stream.columns import Column, Columns
from stream.distinct import MANY, REACH, Distinct
from stream.health import Health
from stream.measures import USD
from stream.pairs import Pairs
from stream.sessions import Sessions
from stream.sketches import Sketches
from stream.windows import MINUTE


class Marks(Columns):
    """A mark for every row."""

    marked: NDArray[np.bool_]

    def __init__(self, capacity: int = 64) -> None:
        super().__init__({"marked": Column(np.bool_)}, capacity)


class Group:
    """What the calls of each of several rows came to: all their sums, how many were behind them, and how large they were."""

    def __init__(self) -> None:
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
        named = rows[calls]
        self._marks.marked[named[named >= 0]] = True

    def take_marked(self) -> I64:
        """The rows that had a call since they were last taken."""
        rows = np.flatnonzero(self._marks.marked[: self._marks.rows])
        self._marks.marked[rows] = False
        return rows

    def standing(self, rows: I64, first: int) -> tuple[I64, I64, I64]:
        """The three tables of a Reading: what these rows stand at, the first of them being entity `first`."""
        health, seen, sizes = (
            np.column_stack([places + first, *columns])
            for places, *columns in (self.health.standing(rows), self.seen.standing(rows), self.sizes.standing(rows))
        )
        return health, seen, sizes

    def unite(self, reading: Reading, rows: I64) -> None:
        """Take in what a reading says of its entities, which are `rows` here: the largest holds."""
        health, seen, sizes = reading.health, reading.seen, reading.sizes
        self.health.unite(rows[health[:, 0]], health[:, 1], health[:, 2], health[:, 3:])
        self.seen.unite(rows[seen[:, 0]], seen[:, 1], seen[:, 2])
        self.sizes.unite(rows[sizes[:, 0]], *sizes[:, 1:].T)

    def idle(self, now: Ms) -> NDArray[np.bool_]:
        """Which rows had no call for so long that all their meters are empty: since before yesterday."""
        idle: NDArray[np.bool_] = self.seen.head[: self.seen.rows] < now // MINUTE - 2 * REACH
        return idle

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these, closed up."""
        for columns in self._columns().values():
            columns.keep(rows)

    def forget(self, rows: I64) -> None:
        """These rows begin anew."""
        for columns in self._columns().values():
            columns.forget(rows)

    def snapshot(self) -> Snapshot:
        return joined(**{name: columns.snapshot() for name, columns in self._columns().items()})

    def restore(self, snapshot: Snapshot, rows: int) -> None:
        """Of so many rows; what the checkpoint does not know is empty. Raises BadCheckpoint."""
        for name, columns in self._columns().items():
            columns.restore(part(snapshot, name), rows)

    def _columns(self) -> dict[str, Columns]:
        return {"health": self.health, "seen": self.seen, "sizes": self.sizes, "marks": self._marks}


class Meters:
    """Of keys: how their calls went and who was behind them. Of tenants, their features and their models: all of Group.

    They are folded call by call; neither the order of calls nor how late they are changes them, as far as they reach.
    """

    def __init__(self) -> None:
        self.key_health = Health()
        self.key_seen = Distinct()
        self.tenants = Group()
        self.features = Group()
        self.models = Group()
        self.of_features = Pairs()
        self.of_models = Pairs()
        self.sessions = Sessions()

    def grow(self, keys: int, tenants: int) -> None:
        """Make room for so many keys and tenants."""
        self.key_health.grow(keys)
        self.key_seen.grow(keys)
        self.tenants.grow(tenants)

    def add(self, batch: Batch, clock: I64, sums: I64, calls: I64) -> int:
        """The calls `calls` (places in the batch), sums x OF_A_CALL; one that is ahead of its clock is counted at the clock.

        Returns how many have a feature or a model too many.
        """
        ts = np.minimum(batch.ts, clock)
        self.key_health.add(calls, batch.key, ts, sums)
        self.key_seen.add(calls, batch.key, ts, (batch.user, batch.address, batch.session, batch.fingerprint))
        self.sessions.add(calls, batch.session, batch.key, ts, sums)
        self.tenants.add(batch, calls, batch.tenant, ts, sums)
        homeless = 0
        feature = np.where(batch.feature == UNNAMED, -1, batch.feature)
        for group, pairs, named in ((self.features, self.of_features, feature), (self.models, self.of_models, batch.model)):
            rows, unmetered = pairs.rows(calls, batch.tenant, named)
            group.grow(len(pairs))
            group.add(batch, calls, rows, ts, sums)
            homeless += unmetered
        return homeless

    def reading(self, partition: int, clock: Ms, tenants: Names, features: Names, models: Names) -> Reading | None:
        """What the meters of all stand at that had a call since the last reading; None where nobody had."""
        taken = [(group, group.take_marked()) for group in (self.tenants, self.features, self.models)]
        own, of_features, of_models = (rows for _, rows in taken)
        names = [(tenants[t][0], "", "", "") for t in own.tolist()]
        names += [(tenants[t][0], features[f][0], "", "") for t, f in self.of_features.of(of_features)]
        names += [(tenants[t][0], "", models[m][0], models[m][1]) for t, m in self.of_models.of(of_models)]
        if not names:
            return None
        first = np.cumsum([0, *(len(rows) for _, rows in taken)])
        tables = zip(*(group.standing(rows, int(at)) for (group, rows), at in zip(taken, first, strict=False)), strict=True)
        return Reading(partition, clock, tuple(names), *(np.concatenate(table) for table in tables))

    def tidy(self, now: Ms) -> None:
        """Features and models that nobody used for longer than their meters reach leave."""
        for group, pairs in ((self.features, self.of_features), (self.models, self.of_models)):
            idle = group.idle(now)
            if idle.any():
                group.keep(~idle)
                pairs.keep(~idle)

    def forget_keys(self, rows: I64) -> None:
        """These rows begin anew, as another key's."""
        self.key_health.forget(rows)
        self.key_seen.forget(rows)
        self.sessions.forget(rows)

    def forget_tenants(self, rows: I64) -> None:
        """These rows begin anew, as another tenant's."""
        self.tenants.forget(rows)
        for group, pairs in ((self.features, self.of_features), (self.models, self.of_models)):
            left = ~np.isin(pairs.firsts, rows)
            group.keep(left)
            pairs.keep(left)

    def snapshot(self) -> Snapshot:
        return joined(**{name: meter.snapshot() for name, meter in vars(self).items()})

    def restore(self, snapshot: Snapshot, keys: int, tenants: int) -> None:
        """Of so many keys and tenants; what the checkpoint does not know begins empty. Raises BadCheckpoint."""
        for name, plain in (("of_features", self.of_features), ("of_models", self.of_models), ("sessions", self.sessions)):
            plain.restore(part(snapshot, name))
        rows = {"key_health": keys, "key_seen": keys, "tenants": tenants}
        rows |= {"features": len(self.of_features), "models": len(self.of_models)}
        for name, count in rows.items():
            getattr(self, name).restore(part(snapshot, name), count)
