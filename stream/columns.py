"""Arrays with one row for each of something, that grow, begin anew and are kept together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from schemas.snapshot import BadCheckpoint, Snapshot, array

AT_ONCE = 64
"""A kernel looks at the rows of so many calls before it writes the first, so that they come from memory together."""
MOST_KEYS = 250_000
"""So many a partition keeps; `stream.rows` says which."""


@dataclass(frozen=True, slots=True)
class Column:
    """What one row of an array is, and what it holds before anything was said of it."""

    dtype: DTypeLike
    row: tuple[int, ...] = ()
    empty: int = 0


class Columns:
    """Each column is an attribute of its name; the first `rows` rows are in use."""

    def __init__(self, columns: Mapping[str, Column], capacity: int) -> None:
        self._columns = columns
        self.rows = 0
        for name, column in columns.items():
            setattr(self, name, enlarged(np.empty((0, *column.row), column.dtype), capacity, column.empty))

    def grow(self, rows: int) -> None:
        """Make room for at least `rows` rows; what is there stays."""
        self.rows = max(self.rows, rows)
        for name, column in self._columns.items():
            have: NDArray[Any] = getattr(self, name)
            if rows > len(have):
                setattr(self, name, enlarged(have, max(rows, 2 * len(have)), column.empty))

    def forget(self, rows: NDArray[np.integer[Any]]) -> None:
        """These rows begin anew."""
        for name, column in self._columns.items():
            getattr(self, name)[rows] = column.empty

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these of the rows in use, closed up."""
        for name, column in self._columns.items():
            have: NDArray[Any] = getattr(self, name)
            left = have[: self.rows][rows]
            have[: len(left)] = left
            have[len(left) : self.rows] = column.empty
        self.rows = int(rows.sum())

    def snapshot(self) -> Snapshot:
        return {name: getattr(self, name)[: self.rows] for name in self._columns}

    def restore(self, snapshot: Snapshot, rows: int) -> None:
        """Of `rows` rows; a column that the checkpoint does not know is empty. Raises BadCheckpoint."""
        for name, column in self._columns.items():
            if name in snapshot:
                kept = array(snapshot, name, column.dtype, *column.row, room=rows // 4 + 1)
                have = len(snapshot[name])
                if have != rows:
                    raise BadCheckpoint(f"array {name} has {have} rows, not {rows}")
                kept[have:] = column.empty
                setattr(self, name, kept)
        self.grow(rows)


def enlarged(column: NDArray[Any], rows: int, empty: int) -> NDArray[Any]:
    """A copy with `rows` rows; rows of zeros take no memory until they are used."""
    out = np.zeros((rows, *column.shape[1:]), column.dtype)
    out[: len(column)] = column
    if empty:
        out[len(column) :] = empty
    return out
