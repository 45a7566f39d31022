"""Mix: which models are asked for, and what that is said to cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from schemas.batch import Ms
from schemas.signals import WHOLE_TENANT, Contribution, Evidence, Phase, Signal, identity
from schemas.snapshot import BadCheckpoint, Snapshot, of_texts, records, texts

EVERY: Ms = 300_000
"""How often claims are compared."""
FEW = 0.05
IN_A_ROW = 6
USD = 5.0
IDLE: Ms = 86_400_000
RULE = f"price_mismatch {EVERY} {FEW} {IN_A_ROW} {USD} {IDLE}"
"""What `PriceMismatch` judges by, as text."""
TenantModel: TypeAlias = tuple[str, str, str]
"""Tenant, provider or "", model."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What some calls cost in USD: `paid` by our prices, `listed` before the tenant's discount, `claimed` by their emitter.

    An emitter that knows of the discount is right, and so is one that does not, or of a part of it.
    """

    paid: float
    listed: float
    claimed: float

    @property
    def expected(self) -> float:
        """What the emitter should claim: of what is right the nearest."""
        return min(max(self.claimed, self.paid), self.listed)

    def side(self, share: float) -> int:
        """1 where the claim is too high by more than a share of what is expected, -1 where it is too low, 0 where neither.

        >>> [Claim(8.0, 10.0, claimed).side(0.05) for claimed in (7.5, 7.7, 9.0, 10.4, 10.6)]
        [-1, 0, 0, 0, 1]
        """
        gap = self.claimed - self.expected
        return int(np.sign(gap)) if abs(gap) > share * self.expected else 0


@dataclass(slots=True)
class Streak:
    """Comparisons since `since` that are off to one `side`: how many, and their sums in USD; `fine` are those that were
    not, in a row, after it had opened; `heard` is when there was last anything to compare."""

    side: int
    since: Ms
    heard: Ms = 0
    off: int = 0
    fine: int = 0
    open: bool = False
    expected: float = 0.0
    claimed: float = 0.0


STREAK = np.dtype(
    [(name, np.int64) for name in ("side", "since", "heard", "off", "fine", "open")]
    + [(name, np.float64) for name in ("expected", "claimed")]
)


class PriceMismatch:
    """What an emitter says that a tenant's calls to a model cost is not what they cost by our prices, and that persists.

    Opens when six comparisons in a row (five minutes each; those without a call do not count) were off by more than 5 % to
    the same side, and by $5 in all. One that is not off ends the row; between 2.5 and 5 % it says nothing. Clears after six
    comparisons in a row within 2.5 %, or off to the other side, or after a day without a claim.
    One episode a tenant and model of a partition, about all keys: its calls are compared whatever key they have.

    >>> from detectors.mix import EVERY, Claim, PriceMismatch
    >>> judge = PriceMismatch(partition=0).judge
    >>> wrong = {("acme", "openai", "gpt-4o"): Claim(paid=1.0, listed=1.0, claimed=2.0)}
    >>> [[s.phase for s in judge(n * EVERY, wrong)] for n in range(1, 8)]
    [[], [], [], [], [], ['open'], ['update']]
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._streaks: dict[TenantModel, Streak] = {}

    @property
    def watches(self) -> bool:
        """Whether an episode is open: then `judge` must be called even where nothing was claimed."""
        return any(streak.open for streak in self._streaks.values())

    def judge(self, at: Ms, claims: Mapping[TenantModel, Claim]) -> list[Signal]:
        """What the claims of the EVERY before `at` show. Callers must go on in time order."""
        for named, claim in claims.items():
            self._follow(named, claim, at)
        said = []
        for named, streak in sorted(self._streaks.items()):
            phase = self._phase(named, streak, at)
            if phase is not None:
                said.append(self._signal(named, streak, phase, at))
        return said

    def snapshot(self) -> Snapshot:
        rows = [tuple(getattr(streak, name) for name in STREAK.names or ()) for streak in self._streaks.values()]
        return {
            "names": of_texts(name for named in self._streaks for name in named),
            "streaks": np.array(rows, STREAK),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """An empty snapshot leaves no streak. Raises BadCheckpoint."""
        if not snapshot:
            return
        names, rows = texts(snapshot, "names"), records(snapshot, "streaks", STREAK).tolist()
        if len(names) != 3 * len(rows):
            raise BadCheckpoint(f"{len(rows)} streaks have {len(names)} names")
        for n, (side, since, heard, off, fine, is_open, *sums) in enumerate(rows):
            tenant, provider, model = names[3 * n : 3 * n + 3]
            self._streaks[tenant, provider, model] = Streak(side, since, heard, off, fine, bool(is_open), *sums)

    def _follow(self, named: TenantModel, claim: Claim, at: Ms) -> None:
        side, streak = claim.side(FEW), self._streaks.get(named)
        if side and (streak is None or (side != streak.side and not streak.open)):
            streak = self._streaks[named] = Streak(side, at - EVERY)
        if streak is None:
            return
        streak.heard = at
        if side == streak.side:
            streak.off += 1
            streak.fine = 0
            streak.expected += claim.expected
            streak.claimed += claim.claimed
        elif side or not claim.side(FEW / 2):
            streak.fine += 1
            if not streak.open:
                del self._streaks[named]

    def _phase(self, named: TenantModel, streak: Streak, at: Ms) -> Phase | None:
        if streak.fine >= IN_A_ROW or at - streak.heard >= IDLE:
            del self._streaks[named]
            return "clear" if streak.open else None
        if streak.open:
            return "update"
        streak.open = streak.off >= IN_A_ROW and abs(streak.claimed - streak.expected) >= USD
        return "open" if streak.open else None

    def _signal(self, named: TenantModel, streak: Streak, phase: Phase, at: Ms) -> Signal:
        tenant, provider, model = named
        name = f"{provider}/{model}" if provider else model
        apart = abs(streak.claimed - streak.expected)
        episode = identity("price_mismatch", tenant, WHOLE_TENANT, provider, model, streak.since, self._partition)
        evidence = Evidence(
            observed=streak.claimed,
            expected=streak.expected,
            window=at - streak.since,
            since=streak.since,
            usd_per_hour=apart * 3_600_000 / (at - streak.since),
            usd_so_far=apart,
            hot_panes=0,
            learning=None,
            guessed_share=0.0,
            contributions=(Contribution(name, streak.claimed, streak.expected, "USD"),),
        )
        return Signal(
            id=identity(episode, phase, at),
            kind="price_mismatch",
            phase=phase,
            episode=episode,
            tenant=tenant,
            key_id=WHOLE_TENANT,
            at=at,
            started=streak.since,
            evidence=evidence,
        )
