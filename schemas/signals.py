"""What a detector saw."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from schemas.batch import Ms

Phase = Literal["open", "update", "clear"]
FAMILIES = {
    "spend_spike": "spend",
    "price_mismatch": "data",
    "telemetry_gap": "data",
}
"""Every kind that a detector can name, and the family whose episodes make one incident."""
WHOLE_TENANT = "*"
"""As a key: all keys of a tenant. As a tenant: everybody."""
OTHER_KEYS = "other"
"""As a key: those of a tenant's keys for which their partition had no room."""
SIGNAL = b"signal"
"""The record key of a signal on its topic."""
MOST: Ms = 2**62
"""No time is so large."""
ID = re.compile(r"[0-9a-f]{16}")
"""What `identity` makes."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One reason among those that made the signal: `observed` against `expected`, both in `unit`."""

    name: str
    observed: float
    expected: float
    unit: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The numbers that a person needs to believe a signal. Money in USD, times in Ms.

    `usd_per_hour` is over normal: from the last closed minute, five minutes into the episode from the last five.
    `usd_so_far` is what was spent over normal since `since`. `hot_panes` counts the 5-s panes of the last minute
    that burned. `learning` is how many of the panes a baseline needs have been seen, None for a settled baseline.
    `guessed_share` is the part of the money whose model has no known price (0..1). `known_for` is how old the
    key's baseline was when the episode began, `shortest` the shortest window that broke the rule since; None: not known.
    """

    observed: float
    expected: float
    window: Ms
    since: Ms
    usd_per_hour: float
    usd_so_far: float
    hot_panes: int
    learning: int | None
    guessed_share: float
    contributions: tuple[Contribution, ...]
    known_for: Ms | None = None
    shortest: Ms | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """What a detector saw of one entity, at the end (`at`) of the pane that tipped it; the episode began at `started`.

    The pipeline adds its `partition`, and in `config` the hash of the price book and thresholds that it judged by.
    """

    id: str
    kind: str
    phase: Phase
    episode: str
    tenant: str
    key_id: str
    at: Ms
    started: Ms
    evidence: Evidence
    partition: int = 0
    config: str = ""

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def read(message: bytes) -> Signal:
        """The signal that `to_json` wrote, of a kind that this version knows. Raises msgspec.DecodeError for all else."""
        try:
            signal = msgspec.json.decode(message, type=Signal)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(f"not a signal: {error}") from error
        if signal.kind not in FAMILIES:
            raise msgspec.ValidationError(f"this version does not know the kind {signal.kind!r}")
        if ID.fullmatch(signal.id) is None:
            raise msgspec.ValidationError("a signal's id is 16 hex digits")
        if not (0 <= signal.at < MOST and 0 <= signal.started < MOST and 0 <= signal.partition < 2**31):
            raise msgspec.ValidationError("a signal's time or partition cannot be")
        return signal


def identity(*parts: str | int) -> str:
    """A deterministic id: BLAKE2b-64 (RFC 7693) of the parts, as 16 hex digits.

    >>> identity("spend_spike", "acme", "key-1", 1700000000000) == identity("spend_spike", "acme", "key-1", 1700000000000)
    True
    """
    return hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).hexdigest()
