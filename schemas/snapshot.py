"""A part's state as named arrays: what a checkpoint is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

Snapshot: TypeAlias = dict[str, NDArray[Any]]
"""Array by name; only the rows that are in use. An array of records has a dtype of named fields, without padding.

The arrays alias live state: a caller must copy them before the part goes on. What `restore` makes of them is the part's
own (copied, writable, able to grow), and the part must be a fresh one.
"""


class BadCheckpoint(ValueError):
    """A checkpoint that cannot be used, and what is wrong with it."""


def joined(**parts: Snapshot) -> Snapshot:
    """The arrays of all parts, each as `part.name`."""
    return {f"{part}.{name}": array for part, snapshot in parts.items() for name, array in snapshot.items()}


def part(snapshot: Snapshot, name: str) -> Snapshot:
    """The arrays of one part, by their own names; empty where the snapshot does not know the part."""
    return {n.removeprefix(f"{name}."): array for n, array in snapshot.items() if n.startswith(f"{name}.")}


def array(snapshot: Snapshot, name: str, dtype: DTypeLike, *row: int, room: int = 0) -> NDArray[Any]:
    """A copy of the array `name`, whose rows have the shape `row`, with room for so many more rows (of zeros).

    Raises BadCheckpoint where it is missing or another.
    """
    if name not in snapshot:
        raise BadCheckpoint(f"array {name} is missing")
    found = snapshot[name]
    if found.dtype != np.dtype(dtype) or found.ndim != 1 + len(row) or found.shape[1:] != row:
        raise BadCheckpoint(f"array {name} is {found.dtype} {found.shape}, not {np.dtype(dtype)} {('n', *row)}")
    copy = np.zeros((len(found) + room, *row), dtype)
    copy[: len(found)] = found
    return copy


def records(snapshot: Snapshot, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A copy of the records `name`: a field that they lack is 0, one that `dtype` does not know is dropped.

    No records at all are the same as none of them. Raises BadCheckpoint where a field is another than it was.
    """
    found = snapshot.get(name, np.empty(0, dtype))
    if found.ndim != 1 or found.dtype.fields is None:
        raise BadCheckpoint(f"array {name} is {found.dtype} {found.shape}, not records")
    copy = np.zeros(len(found), dtype)
    for field in (dtype.fields or {}).keys() & found.dtype.fields.keys():
        if found.dtype[field] != dtype[field]:
            raise BadCheckpoint(f"field {field} of {name} is {found.dtype[field]}, not {dtype[field]}")
        copy[field] = found[field]
    return copy


def alike(snapshot: Snapshot, *names: str) -> None:
    """Raises BadCheckpoint where the arrays are not all there, with equally many rows."""
    missing = [name for name in names if name not in snapshot or not snapshot[name].ndim]
    if missing:
        raise BadCheckpoint(f"array {missing[0]} is missing")
    if len({len(snapshot[name]) for name in names}) > 1:
        raise BadCheckpoint(f"arrays {', '.join(names)} have {[len(snapshot[name]) for name in names]} rows")


def of_numbers(**numbers: int) -> Snapshot:
    """Each number as an array of one int64."""
    return {name: np.array([value], np.int64) for name, value in numbers.items()}


def number(snapshot: Snapshot, name: str, default: int | None = None) -> int:
    """The number `name`. Raises BadCheckpoint where it is missing and has no default."""
    if default is not None and name not in snapshot:
        return default
    found = array(snapshot, name, np.int64)
    if len(found) != 1:
        raise BadCheckpoint(f"array {name} has {len(found)} rows, not one number")
    return int(found[0])


def of_texts(texts: Iterable[str]) -> NDArray[Any]:
    """A few texts as bytes (JSON)."""
    return np.frombuffer(msgspec.json.encode(list(texts)), np.uint8)


def texts(snapshot: Snapshot, name: str) -> list[str]:
    """The texts that `of_texts` packed. Raises BadCheckpoint."""
    try:
        return msgspec.json.decode(array(snapshot, name, np.uint8).tobytes(), type=list[str])
    except msgspec.DecodeError as error:
        raise BadCheckpoint(f"array {name} does not hold texts: {error}") from error
