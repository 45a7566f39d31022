"""What a partition says of the usage of an hour: absolute values of cells, which only grow; the larger holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import msgspec
import numpy as np

from schemas.batch import I8, I32, I64, SERVICE_TIERS, Ms
from schemas.pulse import MOST, PART_BYTES, within

USAGE = b"usage"
"""The record key of a rollup on its topic."""
TOKEN_CLASSES = (
    "fresh",
    "cached",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
)
"""Every token of a call is in one of them, the one that it is priced as: fresh are those that are in no other input class."""
MEASURES = ("calls", "usd", "guessed_usd", *TOKEN_CLASSES, "web_searches")
"""What a cell sums; money in nano-dollars, `guessed_usd` the part of it whose model has no known price."""
UNKNOWN = "unknown"
"""A price book that nobody told of: that of calls which were priced before this was kept."""
Named: TypeAlias = tuple[tuple[str, ...], ...]
AT_ONCE = 2_000
"""Rows of a part, fewer where their names are long: one transaction of the ledger, which nobody waits for longer."""


@dataclass(frozen=True, slots=True)
class Rollup:
    """Cells of one partition, one row each: whose, of what and when, and what they hold by now.

    `clock` is when it was said (Ms, the partition's clock). `key`, `model`, `feature` and `operation` are indices into the
    names: keys are (tenant, key_id), models (provider or "", model), a feature or operation ("",) where none was given.
    `hour` (epoch hours) is that of the calls; `counted` is the same, or the hour in which calls came that were so late
    that theirs had left the partition's memory. `values` is rows x MEASURES. `book` is an index into `books`: the price book
    that made the dollars, or all of them, sorted and with commas between, where it changed within the hour.
    """

    partition: int
    clock: Ms
    keys: Named
    models: Named
    features: Named
    operations: Named
    key: I32
    model: I32
    feature: I32
    operation: I32
    tier: I8
    hour: I32
    counted: I32
    values: I64
    books: Named
    book: I32

    def __len__(self) -> int:
        return len(self.hour)

    def rows(self, lo: int, hi: int) -> Rollup:
        """Rows lo..hi-1, with the names that they use."""
        part: dict[str, Any] = {name: getattr(self, name)[lo:hi] for name in _COLUMNS}
        for name in _NAMES:
            column = name.removesuffix("s")
            part[name], part[column] = used(getattr(self, name), part[column])
        return replace(self, **part)

    def parts(self, limit: int = PART_BYTES) -> Iterator[bytes]:
        """The rollup as messages of at most `limit` bytes; each stands alone, in any order.

        Raises ValueError where even one row does not fit.
        """
        for lo in range(0, len(self), AT_ONCE):
            part = self if len(self) <= AT_ONCE else self.rows(lo, min(lo + AT_ONCE, len(self)))
            message = msgspec.msgpack.encode(_wire(part))
            if len(message) <= limit:
                yield message
            elif len(part) == 1:
                raise ValueError("one row of a rollup is larger than a part may be")
            else:
                yield from part.rows(0, len(part) // 2).parts(limit)
                yield from part.rows(len(part) // 2, len(part)).parts(limit)

    @staticmethod
    def read(message: bytes) -> Rollup:
        """The rollup (or part) that `parts` wrote. Raises msgspec.DecodeError for everything else."""
        try:
            wire = msgspec.msgpack.decode(message, type=_Rollup)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(f"not a rollup: {error}") from error
        if not (0 <= wire.partition < 2**31 and 0 <= wire.clock < MOST):
            raise msgspec.ValidationError(f"a rollup of partition {wire.partition} at {wire.clock} cannot be")
        return _checked(_read(wire))


def used(names: Sequence[tuple[str, ...]], column: I32 | I64) -> tuple[Named, I32]:
    """The names that a column of indices uses, and the column as indices into those."""
    found, places = np.unique(column, return_inverse=True)
    return tuple(names[place] for place in found.tolist()), places.astype(np.int32)


class _Rollup(msgspec.Struct, array_like=True):
    partition: int
    clock: int
    keys: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    features: tuple[tuple[str], ...]
    operations: tuple[tuple[str], ...]
    key: bytes
    model: bytes
    feature: bytes
    operation: bytes
    tier: bytes
    hour: bytes
    counted: bytes
    values: bytes
    books: tuple[tuple[str], ...] = ((UNKNOWN,),)
    book: bytes | None = None


_NAMES = ("keys", "models", "features", "operations", "books")
_COLUMNS = tuple(f.name for f in fields(Rollup) if f.name not in ("partition", "clock", *_NAMES))


def _wire(rollup: Rollup) -> _Rollup:
    wire: dict[str, Any] = {name: getattr(rollup, name) for name in _NAMES}
    wire |= {name: np.ascontiguousarray(getattr(rollup, name)).tobytes() for name in _COLUMNS}
    return _Rollup(rollup.partition, rollup.clock, **wire)


def _read(wire: _Rollup) -> Rollup:
    try:
        return Rollup(
            wire.partition,
            wire.clock,
            wire.keys,
            wire.models,
            wire.features,
            wire.operations,
            np.frombuffer(wire.key, np.int32),
            np.frombuffer(wire.model, np.int32),
            np.frombuffer(wire.feature, np.int32),
            np.frombuffer(wire.operation, np.int32),
            np.frombuffer(wire.tier, np.int8),
            np.frombuffer(wire.hour, np.int32),
            np.frombuffer(wire.counted, np.int32),
            np.frombuffer(wire.values, np.int64).reshape(-1, len(MEASURES)),
            wire.books,
            np.zeros(len(wire.tier), np.int32) if wire.book is None else np.frombuffer(wire.book, np.int32),
        )
    except ValueError as error:
        raise msgspec.ValidationError(f"a column of a rollup has a wrong length: {error}") from error


def _checked(rollup: Rollup) -> Rollup:
    """Raises msgspec.ValidationError where a row names what cannot be."""
    if len({len(getattr(rollup, name)) for name in _COLUMNS}) > 1:
        raise msgspec.ValidationError("the columns of a rollup have different lengths")
    ends = dict.fromkeys(_COLUMNS, MOST) | {name.removesuffix("s"): len(getattr(rollup, name)) for name in _NAMES}
    ends["tier"] = len(SERVICE_TIERS)
    if not all(within(getattr(rollup, name).ravel(), end) for name, end in ends.items()):
        raise msgspec.ValidationError("a rollup names an entity, an hour or a sum that cannot be")
    if any("\0" in part for names in _NAMES for name in getattr(rollup, names) for part in name):
        raise msgspec.ValidationError("a rollup has a name that cannot be")
    return rollup
