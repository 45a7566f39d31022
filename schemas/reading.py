"""What a partition's meters of uses stand at: said once a minute, absolute; the largest holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.batch import I64, Ms
from schemas.pulse import MOST, PART_BYTES

READING = b"reading"
"""The record key of a part of a reading on its topic."""
Ends: TypeAlias = tuple[int, ...]
"""For each column of a table what no number there reaches."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Three tables of one partition at `clock` (Ms); the first column of each is an index into `names`, in rising order.

    `names` are uses: (tenant, feature, provider, model), "" where none was named. `health`: use, span, absolute slot, then
    what its calls came to. `seen`: use, place, and the minute in which an item of that place was last seen. `sizes`: use,
    what, place, absolute slot, bucket, and how many calls are in it. What spans, places and buckets are say
    `stream/health.py`, `stream/distinct.py` and `stream/sketches.py`.
    """

    partition: int
    clock: Ms
    names: tuple[tuple[str, str, str, str], ...]
    health: I64
    seen: I64
    sizes: I64

    def parts(self, limit: int = PART_BYTES) -> Iterator[bytes]:
        """The reading as messages of at most `limit` bytes; each stands alone, in any order.

        Raises ValueError where even one use does not fit.
        """
        message = msgspec.msgpack.encode(
            _Reading(self.partition, self.clock, self.names, *(_wire(t) for t in (self.health, self.seen, self.sizes)))
        )
        if len(message) <= limit:
            yield message
        elif len(self.names) <= 1:
            raise ValueError("one use of a reading is larger than a part may be")
        else:
            half = len(self.names) // 2
            yield from self._of(0, half).parts(limit)
            yield from self._of(half, len(self.names)).parts(limit)

    @staticmethod
    def read(message: bytes, ends: tuple[Ends, Ends, Ends]) -> Reading:
        """The reading (or part) that `parts` wrote, every number of its tables at least 0 and below its column's end.

        Raises msgspec.DecodeError for everything else.
        """
        try:
            wire = msgspec.msgpack.decode(message, type=_Reading)
            tables = [_read(t, len(e)) for t, e in zip((wire.health, wire.seen, wire.sizes), ends, strict=True)]
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(f"not a reading: {error}") from error
        except ValueError as error:
            raise msgspec.ValidationError(f"a table of a reading has a wrong size: {error}") from error
        if not (0 <= wire.partition < 2**31 and 0 <= wire.clock < MOST):
            raise msgspec.ValidationError(f"a reading of partition {wire.partition} at {wire.clock} cannot be")
        for table, end in zip(tables, ends, strict=True):
            if len(table) and not ((table >= 0).all() and (table < end).all() and table[:, 0].max() < len(wire.names)):
                raise msgspec.ValidationError("a reading names a use, a place, a slot or a number that cannot be")
        if not all(tenant and model for tenant, _, _, model in wire.names):
            raise msgspec.ValidationError("a reading names nobody, or no model")
        return Reading(wire.partition, wire.clock, wire.names, *tables)

    def _of(self, lo: int, hi: int) -> Reading:
        """Uses lo..hi-1."""
        tables = []
        for table in (self.health, self.seen, self.sizes):
            first, end = np.searchsorted(table[:, 0], (lo, hi))
            rows = table[first:end].copy()
            rows[:, 0] -= lo
            tables.append(rows)
        return Reading(self.partition, self.clock, self.names[lo:hi], *tables)


class _Reading(msgspec.Struct, array_like=True):
    partition: int
    clock: int
    names: tuple[tuple[str, str, str, str], ...]
    health: bytes
    seen: bytes
    sizes: bytes


def _wire(table: I64) -> bytes:
    """By column, as 4 bytes a number where all of them fit."""
    short = not len(table) or table.max() < 2**32
    return (b"4" if short else b"8") + table.T.astype("<u4" if short else "<i8").tobytes()


def _read(table: bytes, width: int) -> I64:
    dtype: dict[bytes, type[np.generic]] = {b"4": np.uint32, b"8": np.int64}
    if table[:1] not in dtype:
        raise ValueError(f"it begins with {table[:1]!r}")
    found: NDArray[np.generic] = np.frombuffer(table, dtype[table[:1]], offset=1).reshape(width, -1)
    return np.ascontiguousarray(found.T.astype(np.int64))
