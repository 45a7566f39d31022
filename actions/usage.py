"""Rows of usage: what the ledger keeps of a rollup."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

from schemas.batch import SERVICE_TIERS, Ms
from schemas.rollup import MEASURES, Rollup

HOUR: Ms = 3_600_000
DIMENSIONS = ("tenant", "key_id", "provider", "model", "feature", "operation", "tier")
"""What usage is told apart by, beside its hour."""
Anew: TypeAlias = tuple[str, int]
"""A source, and the epoch hour from which on its usage is counted once more."""
Used: TypeAlias = dict[str, Any]
"""One row by column: hour, cell, source, counted, price_version, DIMENSIONS and MEASURES."""


def used(rollup: Rollup, source: str) -> Iterator[Used]:
    """The rows of a rollup.

    A cell is known again by where its calls come from (`source` and partition), by its names and by when it was counted.
    """
    for i, values in enumerate(rollup.values.tolist()):
        names = (
            *rollup.keys[rollup.key[i]],
            *rollup.models[rollup.model[i]],
            *rollup.features[rollup.feature[i]],
            *rollup.operations[rollup.operation[i]],
            SERVICE_TIERS[rollup.tier[i]],
        )
        told_apart = (source, str(rollup.partition), str(rollup.counted[i]), *names)
        cell = hashlib.blake2b("\0".join(told_apart).encode(), digest_size=16).hexdigest()
        row: Used = {"hour": int(rollup.hour[i]), "cell": cell, "source": source, "counted": int(rollup.counted[i])}
        row["price_version"] = rollup.books[rollup.book[i]][0]
        yield row | dict(zip(DIMENSIONS, names, strict=True)) | dict(zip(MEASURES, values, strict=True))


def holds_more(one: Used, other: Used) -> bool:
    """Whether one state of a cell is later than another: calls only grow."""
    return bool((one["calls"], one["usd"]) > (other["calls"], other["usd"]))
