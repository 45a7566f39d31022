"""Attempts of one request, tied together by its id where no call says which attempt it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import ABSENT, I64, Batch
from schemas.snapshot import BadCheckpoint, Snapshot, number, of_numbers, records

NEWEST_REQUESTS = 2**17
"""Of a partition: 4 MB once so many calls named one."""
WITHIN_S = 600
"""Seconds of the clock in which the attempts of a request follow its first; what comes later is another request."""
MOST_ATTEMPTS = 10
"""No client tries so often as that, waiting a little longer each time: an id that more calls have is no request's, but a
trace's or a session's, and what it says of attempts is not believed any more."""
REQUEST = np.dtype([("id", np.uint64), ("first", np.uint32), ("calls", np.uint32)])
"""A request of the window: when its first call came (epoch s), and how many have."""


@njit(cache=True)
def _enter(ring, newest, before, turn):  # type: ignore[no-untyped-def]  # numba infers the types
    """Make the request of this turn the `newest` of its place, and that of `before` the second."""
    at = turn % len(ring)
    place = ring[at].id & np.uint64(len(newest) - 1)
    before[at] = newest[place]
    newest[place] = turn


@njit(cache=True)
def _enter_all(ring, newest, before, turns):  # type: ignore[no-untyped-def]
    for turn in range(max(turns - len(ring), 0), turns):
        _enter(ring, newest, before, turn)


@njit(cache=True)
def _turn_of(ring, newest, before, turns, request):  # type: ignore[no-untyped-def]
    """The turn of a request that the window holds, -1 for any other. At a place, what has left the ring ends the search."""
    turn = newest[request & np.uint64(len(newest) - 1)]
    while turn >= max(turns - len(ring), 0):
        if ring[turn % len(ring)].id == request:
            return turn
        turn = before[turn % len(ring)]
    return -1


@njit(cache=True)
def _number(requests, clock, fresh, ring, newest, before, turns, attempt):  # type: ignore[no-untyped-def]
    """Number the calls of each request, in order, where `attempt` is absent. Returns (turns taken, calls not believed)."""
    disbelieved = 0
    for i in range(len(requests)):
        if requests[i] == 0 or not fresh[i]:
            continue
        now = clock[i] // 1000
        turn = _turn_of(ring, newest, before, turns, requests[i])
        if turn < 0 or now - ring[turn % len(ring)].first > WITHIN_S:
            turn = turns
            turns += 1
            one = ring[turn % len(ring)]
            one.id, one.first, one.calls = requests[i], now, 0
            _enter(ring, newest, before, turn)
        one = ring[turn % len(ring)]
        one.calls += 1
        if attempt[i] == ABSENT:
            if one.calls <= MOST_ATTEMPTS:
                attempt[i] = one.calls
            else:
                disbelieved += 1
    return turns, disbelieved


class Attempts:
    """The newest `size` requests of a partition (a power of two), first come first forgotten."""

    def __init__(self, size: int = NEWEST_REQUESTS) -> None:
        self._ring = np.zeros(size, REQUEST)
        self._newest: I64 = np.full(size, -1, np.int64)
        self._before: I64 = np.empty(size, np.int64)
        self._turns = 0

    def number(self, batch: Batch, clock: I64, fresh: NDArray[np.bool_]) -> tuple[Batch, int]:
        """The batch with the attempt of every `fresh` call that names a request, and how many calls are of a request id
        that more than MOST_ATTEMPTS calls have. What a call itself says of its attempt holds."""
        attempt = batch.attempt.copy()
        self._turns, disbelieved = _number(
            batch.request, clock, fresh, self._ring, self._newest, self._before, self._turns, attempt
        )
        return replace(batch, attempt=attempt), disbelieved

    def snapshot(self) -> Snapshot:
        """`ring` is the part in use, `turns` how many requests there ever were: the oldest is `ring[turns % len(ring)]`."""
        return {"ring": self._ring[: min(self._turns, len(self._ring))]} | of_numbers(turns=self._turns)

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know them leaves none. Raises BadCheckpoint."""
        ring, self._turns = records(snapshot, "ring", REQUEST), number(snapshot, "turns", default=0)
        if len(ring) != min(self._turns, len(self._ring)):
            raise BadCheckpoint(f"a window of {len(self._ring)} requests holds {len(ring)} of {self._turns}")
        self._ring[: len(ring)] = ring
        _enter_all(self._ring, self._newest, self._before, self._turns)
