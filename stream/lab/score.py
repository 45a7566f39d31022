"""Alerts held against labels: what was found, how soon and at what price, and who was disturbed for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream.lab.alerts import Alert
from stream.lab.labels import Label, Labels, RightAction

AFTERGLOW_S = 1800.0
"""An alert so long after the end of what happened is still about it."""
LADDER = ("none", "notify", "downgrade", "throttle", "block", "rotate")
"""What an alert can come to, weakest first."""
OFFSETS = 20
RESAMPLES = 2000
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Rate:
    """So much of so many; rates of several trials pool by their sums. Nothing of nothing has no value."""

    top: float
    bottom: float

    @property
    def value(self) -> float | None:
        return self.top / self.bottom if self.bottom else None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many incidents rose to each severity, and how many actions were taken: each once for an incident id."""

    notices: int = 0
    tickets: int = 0
    pages: int = 0
    actions: int = 0

    @staticmethod
    def of(alerts: Iterable[Alert]) -> Tally:
        alerts = list(alerts)
        rises = [severity for _, severity in {(alert.incident, alert.severity) for alert in alerts}]
        actions = {(alert.incident, alert.action) for alert in alerts if alert.acts}
        return Tally(rises.count("notice"), rises.count("ticket"), rises.count("page"), len(actions))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.notices + other.notices,
            self.tickets + other.tickets,
            self.pages + other.pages,
            self.actions + other.actions,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one label.

    `delay` is from its material moment to the first alert, negative for one before; None: missed. `action` is the strongest
    that was taken, `right` the one that would have been. Without an alert, or an action, all of `usd` was spent before it.
    `notifications` counts every alert.
    """

    label: str
    scenario: str
    kind: str | None
    material: bool
    usd: float
    right: RightAction
    delay: float | None
    kind_right: bool
    usd_before_alert: float
    usd_before_action: float
    notifications: int
    tally: Tally
    action: str

    @property
    def found(self) -> bool:
        return self.delay is not None

    @property
    def wants_more(self) -> bool:
        """Whether more than telling people is right."""
        return LADDER.index(self.right) > LADDER.index("notify")

    @property
    def acted_right(self) -> bool:
        return self.action == self.right

    @property
    def overacted(self) -> bool:
        """Whether the action was stronger than the right one; telling people is never too strong."""
        return LADDER.index(self.action) > max(LADDER.index(self.right), LADDER.index("notify"))


@dataclass(frozen=True, slots=True)
class Score:
    """What came of the labels of one or several trials, and of the time in which there were none.

    `false` counts alerts about no label in `key_days` of traffic. Of `raised` incidents, which are those that were paged
    or ticketed, `true` were about what they should.
    """

    outcomes: tuple[Outcome, ...]
    key_days: float
    false: Tally
    raised: int
    true: int

    @property
    def incidents(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind is not None]

    @property
    def material(self) -> list[Outcome]:
        return [outcome for outcome in self.incidents if outcome.material]

    @property
    def lookalikes(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind is None]

    def delay(self, percent: float) -> float | None:
        """The delay that this part of the material incidents that were found did not exceed."""
        delays = [outcome.delay for outcome in self.material if outcome.delay is not None]
        return float(np.percentile(delays, percent)) if delays else None


Measure = Callable[[Score], Rate]


def _mean(outcomes: list[Outcome], of: Callable[[Outcome], float]) -> Rate:
    return Rate(sum(map(of, outcomes)), len(outcomes))


def _per_100_keys_and_day(count: float, score: Score) -> Rate:
    return Rate(100 * count, score.key_days)


def _found(score: Score) -> list[Outcome]:
    return [outcome for outcome in score.material if outcome.found]


MEASURES: dict[str, Measure] = {
    "recall": lambda score: _mean(score.material, lambda o: o.found),
    "recall_all": lambda score: _mean(score.incidents, lambda o: o.found),
    "kind_right": lambda score: _mean(_found(score), lambda o: o.kind_right),
    "right_action": lambda score: _mean(score.material, lambda o: o.acted_right),
    "over_action": lambda score: _mean(score.material, lambda o: o.overacted),
    "usd": lambda score: _mean(score.material, lambda o: o.usd),
    "usd_before_alert": lambda score: _mean(score.material, lambda o: o.usd_before_alert),
    "usd_before_action": lambda score: _mean([o for o in score.material if o.wants_more], lambda o: o.usd_before_action),
    "notifications": lambda score: _mean(_found(score), lambda o: o.notifications),
    "precision": lambda score: Rate(score.true, score.raised),
    "false_pages": lambda score: _per_100_keys_and_day(score.false.pages, score),
    "false_tickets": lambda score: _per_100_keys_and_day(score.false.tickets, score),
    "false_notices": lambda score: _per_100_keys_and_day(score.false.notices, score),
    "false_actions": lambda score: _per_100_keys_and_day(score.false.actions, score),
    "lookalikes_acted_on": lambda score: _mean(score.lookalikes, lambda o: o.tally.actions > 0),
}
"""Everything but `recall_all` looks at material incidents; `kind_right` and `notifications` at those that were found,
`usd_before_action` at those where more than telling is right.

The false ones are per 100 keys and day.
"""


def score(alerts: Iterable[Alert], labels: Labels) -> Score:
    """What the alerts come to; their order does not matter.

    An alert is about a label that concerns its entity, from its start until AFTERGLOW_S after its end; of several about
    the one whose kind it names, else about the one that started last. What lies outside the scored part counts for
    nothing: alerts, labels that start or become material outside, and alerts about such labels.
    """
    scored = {label.id for label in labels.labels if _within(labels, label.start) and _within(labels, label.material_at)}
    candidates: dict[tuple[str, str], list[Label]] = {}
    told: dict[str, list[Alert]] = {}
    nothing: list[Alert] = []
    raised: set[str] = set()
    true: set[str] = set()
    for alert in alerts:
        if not _within(labels, alert.at):
            continue
        entity = (alert.tenant, alert.key_id)
        if entity not in candidates:
            candidates[entity] = [label for label in labels.labels if label.concerns(*entity)]
        label = _about(alert, candidates[entity])
        if label is None:
            nothing.append(alert)
        elif label.id in scored:
            told.setdefault(label.id, []).append(alert)
        else:
            continue
        if alert.severity != "notice":
            raised.add(alert.incident)
            if label is not None and not label.lookalike:
                true.add(alert.incident)
    return Score(
        outcomes=tuple(_outcome(label, told.get(label.id, [])) for label in labels.labels if label.id in scored),
        key_days=labels.keys * (labels.until - labels.scored_from) / DAY_S,
        false=Tally.of(nothing),
        raised=len(raised),
        true=len(true),
    )


def pool(scores: Iterable[Score]) -> Score:
    """Several trials as if they were one."""
    scores = list(scores)
    return Score(
        outcomes=tuple(outcome for score in scores for outcome in score.outcomes),
        key_days=sum(score.key_days for score in scores),
        false=sum((score.false for score in scores), Tally()),
        raised=sum(score.raised for score in scores),
        true=sum(score.true for score in scores),
    )


def grouped(outcomes: Iterable[Outcome], by: Callable[[Outcome], str]) -> dict[str, Score]:
    """The outcomes of each group, in the order of the alphabet; nothing is said of the background."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(by(outcome), []).append(outcome)
    return {name: Score(tuple(groups[name]), key_days=0, false=Tally(), raised=0, true=0) for name in sorted(groups)}


def shifted(alerts: Iterable[Alert], labels: Labels, by: float) -> list[Alert]:
    """The alerts of the scored part, `by` seconds later; what passes its end begins again at its start."""
    start, span = labels.scored_from, labels.until - labels.scored_from
    return [replace(a, at=start + (a.at - start + by) % span) for a in alerts if _within(labels, a.at)]


def by_chance(alerts: Sequence[Alert], labels: Labels) -> Score:
    """What the same alerts find when their time says nothing: OFFSETS trials, all alerts of each shifted alike."""
    offsets = np.random.default_rng(labels.seed).uniform(0, labels.until - labels.scored_from, OFFSETS)
    return pool(score(shifted(alerts, labels, offset), labels) for offset in offsets.tolist())


def interval(trials: Sequence[Score], measure: Measure) -> tuple[float, float] | None:
    """The 95 % confidence interval of the pooled rate, by resampling whole trials; None for a single one."""
    if len(trials) < 2:
        return None
    rates = np.array([(rate.top, rate.bottom) for rate in map(measure, trials)])
    drawn = np.random.default_rng(0).integers(len(trials), size=(RESAMPLES, len(trials)))
    top, bottom = rates[drawn].sum(axis=1).T
    values = top[bottom > 0] / bottom[bottom > 0]
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _within(labels: Labels, at: float) -> bool:
    return labels.scored_from <= at <= labels.until


def _about(alert: Alert, candidates: list[Label]) -> Label | None:
    now = [label for label in candidates if label.start <= alert.at <= label.end + AFTERGLOW_S]
    return max(now, key=lambda label: (label.kind == alert.kind, label.start, label.id), default=None)


def _outcome(label: Label, alerts: list[Alert]) -> Outcome:
    first = min((alert.at for alert in alerts), default=None)
    acted = min((alert.at for alert in alerts if alert.acts), default=None)
    return Outcome(
        label=label.id,
        scenario=label.scenario,
        kind=label.kind,
        material=label.material,
        usd=label.usd,
        right=label.action,
        delay=None if first is None else first - label.material_at,
        kind_right=any(alert.kind == label.kind for alert in alerts),
        usd_before_alert=label.usd if first is None else label.spent_by(first),
        usd_before_action=label.usd if acted is None else label.spent_by(acted),
        notifications=len(alerts),
        tally=Tally.of(alerts),
        action=max((alert.action for alert in alerts), key=LADDER.index, default="none"),
    )
