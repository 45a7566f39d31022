"""What really happened in simulated traffic: every incident and look-alike, for a score to hold alerts against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from schemas.documents import DocumentError
from schemas.signals import WHOLE_TENANT

RightAction = Literal["none", "notify", "downgrade", "throttle", "rotate"]


@dataclass(frozen=True, slots=True)
class Label:
    """One planted scenario. Times in epoch seconds, money in USD.

    `kind` is what a detector should name; a look-alike has none, and any action on it is wrong. `key_ids` take part in
    it, `*` alone means all of a tenant's (as `tenant`: of several). One that has gone on since before the scored part
    starts with that. `usd` is what it cost over what the same keys would
    have cost without it, `curve` how that grew: (time, USD so far). It is `material` from `material_at` on: when it has cost
    $5 or, if that is less, a tenth of all it will (one that costs nothing: at its 100th call, else at its start).
    """

    id: str
    scenario: str
    kind: str | None
    tenant: str
    key_ids: tuple[str, ...]
    start: float
    end: float
    material_at: float
    material: bool
    usd: float
    action: RightAction
    curve: tuple[tuple[float, float], ...]

    @property
    def lookalike(self) -> bool:
        return self.kind is None

    def concerns(self, tenant: str, key_id: str) -> bool:
        """Whether an alert of this entity can be about it."""
        return _meet((tenant,), (self.tenant,)) and _meet((key_id,), self.key_ids)

    def spent_by(self, at: float) -> float:
        """USD that it had cost by then."""
        if not self.curve:
            return 0.0
        times, usd = zip(*self.curve, strict=True)
        return float(np.interp(at, times, usd, left=0.0))


def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return WHOLE_TENANT in (*one, *other) or bool({*one} & {*other})


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one file of calls, of which the part from `scored_from` to `until` counts; it has `keys` keys."""

    seed: int
    background: str
    scored_from: float
    until: float
    keys: int
    labels: tuple[Label, ...]

    def fits(self, keys: Iterable[tuple[str, str]]) -> bool:
        """Whether any of these keys (tenant, key id) has a label."""
        return any(label.concerns(tenant, key_id) for tenant, key_id in keys for label in self.labels)

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @staticmethod
    def read(path: Path) -> Labels:
        """Raises DocumentError, OSError."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=Labels)
        except msgspec.DecodeError as error:
            raise DocumentError(f"{path}: no labels as `burnguard simulate` writes them: {error}") from error
