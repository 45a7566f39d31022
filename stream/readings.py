"""What tenants, their features and their models stand at over all partitions, put together from readings; and the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TypeAlias

import numpy as np

from schemas.batch import I64, Ms
from schemas.pulse import MOST
from schemas.reading import Reading
from schemas.snapshot import BadCheckpoint, Snapshot, array, joined, of_texts, part, texts
from stream.distinct import BLOCKS, KINDS, MANY, Distinct
from stream.figures import Totals
from stream.health import SPANS
from stream.measures import OF_A_CALL
from stream.meters import Group
from stream.sketches import BUCKETS, PLACES, WHAT, quantile
from stream.windows import U32_MAX

ENDS = (
    (MOST, len(SPANS), *[MOST] * (1 + OF_A_CALL)),
    (MOST, len(KINDS) * BLOCKS * MANY, MOST),
    (MOST, len(WHAT), PLACES, MOST, BUCKETS, U32_MAX + 1),
)
"""Of every column of a reading's tables what no number reaches: what is beyond the arrays that it goes to is refused."""
Use: TypeAlias = tuple[str, str, str, str]
"""Tenant, feature, provider, model."""


@dataclass(frozen=True, slots=True)
class Whose:
    """A tenant (None: the fleet), or a feature or model of it; a model is (provider or "", name)."""

    tenant: str | None
    feature: str = ""
    model: tuple[str, str] = ("", "")


class Readings:
    """The largest of everything that every partition said holds, so that neither order nor repetition matters."""

    def __init__(self) -> None:
        self._group = Group()
        self._rows: dict[tuple[int, Use], int] = {}
        self._of: dict[Whose, list[int]] = {Whose(None): []}

    def fold(self, reading: Reading) -> None:
        """Take in what a partition said."""
        rows = np.array([self._row((reading.partition, use)) for use in reading.names], np.int64)
        self._group.grow(len(self._rows))
        self._group.unite(reading, rows)

    def tidy(self, now: Ms) -> None:
        """Uses whose meters are all empty leave."""
        kept = ~self._group.idle(now)
        if not kept.all():
            places = list(compress(self._rows, kept))
            self._group.keep(kept)
            self._rows, self._of = {}, {Whose(None): []}
            for place in places:
                self._row(place)

    def known(self) -> list[Whose]:
        """The fleet, and everybody of whom anything was ever said."""
        return list(self._of)

    def totals(self, whose: Whose, span: Ms, at: Ms) -> Totals:
        """What the calls of a span of SPANS came to: of the slot that `at` lies in and of the whole one before it."""
        sums = self._group.health.window(self._mine(whose), span, at).sum(axis=0)
        return Totals(*sums.tolist())

    def distinct(self, whose: Whose, window: Ms, at: Ms) -> dict[str, float]:
        """About how many users, addresses, sessions and fingerprints the last whole minutes of a window saw."""
        one = Distinct(MANY, capacity=1)
        one.grow(1)
        row, place, minute = self._group.seen.standing(self._mine(whose))
        one.unite(np.zeros_like(row), place, minute)
        return dict(zip(KINDS, one.count(np.zeros(1, np.int64), window, at)[0].tolist(), strict=True))

    def quantile(self, whose: Whose, what: str, q: float, span: Ms, at: Ms) -> float | None:
        """The tokens or nano-dollars (`what` of WHAT) that a share q of the calls of a span do not exceed."""
        counts = sum((self._group.sizes.window(int(row), what, span, at) for row in self._mine(whose)), np.zeros(1, np.int64))
        return quantile(counts, what, q)

    def snapshot(self) -> Snapshot:
        rows: Snapshot = {
            "partition": np.array([partition for partition, _ in self._rows], np.int32),
            "uses": of_texts(text for _, use in self._rows for text in use),
        }
        return rows | joined(group=self._group.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """A snapshot that does not know them leaves none. Raises BadCheckpoint."""
        if not snapshot:
            return
        partitions, flat = array(snapshot, "partition", np.int32).tolist(), texts(snapshot, "uses")
        if len(flat) != 4 * len(partitions):
            raise BadCheckpoint(f"{len(partitions)} uses have {len(flat)} names")
        for partition, *use in zip(partitions, *(flat[n::4] for n in range(4)), strict=True):
            self._row((partition, (use[0], use[1], use[2], use[3])))
        self._group.restore(part(snapshot, "group"), len(partitions))

    def _row(self, place: tuple[int, Use]) -> int:
        if place not in self._rows:
            row = self._rows[place] = len(self._rows)
            tenant, feature, provider, model = place[1]
            named = [Whose(tenant, feature)] if feature else []
            for whose in (Whose(None), Whose(tenant), *named, Whose(tenant, model=(provider, model))):
                self._of.setdefault(whose, []).append(row)
        return self._rows[place]

    def _mine(self, whose: Whose) -> I64:
        return np.array(self._of.get(whose, ()), np.int64)


def inflation(readings: Readings, whose: Whose, at: Ms) -> tuple[float | None, float | None]:
    """Tokens per call and tokens per active user over 1 h, as a multiple of those over 24 h; None where nothing is known."""
    of_hour, of_day = (readings.totals(whose, span, at) for span in SPANS[1:])
    users = []
    for span in SPANS[1:]:
        window = at - (at // span - 1) * span
        users.append(readings.distinct(whose, window, at)["users"])
    return of_hour.tokens_per_call_over(of_day), of_hour.tokens_per_user_over(of_day, *users)
