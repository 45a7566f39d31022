"""What workers say on `burnguard.signals`, without workers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from schemas.batch import SLICE, Ms
from schemas.pulse import PULSE, Pulse, Slots
from schemas.signals import SIGNAL, Phase
from tests.story import KEY, signal


@dataclass(frozen=True)
class Said:
    """A record of the topic, without its offset."""

    key: bytes
    value: bytes


@dataclass(frozen=True)
class Record:
    offset: int
    key: bytes | None
    value: bytes | None


def slots(names: tuple[tuple[str, ...], ...] = (), slot: int = 0, usd: int = 0) -> Slots:
    """One 5-s slot for each name."""
    n = len(names)
    return Slots(
        names,
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int32),
        np.full(n, slot),
        np.full(n, usd),
        np.ones((n, 6), np.int64),
        np.zeros(n, np.int8),
    )


def pulse(
    clock: Ms,
    burning: tuple[tuple[str, str], ...] = (),
    partition: int = 0,
    tenants: tuple[str, ...] = ("acme",),
    usd: int = 1_000,
    limit: int = 500_000,
) -> list[Said]:
    """The parts of a pulse at the end of the pane `clock`, in which every tenant spent `usd`."""
    spent = slots(tuple((t,) for t in tenants), clock // SLICE - 1, usd)
    whole = Pulse(partition, clock, clock, {"calls": clock // SLICE}, spent, slots(), burning)
    return [Said(PULSE, part) for part in whole.parts(limit)]


def burn(at: Ms, phase: Phase = "open", started: Ms | None = None, partition: int = 0, key: tuple[str, str] = KEY) -> Said:
    """A page-worthy signal of a key."""
    seen = signal(at, phase, at if started is None else started, key)
    return Said(SIGNAL, replace(seen, partition=partition).to_json())


def logged(said: list[Said], first: int = 0) -> list[Record]:
    return [Record(first + n, s.key, s.value) for n, s in enumerate(said)]
