"""What emitters say that calls cost, beside what we say: per use, since it was last compared."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import ABSENT, I32, I64, Batch
from stream.columns import Column, Columns
from stream.measures import HIT, USD

MOST = 2**61
"""Nano-dollars; sums end there."""


def comparable(batch: Batch, guessed: NDArray[np.bool_]) -> I64:
    """The claims of a batch that say something: not those of calls whose price is a guess, or that a cache answered."""
    return np.where(guessed | (batch.response_cache == HIT), ABSENT, batch.cost_usd)


@njit(cache=True)
def add_claims(which, rows, claims, sums, ours, theirs):  # type: ignore[no-untyped-def]  # numba infers the types
    """Add the claims `which` (below 0: none) and what we say to `rows` (below 0: to none)."""
    for w in range(len(which)):
        i = which[w]
        row = rows[i]
        if row >= 0 and claims[i] >= 0:
            ours[row] = min(ours[row] + sums[i, USD], MOST)
            theirs[row] = min(theirs[row] + claims[i], MOST)


class Claims(Columns):
    """Nano-dollars of the calls that claim a cost: `ours` and `theirs` (16 bytes a row)."""

    ours: I64
    theirs: I64

    def __init__(self, capacity: int = 64) -> None:
        super().__init__({"ours": Column(np.int64), "theirs": Column(np.int64)}, capacity)

    def add(self, which: I64, rows: I32, claims: I64, sums: I64) -> None:
        """The calls `which` (places in the columns; sums x OF_A_CALL) claim `claims`."""
        add_claims(which, rows, claims, sums, self.ours, self.theirs)

    def there(self) -> I64:
        """The rows that have any."""
        return np.flatnonzero(self.ours[: self.rows] | self.theirs[: self.rows])

    def take(self) -> tuple[I64, I64, I64]:
        """The rows that have any, what we say and what they say, which begin anew."""
        rows = self.there()
        taken = rows, self.ours[rows], self.theirs[rows]
        self.forget(rows)
        return taken
