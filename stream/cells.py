"""Hourly usage: a cell for every key, model, feature, operation, tier and hour, summed exactly and said as it changes."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64, OTHER, Batch
from schemas.rollup import MEASURES, UNKNOWN, Named
from schemas.snapshot import BadCheckpoint, Snapshot, number, of_numbers, of_texts, records, texts
from stream.classes import classes
from stream.measures import GUESSED, USD
from stream.windows import AHEAD, HOUR

SELDOM = ("guessed_usd", "cache_write", "cache_write_1h", "reasoning", "audio_input", "audio_output", "web_searches")
WORDS = ("who", "what", "when", "calls", "usd", "fresh", "cached", "output", "said", *SELDOM)
"""Of a cell: key and model; feature, operation and tier; hour and `counted`; `calls` as last said; its measures. What most
calls touch are the first eight: one line of the processor's cache."""
WHO, WHAT, WHEN, CALLS, SPENT, FRESH, CACHED, OUTPUT, SAID, FIRST_SELDOM = range(10)
BOOKS = 48
"""The bit of a cell's calls (as many as are below it) from which on each is a price book that they were priced by."""
MOST_BOOKS = 15
OF_MEASURES = [WORDS.index(name) for name in MEASURES]
CELL = np.dtype([(name, np.int64) for name in WORDS])
LINE = 64
"""Bytes"""
AT_ONCE = 256
REACH = 1
"""Hours behind the clock's whose cells are in memory."""
MOST_SAID = 20_000
"""Cells said at a time: the responder writes some 75,000 a second, and acts on nobody meanwhile."""


@njit(cache=True, inline="always")
def _place_of(who, what, when, mask):  # type: ignore[no-untyped-def]  # numba infers the types
    h = np.uint64(who) * np.uint64(0x9E3779B185EBCA87)
    h = (h ^ np.uint64(what)) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(when)) * np.uint64(0x165667B19E3779F9)
    return (h >> np.uint64(32)) & mask


@njit(cache=True)
def fold_calls(rows, when, named, inputs, outputs, searches, sums, now, book, cells, used, places):  # type: ignore[no-untyped-def]
    """Add the calls `rows` to their cells. Returns (cells used, calls under a name OTHER).

    A call whose hour is more than REACH before `now`, the clock's, has a cell of its hour that is `counted` now. The cells
    of AT_ONCE calls are looked for before the first is added to, so that they come from memory together.
    """
    ts, clock = when
    key, model, feature, operation, tier = named
    mask = np.uint64(len(places) - 1)
    words = np.empty((AT_ONCE, 3), np.int64)
    spots = np.empty(AT_ONCE, np.uint64)
    found = np.empty(AT_ONCE, np.int64)
    others = 0
    for lo in range(0, len(rows), AT_ONCE):
        n = min(AT_ONCE, len(rows) - lo)
        for j in range(n):
            i = rows[lo + j]
            at = clock[i] if ts[i] > clock[i] + AHEAD else ts[i]
            hour = at // HOUR
            words[j, WHO] = np.int64(key[i]) << 32 | model[i]
            words[j, WHAT] = np.int64(feature[i]) << 32 | operation[i] << 2 | tier[i]
            words[j, WHEN] = hour << 32 | (hour if hour >= now - REACH else now)
            others += feature[i] == OTHER or operation[i] == OTHER
            spots[j] = _place_of(words[j, WHO], words[j, WHAT], words[j, WHEN], mask)
        for j in range(n):
            found[j] = places[spots[j]] - 1
        for j in range(n):
            if not _is(cells, max(found[j], 0), words[j]):
                found[j] = -1
        for j in range(n):
            i = rows[lo + j]
            row = found[j]
            if row < 0:
                row, used = _find(words[j], spots[j], mask, cells, used, places)
            fresh, cached, write, write_1h, output, reasoning, audio_in, audio_out, searched = classes(
                i, inputs, outputs, searches
            )
            cells[row, CALLS] = (cells[row, CALLS] | book) + 1
            cells[row, SPENT] += sums[i, USD]
            cells[row, FRESH] += fresh
            cells[row, CACHED] += cached
            cells[row, OUTPUT] += output
            if sums[i, GUESSED] | write | write_1h | reasoning | audio_in | audio_out | searched:
                seldom = (sums[i, GUESSED], write, write_1h, reasoning, audio_in, audio_out, searched)
                for s in range(len(seldom)):
                    cells[row, FIRST_SELDOM + s] += seldom[s]
    return used, others


@njit(cache=True, inline="always")
def _is(cells, row, words):  # type: ignore[no-untyped-def]
    """Whether the cell in `row` is the one that `words` name."""
    return (cells[row, WHO] == words[WHO]) & (cells[row, WHAT] == words[WHAT]) & (cells[row, WHEN] == words[WHEN])


@njit(cache=True)
def _find(words, place, mask, cells, used, places):  # type: ignore[no-untyped-def]
    """The row of the cell that `words` name, a new one where there is none, and how many are used then."""
    row = places[place] - 1
    while row >= 0:
        if _is(cells, row, words):
            return row, used
        place = (place + np.uint64(1)) & mask
        row = places[place] - 1
    places[place] = used + 1
    cells[used, :] = 0
    cells[used, : len(words)] = words
    return used, used + 1


@njit(cache=True)
def _enter(cells, used, places):  # type: ignore[no-untyped-def]
    """Enter cells that differ from one another."""
    mask = np.uint64(len(places) - 1)
    for row in range(used):
        place = _place_of(cells[row, WHO], cells[row, WHAT], cells[row, WHEN], mask)
        while places[place]:
            place = (place + np.uint64(1)) & mask
        places[place] = row + 1


def _room(cells: int) -> I64:
    """Memory that begins where a line of the cache does; what is not used yet takes none."""
    words = np.zeros(cells * len(WORDS) + LINE // 8, np.int64)
    first = -words.ctypes.data % LINE // 8
    return words[first : first + cells * len(WORDS)].reshape(cells, len(WORDS))


def values_of(cells: I64) -> I64:
    """The MEASURES of cells."""
    held: I64 = cells[:, OF_MEASURES]
    held[:, MEASURES.index("calls")] &= (1 << BOOKS) - 1
    return held


def _with(own: str, books: list[str], held: int) -> list[str]:
    """The names of price books by their bit: UNKNOWN, those that cells hold, and the own one where a bit is free for it."""
    named = [UNKNOWN, *(name if held >> n & 1 else "" for n, name in enumerate(books[1:MOST_BOOKS], 1))]
    if own not in named:
        if "" not in named and len(named) < MOST_BOOKS:
            named.append("")
        if "" in named:
            named[named.index("")] = own
    return named


class Cells:
    """The cells of the clock's hour and the one before; what comes later than that has cells of its own.

    A cell's values only grow, and it is never begun again: once its time is over it leaves, and a call of its hour that
    comes even later is counted in another cell of that hour, told apart by `counted`. So whoever holds the largest
    value of every cell holds exactly what the calls came to. Calls are priced by `book` from here on; a cell whose calls
    were priced by several has all their names.
    """

    def __init__(self, book: str = UNKNOWN, most_said: int = MOST_SAID) -> None:
        self._most_said = most_said
        self._own = book
        self._books = _with(book, [], 0)
        self._cells = _room(1024)
        self._places = np.zeros(2048, np.int32)
        self._used = 0
        self._next = 0

    def __len__(self) -> int:
        return self._used

    def fold(self, batch: Batch, clock: I64, sums: I64, rows: NDArray[np.intp], now: int) -> int:
        """Add calls, those of `rows`; `now` is the clock's hour. Returns how many had a feature or operation OTHER."""
        self._grow(len(rows))
        self._used, others = fold_calls(
            rows,
            (batch.ts, clock),
            (batch.key, batch.model, batch.feature, batch.operation, batch.tier),
            (batch.input_tokens, batch.cached_input_tokens, batch.cache_write_tokens, batch.cache_write_1h_tokens),
            (batch.output_tokens, batch.reasoning_tokens, batch.audio_input_tokens, batch.audio_output_tokens),
            batch.web_search_requests,
            sums,
            now,
            1 << BOOKS + self._books.index(self._own if self._own in self._books else UNKNOWN),
            self._cells,
            self._used,
            self._places,
        )
        return int(others)

    def take(self, now: int) -> I64:
        """The cells to be said as the clock's hour is `now` (rows x words): those that changed since they were, at most so
        many that the next ones may wait for their turn, and all of those that now leave."""
        cells = self._cells[: self._used]
        leaving = (cells[:, WHEN] & 0xFFFFFFFF) < now - REACH
        changed = cells[:, SAID] != cells[:, CALLS]
        staying = np.flatnonzero(changed & ~leaving)
        if len(staying) > self._most_said:
            staying = np.roll(staying, -int(np.searchsorted(staying, self._next)))[: self._most_said]
            self._next = int(staying[-1]) + 1
        rows = np.concatenate([np.flatnonzero(changed & leaving), staying])
        cells[rows, SAID] = cells[rows, CALLS]
        said: I64 = cells[rows]
        if leaving.any():
            self._keep(cells[~leaving])
        return said

    def rest(self) -> I64:
        """All cells that changed since they were said; they will be said again."""
        cells = self._cells[: self._used]
        changed: I64 = cells[cells[:, SAID] != cells[:, CALLS]]
        return changed

    def every(self) -> I64:
        """All cells."""
        return self._cells[: self._used].copy()

    def books(self, cells: I64) -> tuple[Named, I32]:
        """The names of the price books of cells, and for each of them an index into those."""
        sets, place = np.unique(cells[:, CALLS] >> BOOKS, return_inverse=True)
        named = ([book for n, book in enumerate(self._books) if bits >> n & 1] for bits in sets.tolist())
        return tuple((",".join(sorted(books)),) for books in named), place.astype(np.int32)

    def since(self, now: int) -> int:
        """The first hour in which a cell may be counted when the clock's hour is `now`."""
        return max(0, now - REACH)

    def snapshot(self) -> Snapshot:
        """The cells as records, so that a measure added later starts at 0."""
        cells: Snapshot = {"cells": self._cells[: self._used].view(CELL)[:, 0], "books": of_texts(self._books)}
        return cells | of_numbers(next=self._next)

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know them leaves none. Raises BadCheckpoint."""
        cells = records(snapshot, "cells", CELL).view(np.int64).reshape(-1, len(WORDS))
        if (cells < 0).any():
            raise BadCheckpoint("a cell of usage holds less than nothing")
        untold = cells[:, CALLS] >> BOOKS == 0
        cells[np.ix_(untold, [CALLS, SAID])] |= 1 << BOOKS
        held = int(np.bitwise_or.reduce(cells[:, CALLS])) >> BOOKS
        self._books = _with(self._own, texts(snapshot, "books") if "books" in snapshot else [], held)
        self._keep(cells)
        self._next = number(snapshot, "next", default=0)

    def _keep(self, cells: I64) -> None:
        """Only these; the memory stays, the next hour needs as much."""
        self._used, self._next = 0, 0
        self._grow(len(cells))
        self._used = len(cells)
        self._cells[: self._used] = cells
        self._index()

    def _grow(self, calls: int) -> None:
        """Make room for a cell for each of `calls` more calls."""
        if self._used + calls > len(self._cells):
            cells = _room(max(self._used + calls, 2 * len(self._cells)))
            cells[: self._used] = self._cells[: self._used]
            self._cells = cells
        if 2 * len(self._cells) > len(self._places):
            self._index()

    def _index(self) -> None:
        """Open addressing that is at most half full."""
        self._places = np.zeros(1 << (2 * len(self._cells) - 1).bit_length(), np.int32)
        _enter(self._cells, self._used, self._places)
