"""Rules that others publish, rewritten over what every key spent in every minute, to be scored beside ours.

None looks ahead: at the end of a minute a rule knows that minute and what came before. None acts.
A stretch in which a rule holds without a break is one incident, however often its source tells it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from schemas.batch import F64, I64, NANO
from schemas.directory import Directory
from schemas.policy import Severity
from schemas.signals import identity
from stream.lab.alerts import Alert
from stream.lab.spending import MINUTE_S, Spent

Holds = NDArray[np.bool_]
HOUR, DAY, MONTH = 60, 1440, 43_200
"""In minutes."""
PER_MONTH = {"month": 1.0, "week": 30 / 7, "day": 30.0}
BURN_TIERS: tuple[tuple[Severity, int, int, float], ...] = (
    ("page", HOUR, 5, 14.4),
    ("page", 6 * HOUR, 30, 6),
    ("ticket", DAY, 2 * HOUR, 3),
    ("ticket", 3 * DAY, 6 * HOUR, 1),
)
"""Severity, long window, short window, times the budget's own pace."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A rule: `says` what it does and how often it tells the same again, `source` who published it."""

    name: str
    says: str
    source: str
    alerts: Callable[[Spent, Directory], list[Alert]]


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the midnight (UTC, epoch minutes) from which the minutes of all keys count."""

    tenant: str
    key_id: str
    first: int

    def alert(self, rule: str, minute: int, began: int, usd_per_hour: float, severity: Severity = "page") -> Alert:
        """Told at the end of `minute`; what it tells of began in another or the same."""
        incident = identity(rule, severity, self.tenant, self.key_id, self.first + began)
        at = float((self.first + minute + 1) * MINUTE_S)
        return Alert(at, incident, "spend_spike", severity, self.tenant, self.key_id, "notify", usd_per_hour)


def keys(spent: Spent) -> Iterator[tuple[Key, I64]]:
    """Every key that made a call, and its nano-dollars in every minute."""
    if not len(spent.minute):
        return
    first = int(spent.minute.min()) // DAY * DAY
    for key in np.unique(spent.key).tolist():
        minute, usd = spent.of_key(key)
        dense = np.zeros(int(spent.minute.max()) + 1 - first, np.int64)
        dense[minute - first] = usd
        tenant, key_id = spent.names[key]
        yield Key(tenant, key_id, first), dense


def daily_multiple(spent: Spent, directory: Directory) -> list[Alert]:
    """Today cost $10 and more than three times the mean of the seven days before, looked at on the hour.

    Without spending in those days the $10 alone do. Told once a day.
    """
    alerts = []
    for key, usd in keys(spent):
        today = np.cumsum(_days(usd), axis=1)
        mean = _before(today[:, -1], 7) / 7
        for day in range(len(today)):
            checks = today[day, HOUR - 1 : DAY - 1 : HOUR]
            over = np.flatnonzero((checks >= 10 * NANO) & (checks > 3 * mean[day])).tolist()
            if over and (minute := day * DAY + over[0] * HOUR + HOUR - 1) < len(usd):
                rate = (checks[over[0]] - mean[day]) / (over[0] + 1) / NANO
                alerts.append(key.alert("daily_multiple", minute, day * DAY, float(rate)))
    return alerts


def static_rate(spent: Spent, directory: Directory, usd_per_hour: int) -> list[Alert]:
    """The last hour cost so much, looked at every minute. Told at most every five minutes."""
    alerts = []
    for key, usd in keys(spent):
        hour = _last(usd, HOUR) / NANO
        holds = hour >= usd_per_hour
        began = _began(holds)
        rule = f"static_rate {usd_per_hour}"
        alerts += [key.alert(rule, at, int(began[at]), float(hour[at])) for at in _cooled(holds, 5)]
    return alerts


def robust_z(spent: Spent, directory: Directory) -> list[Alert]:
    """A key that costs far more than its tenant's other keys, or than itself at this hour of the week.

    The others: if the tenant has four keys, the modified z of all that the key cost so far is 3.5; looked at every five
    minutes, told when it begins. Itself: the hour so far cost three times the mean of earlier hours of the same weekday
    and time, the newest weighing 0.3, or, where there was none, of all earlier hours; told once for that hour.
    """
    tenants: dict[str, list[tuple[Key, I64]]] = {}
    alerts = []
    for key, usd in keys(spent):
        alerts += _unlike_itself(key, usd)
        tenants.setdefault(key.tenant, []).append((key, np.cumsum(usd)[4::5]))
    for totals in tenants.values():
        alerts += _unlike_the_others([key for key, _ in totals], np.array([total for _, total in totals]) / NANO)
    return alerts


def burn_rate(spent: Spent, directory: Directory) -> list[Alert]:
    """Both windows of a tier burn the key's monthly budget so many times too fast, looked at every minute.

    The budget is the key's own in the directory; else its part of its tenant's, by what the tenant's keys cost in the 30
    days before; else three times what it cost then itself; the last two at least $100. Told when a severity begins to
    hold, and every four hours while it does.
    """
    before: dict[str, F64] = {}
    for key, usd in keys(spent):
        days = _before(_days(usd).sum(axis=1), 30) / NANO
        before[key.tenant] = before.get(key.tenant, 0.0) + days
    alerts = []
    for key, usd in keys(spent):
        pace = np.repeat(_budget(key, usd, before[key.tenant], directory), DAY)[: len(usd)] * NANO / MONTH
        burns: dict[Severity, Holds] = {}
        for severity, long, short, factor in BURN_TIERS:
            burn = (_last(usd, long) >= factor * long * pace) & (_last(usd, short) >= factor * short * pace)
            burns[severity] = burns.get(severity, False) | burn
        over = (_last(usd, HOUR) - HOUR * pace) / NANO
        for severity, holds in burns.items():
            began = _began(holds)
            alerts += [
                key.alert("burn_rate", at, int(began[at]), float(over[at]), severity)
                for at in _repeated(holds, began, 4 * HOUR)
            ]
    return alerts


def median_multiple(spent: Spent, directory: Directory) -> list[Alert]:
    """Ten minutes cost more than ten times the key's median ten minutes of the day before.

    Minutes without spending do not count, and there must be six others. Told when it begins, and every four hours.
    """
    alerts = []
    for key, usd in keys(spent):
        tens = usd[: len(usd) // 10 * 10].reshape(-1, 10).sum(axis=1) / NANO
        median = _median_before(tens, DAY // 10)
        holds = tens > 10 * median
        began = _began(holds)
        alerts += [
            key.alert("median_multiple", 10 * at + 9, 10 * int(began[at]), float(6 * (tens[at] - median[at])))
            for at in _repeated(holds, began, 24)
        ]
    return alerts


def clock(spent: Spent, directory: Directory) -> list[Alert]:
    """Every six hours, for every key that has ever cost anything."""
    alerts = []
    for key, usd in keys(spent):
        total = np.cumsum(usd)
        ticks = range(6 * HOUR - 1, len(usd), 6 * HOUR)
        alerts += [key.alert("clock", minute, minute, 0.0) for minute in ticks if total[minute]]
    return alerts


BASELINES = (
    Baseline(
        "daily multiple",
        "today > 3x the daily mean of the last 7 days and >= $10, hourly, once a day; by key, the source does it by user",
        "LiteLLM user_spend_anomalies (litellm/integrations/SlackAlerting/user_spend_alerts.py)",
        daily_multiple,
    ),
    Baseline(
        "static $10/h",
        "the last hour >= $10, every minute, again after 5 min",
        "Bifrost Enterprise alert rules: cost over a window, 60-s sweep, 300-s cooldown (docs/enterprise/alerting)",
        partial(static_rate, usd_per_hour=10),
    ),
    Baseline(
        "static $100/h",
        "the last hour >= $100, every minute, again after 5 min",
        "the same rule, ten times higher",
        partial(static_rate, usd_per_hour=100),
    ),
    Baseline(
        "robust z + EWMA",
        "modified z of all spending >= 3.5 among a tenant's keys, or 3x the EWMA of this hour of the week; told once",
        "agent-bom (src/agent_bom/api/anomaly.py)",
        robust_z,
    ),
    Baseline(
        "burn-rate tiers",
        "14.4x in 1 h and 5 min, 6x in 6 h and 30 min (page), 3x in 1 d and 2 h, 1x in 3 d and 6 h (ticket); again after 4 h",
        "Google SRE workbook, chapter 5; Alertmanager's repeat interval",
        burn_rate,
    ),
    Baseline(
        "10x median",
        "10 min > 10x the key's median active 10 min of the last day; again after 4 h",
        "a common rule of thumb; Alertmanager's repeat interval",
        median_multiple,
    ),
    Baseline("clock", "an alert for every key every 6 h, whatever the data", "no skill at all: the floor", clock),
)


def _unlike_itself(key: Key, usd: I64) -> list[Alert]:
    minutes = np.flatnonzero(usd)
    if not len(minutes):
        return []
    hours, starts = np.unique(minutes // HOUR, return_index=True)
    alike: dict[int, float] = {}
    ever: float | None = None
    alerts = []
    for n, (hour, spending) in enumerate(zip(hours.tolist(), np.split(minutes, starts[1:]), strict=True)):
        so_far = np.cumsum(usd[spending]) / NANO
        time_of_week = hour % (7 * 24)
        usual = alike.get(time_of_week, ever)
        if usual is not None and n >= 5 and so_far[-1] >= 3 * usual:
            at = int(np.searchsorted(so_far, 3 * usual))
            rate = float(so_far[at]) - usual
            alerts.append(key.alert("robust_z itself", int(spending[at]), hour * HOUR, rate))
        alike[time_of_week] = _ewma(alike.get(time_of_week), float(so_far[-1]))
        ever = _ewma(ever, float(so_far[-1]))
    return alerts


def _unlike_the_others(tenant: list[Key], totals: F64) -> list[Alert]:
    """Columns of `totals` are five minutes apart."""
    enough = (totals > 0).sum(axis=0) >= 4
    known = np.where(totals[:, enough] > 0, totals[:, enough], np.nan)
    if not known.size:
        return []
    median = np.nanmedian(known, axis=0)
    away = np.abs(known - median)
    spread = np.nanmedian(away, axis=0)
    spread = np.where(spread > 0, spread, np.nanmean(away, axis=0))
    unlike = np.zeros(totals.shape, bool)
    unlike[:, enough] = (spread > 0) & (0.6745 * (known - median) >= 3.5 * spread)
    alerts = []
    for key, total, holds in zip(tenant, totals, unlike, strict=True):
        begins = np.flatnonzero(holds & (_began(holds) == np.arange(len(holds)))).tolist()
        hour = _last(np.diff(total, prepend=0.0), 12)
        alerts += [key.alert("robust_z others", 5 * at + 4, 5 * at, float(hour[at])) for at in begins]
    return alerts


def _budget(key: Key, usd: I64, of_tenant: F64, directory: Directory) -> F64:
    """USD a month, as it is known on each day."""
    known, tenant = directory.key(key.tenant, key.key_id), directory.tenant(key.tenant)
    own = [budget.usd * PER_MONTH[budget.per] for budget in known.budgets if budget.usd] if known else []
    days = _days(usd).sum(axis=1)
    if own:
        return np.full(len(days), min(own))
    before = _before(days, 30) / NANO
    if tenant and tenant.monthly_budget_usd:
        share = np.divide(before, of_tenant, out=np.zeros(len(days)), where=of_tenant > 0)
        budget: F64 = tenant.monthly_budget_usd * share
    else:
        age = np.clip(np.arange(len(days)) - np.argmax(days > 0), 1, 30)
        budget = 3 * before / age * 30
    return budget.clip(min=100.0)


def _days(usd: I64) -> I64:
    """One row a day; of the last one the rest is 0."""
    days: I64 = np.pad(usd, (0, -len(usd) % DAY)).reshape(-1, DAY)
    return days


def _before(values: I64 | F64, width: int) -> F64:
    """The sum of the `width` values before each; exact for nano-dollars."""
    total = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])
    place = np.arange(len(values))
    sums: F64 = (total[place] - total[np.maximum(place - width, 0)]).astype(np.float64)
    return sums


def _last(values: I64 | F64, width: int) -> F64:
    """The sum of the last `width` values, at each."""
    sums: F64 = _before(np.append(values, values[-1]), width)[1:]
    return sums


def _median_before(values: F64, width: int) -> F64:
    """The median of those of the `width` values before each that are not 0, if there are six; else infinity."""
    earlier = np.concatenate([np.zeros(width), values[:-1]])
    windows = np.sort(sliding_window_view(np.where(earlier > 0, earlier, np.inf), width), axis=1)
    count = np.isfinite(windows).sum(axis=1)
    row = np.arange(len(values))
    middle: F64 = (windows[row, np.maximum(count - 1, 0) // 2] + windows[row, np.minimum(count // 2, width - 1)]) / 2
    return np.where(count >= 6, middle, np.inf)


def _ewma(mean: float | None, value: float) -> float:
    return value if mean is None else 0.3 * value + 0.7 * mean


def _began(holds: Holds) -> I64:
    """At each step, where the stretch began in which the rule holds."""
    index = np.arange(len(holds))
    begins = holds & ~np.concatenate([[False], holds[:-1]])
    return np.maximum.accumulate(np.where(begins, index, 0))


def _repeated(holds: Holds, began: I64, every: int) -> list[int]:
    """Where a rule is told that is told when it begins to hold, and every so many steps while it does."""
    steps: list[int] = np.flatnonzero(holds & ((np.arange(len(holds)) - began) % every == 0)).tolist()
    return steps


def _cooled(holds: Holds, every: int) -> list[int]:
    """Where a rule is told that is told whenever it holds, but never twice within so many steps."""
    steps = np.flatnonzero(holds)
    told = []
    at = 0
    while at < len(steps):
        told.append(int(steps[at]))
        at = int(np.searchsorted(steps, steps[at] + every))
    return told
