"""Spend: a key costs far more than it ever did, over a minute, an hour or anything between (the money rule)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from detectors.base import Names
from detectors.kernels import (
    ACCEPTED,
    CLEAR,
    COLUMNS,
    HOT,
    LASTING,
    NOTHING,
    OPEN,
    QUIET_PANES,
    RATIO,
    SETTLED_PANES,
    TURN,
    YOUNG,
    judge_spend,
)
from schemas.batch import I32, NANO, SLICE, WINDOWS, Pane
from schemas.signals import Contribution, Evidence, Phase, Signal, identity
from schemas.snapshot import Snapshot, records

Gates: TypeAlias = tuple[float, float, float, float, float]
GATES_USD: Gates = (5.0, 5.0, 5.0, 10.0, 20.0)
"""Over expected, per window of WINDOWS; measured in docs/detection.md section 0."""
YOUNG_RATIO = 10.0
PEERS = 3
"""Keys that a tenant (else the partition) needs so that its median key says something."""


class SpendSpike:
    """A key spends far above its own habit.

    Opens when, over 1, 5, 15 min, 1 h or 6 h, a key cost at least a gate (`gates_usd`: $5, $10 over 1 h, $20 over 6 h) more
    than expected, and more than twice its own highest earlier such window, and still does in the twelfth of that window.
    A young key (known for under 150 minutes) is held against ten times its tenant's median key instead, and the signal
    says that it is learning. Clears after six 5-s panes below half the gate. The mean decays over a week, the highest
    window with a half-life of 30 days; it may at most double per hour, per six hours while an episode is open, so that a
    new normal is accepted slowly (the episode then clears) and an attack is not. What a key did on an earlier day about
    this time of day is no news whatever it cost, unless that episode is still open (docs/decisions/0005).

    Money rule: measured in docs/detection.md section 0; short windows: Beyer et al., The Site Reliability Workbook, ch. 5.

    >>> from detectors.spend import SpendSpike
    >>> from tests.panes import steady
    >>> [s.phase for s in steady(SpendSpike(), minutes=300, usd_per_minute=0.01, then=(3, 10.0))]
    ['open', 'update', 'update']
    >>> steady(SpendSpike(), minutes=300, usd_per_minute=0.01, then=(3, 0.02))
    []
    """

    name = "spend"

    def __init__(self, capacity: int = 64, *, gates_usd: Gates = GATES_USD) -> None:
        self._keys = np.zeros(capacity, COLUMNS)
        self._rows = 0
        self._watched: I32 = np.empty(0, np.int32)
        self._gates_usd = gates_usd
        self._gates = np.array(gates_usd) * NANO

    @property
    def config(self) -> str:
        limits = f"{RATIO} {ACCEPTED} {YOUNG_RATIO} {SETTLED_PANES} {HOT} {QUIET_PANES} {TURN} {LASTING}"
        return f"spend_spike {self._gates_usd} {limits}"

    def watched(self) -> I32:
        return self._watched

    def burning(self) -> I32:
        burning: I32 = self._watched[self._keys["burning"][self._watched]]
        return burning

    def forget(self, rows: I32) -> None:
        self._keys[rows[rows < len(self._keys)]] = np.zeros((), COLUMNS)

    def judge(self, pane: Pane, keys: Names) -> list[Signal]:
        self._grow(len(keys))
        bars = self._young_bars(pane)
        verdict = np.empty(len(pane), np.int8)
        judge_spend(
            self._keys,
            pane.key,
            pane.tenant,
            pane.start + SLICE,
            pane.cost,
            pane.guessed,
            pane.windows,
            pane.recent,
            self._gates,
            bars,
            verdict,
        )
        if (verdict == OPEN).any() or (verdict == CLEAR).any():
            known = np.union1d(self._watched, pane.key[verdict == OPEN])
            self._watched = known[self._keys["open"][known]]
        return [self._signal(pane, int(i), PHASES[int(verdict[i])], keys) for i in np.flatnonzero(verdict != NOTHING)]

    def snapshot(self) -> Snapshot:
        return {"columns": self._keys[: self._rows]}

    def restore(self, snapshot: Snapshot) -> None:
        self._keys = records(snapshot, "columns", COLUMNS)
        self._rows = len(self._keys)
        self._watched = np.flatnonzero(self._keys["open"]).astype(np.int32)

    def _grow(self, rows: int) -> None:
        self._rows = max(self._rows, rows)
        if rows > len(self._keys):
            columns = np.zeros(max(rows, 2 * len(self._keys)), COLUMNS)
            columns[: len(self._keys)] = self._keys
            self._keys = columns

    def _young_bars(self, pane: Pane) -> NDArray[np.float64]:
        """Rows x 5: what a young key must exceed; only worked out for young keys that pass a gate."""
        bars = np.zeros((len(pane), len(WINDOWS)))
        born = self._keys["born"][pane.key]
        young = (born == 0) | (pane.start + SLICE - born < YOUNG)
        over = np.flatnonzero(young & (pane.windows >= self._gates).any(axis=1))
        for tenant in set(pane.tenant[over].tolist()):
            bars[over[pane.tenant[over] == tenant]] = self._habit_of_peers(tenant)
        return bars

    def _habit_of_peers(self, tenant: int) -> NDArray[np.float64]:
        """Ten times the highest windows of the tenant's median key, else of everybody's; 0 where too few are known."""
        known = self._keys["born"] > 0
        peers = known & (self._keys["tenant"] == tenant)
        if peers.sum() < PEERS:
            peers = known
        if peers.sum() < PEERS:
            return np.zeros(len(WINDOWS))
        habit = np.maximum(self._keys["peak"][peers], self._keys["before"][peers])
        median: NDArray[np.float64] = np.median(np.maximum(habit, self._keys["now"][peers]), axis=0)
        return YOUNG_RATIO * median

    def _signal(self, pane: Pane, i: int, phase: Phase, keys: Names) -> Signal:
        row = self._keys[pane.key[i]]
        tenant, key_id = keys[int(pane.key[i])]
        end = int(pane.start[i]) + SLICE
        w = int(row["window"])
        expected = row["expected"] * np.array(WINDOWS) / 1000
        if phase == "open":
            row["since"] = pane.onset(i, WINDOWS[w], row["expected"] + self._gates[w] / 2 / (WINDOWS[w] / 1000))
        started = int(row["started"])
        fired = [v for v in range(len(WINDOWS)) if row["fired"] >> v & 1] or [w]
        rate_window = 1 if end - started >= WINDOWS[1] else 0
        over = float(pane.windows[i, rate_window]) - float(expected[rate_window])
        age_panes = (end - int(row["born"])) // 60_000
        so_far = float(row["so_far"])
        return Signal(
            id=identity("spend_spike", tenant, key_id, started, phase, end),
            kind="spend_spike",
            phase=phase,
            episode=identity("spend_spike", tenant, key_id, started),
            tenant=tenant,
            key_id=key_id,
            at=end,
            started=started,
            evidence=Evidence(
                observed=_usd(pane.windows[i, w]),
                expected=_usd(expected[w]),
                window=WINDOWS[w],
                since=int(row["since"]),
                usd_per_hour=max(0.0, round(over / NANO * 3_600_000 / WINDOWS[rate_window], 4)),
                usd_so_far=_usd(so_far),
                hot_panes=int(row["hot"]).bit_count(),
                learning=int(age_panes) if age_panes < SETTLED_PANES else None,
                guessed_share=min(1.0, round(float(row["guessed"]) / so_far, 4)) if so_far > 0 else 0.0,
                contributions=tuple(c for v in fired for c in self._reasons(pane, i, v, expected[v], age_panes)),
                known_for=started - int(row["born"]),
                shortest=WINDOWS[fired[0]],
            ),
        )

    def _reasons(self, pane: Pane, i: int, w: int, expected: float, age_panes: int) -> tuple[Contribution, Contribution]:
        minutes = WINDOWS[w] // 60_000
        observed = _usd(pane.windows[i, w])
        young = age_panes < SETTLED_PANES
        bar = float(self._keys["bar"][pane.key[i], w]) / (YOUNG_RATIO if young else RATIO)
        rival = "the median key's" if young else "the highest earlier"
        return (
            Contribution(f"{minutes} min over the mean", observed, _usd(expected), "USD"),
            Contribution(f"{minutes} min over {rival}", observed, _usd(bar), "USD"),
        )


PHASES: tuple[Phase, ...] = ("open", "update", "clear")


def _usd(nano: float | np.int64 | np.float64) -> float:
    return round(float(nano) / NANO, 6)
