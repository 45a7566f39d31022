"""Labelled traffic: an ordinary background into which scenarios are planted, the same bytes for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from schemas.prices import PriceEntry
from schemas.signals import WHOLE_TENANT
from stream.lab.calls import F64, Calls, Words, cost, encode
from stream.lab.labels import Label, Labels
from stream.lab.population import DAY_S, HOUR_S, Background, Key, between, population, repeated
from stream.lab.scenarios import SCENARIOS
from stream.lab.scene import Keys, Planted, Scenario, Scene
from stream.lab.traces import background as of_file
from stream.pricing import PriceBook

START = 1_788_739_200.0
"""Monday, 2026-09-07, 00:00 UTC."""
LEARNT = 0.5
"""The part of the time in which nothing happens yet: what a baseline may learn from."""
MATERIAL_USD, TRIFLE_USD = 5.0, 2.0
TRIES = 20
"""On how many keys a scenario is tried before it is left out: of some it changes no call, or keys that others have."""
POINTS = 100
"""Of a label's curve, at most."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Labelled traffic: calls in order of arrival, and all that an operator would have written down about them."""

    calls: Calls
    words: Words
    labels: Labels
    directory: dict[str, Any]
    prices: list[dict[str, Any]]
    left_out: tuple[str, ...]
    """Scenarios that no key was fit for."""

    def write(self, folder: Path) -> Iterator[int]:
        """The four files of a folder; yields how many calls were written, as it goes. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.labels.write(folder / "labels.json")
        for name, document in (("directory", self.directory), ("prices", self.prices)):
            (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
        with (folder / "calls.ndjson").open("wb") as file:
            for lines in encode(self.calls, self.words, f"sim{self.labels.seed}"):
                file.write(lines)
                yield lines.count(b"\n")


def simulated(seed: int, scenarios: Sequence[Scenario], source: Path | None, keys: int, days: float) -> Simulated:
    """Plant each scenario once, on keys of their own, at times of the second half. `source` is a trace or usage events.

    Raises BrokenFile, OSError.
    """
    rng = np.random.default_rng(seed)
    background = population(rng, keys, START, days) if source is None else of_file(rng, source, START, days)
    if not background.words.ids:
        background.calls["call"] = np.arange(len(background.calls))
    return Staging(rng, background, PriceBook()).played(seed, scenarios)


def drawn(seed: int, count: int) -> list[Scenario]:
    """So many scenarios, none twice before all were drawn."""
    rng = np.random.default_rng([seed, 1])
    rounds = -(-count // len(SCENARIOS))
    order = [int(n) for _ in range(rounds) for n in rng.permutation(len(SCENARIOS))]
    return [SCENARIOS[n] for n in order[:count]]


class Staging:
    """Plants scenarios into one background."""

    def __init__(self, rng: np.random.Generator, background: Background, prices: PriceBook) -> None:
        self._rng = rng
        self._background = background
        self._prices = prices
        self._keys = _past(background, prices)
        self._free = np.ones(len(background.keys), np.bool_)
        self._from = background.start + LEARNT * (background.end - background.start)

    def played(self, seed: int, scenarios: Sequence[Scenario]) -> Simulated:
        """Everything planted, sent and labelled."""
        planted = [(s, p) for s in sorted(scenarios, key=lambda s: not s.whole_tenant) if (p := self._plant(s)) is not None]
        self._prices = PriceBook([PriceEntry.model_validate(entry) for _, p in planted for entry in p.prices])
        names = [scenario.name for scenario, _ in planted]
        labels = [self._label(s, p, f"{s.name}-{names[:n].count(s.name) + 1}") for n, (s, p) in enumerate(planted)]
        calls = self._sent([p for _, p in planted])
        keys = list({key.number: key for key in (*self._background.keys, *(k for _, p in planted for k in p.keys))}.values())
        windows = [*self._windows(keys), *(window for _, p in planted for window in p.windows)]
        return Simulated(
            calls=calls,
            words=self._background.words,
            labels=Labels(
                seed=seed,
                background=self._background.name,
                scored_from=self._from,
                until=self._background.end,
                keys=len(keys),
                labels=tuple(sorted(labels, key=lambda label: label.start)),
            ),
            directory=_directory(
                keys, self._budgets() | {t: usd for _, p in planted for t, usd in p.budgets.items()}, windows
            ),
            prices=[entry for _, p in planted for entry in p.prices],
            left_out=tuple(s.name for s in scenarios if s.name not in names),
        )

    def _plant(self, scenario: Scenario) -> Planted | None:
        weights = np.where(self._free, scenario.wants(self._keys), 0.0)
        if scenario.whole_tenant:
            weights = weights * self._whole_and_small()
        for _ in range(TRIES):
            if not weights.sum():
                break
            key = self._background.keys[int(self._rng.choice(len(weights), p=weights / weights.sum()))]
            at = self._time(scenario, key)
            planted = self._in_time(scenario.plant(Scene(self._rng, self._background, self._prices, key, at)))
            taken = {key.number, *(k.number for k in planted.keys)}
            if scenario.whole_tenant:
                taken |= {k.number for k in self._background.keys if k.tenant == key.tenant}
            here = [number for number in taken if number < len(self._free)]
            if planted.happened and self._free[here].all():
                self._free[here] = False
                return planted
            weights[key.number] = 0.0
        return None

    def _in_time(self, planted: Planted) -> Planted:
        """Without the calls that would come after the end."""
        for name in ("added", "ordinary", "again"):
            calls = getattr(planted, name)
            setattr(planted, name, calls[calls["arrival_ts"] <= self._background.end])
        return planted

    def _time(self, scenario: Scenario, key: Key) -> float:
        """When it starts: in the second half, early enough to end in time."""
        latest = max(self._background.end - scenario.hours * HOUR_S, self._from + HOUR_S)
        calls = self._background.of(key, self._from, latest)
        if scenario.awake and len(calls):
            return float(self._background.calls["ts"][self._rng.choice(calls)])
        return float(self._rng.uniform(self._from, latest))

    def _whole_and_small(self) -> F64:
        """0 for the keys of a tenant that something happens to already, or that has most keys; small tenants more often."""
        tenants = np.array([key.tenant for key in self._background.keys])
        _, which, size = np.unique(tenants, return_inverse=True, return_counts=True)
        whole = size <= max(len(tenants) / 5, size.min())
        whole[which[~self._free]] = False
        return np.asarray(whole[which] / size[which] ** 2.0)

    def _windows(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Windows in which nothing came of what was declared: about one for each two tenants."""
        rng, begin, end = self._rng, self._background.start, self._background.end
        declared: list[dict[str, Any]] = []
        for tenant in sorted({key.tenant for key in keys if rng.random() < 0.2}):
            at = float(rng.uniform(begin, end))
            kind = str(rng.choice(["deploy", "load_test", "maintenance"]))
            until = at + between(rng, 1_200, 10_800)
            declared.append({"kind": kind, "tenant": tenant, "start_ts": at, "end_ts": until})
        return declared

    def _budgets(self) -> dict[str, float]:
        """What half of the tenants may cost a month: more than they do."""
        spend: dict[str, float] = {}
        for key in self._background.keys:
            spend[key.tenant] = spend.get(key.tenant, 0.0) + float(self._keys.spend[key.number])
        wide = {tenant: max(usd, 0.1) * 30 * between(self._rng, 1.3, 4) for tenant, usd in spend.items()}
        return {tenant: round(usd, 2) for tenant, usd in wide.items() if self._rng.random() < 0.5}

    def _label(self, scenario: Scenario, planted: Planted, name: str) -> Label:
        before = self._background.calls[planted.rows]
        calls = np.concatenate([planted.added, planted.changed])
        more = cost(calls, self._background.words, self._prices)
        more[len(planted.added) :] -= cost(before, self._background.words, self._prices)
        order = np.argsort(calls["ts"], kind="stable")
        at, usd = calls["ts"][order], np.cumsum(more[order])
        total = round(max(float(usd[-1]), 0.0), 6) if len(usd) else 0.0
        start, end = planted.span or ((float(at[0]), float(at[-1])) if len(at) else (self._from, self._from))
        dear = np.flatnonzero(usd >= min(MATERIAL_USD, total / 10)) if total >= 0.01 else np.empty(0, np.intp)
        when = at[dear[0]] if len(dear) else at[99] if len(at) > 99 else start
        shown = np.unique(np.linspace(0, len(at) - 1, min(POINTS, len(at))).astype(int))
        whole, tenants = scenario.whole_tenant, {key.tenant for key in planted.keys}
        return Label(
            id=name,
            scenario=scenario.name,
            kind=scenario.kind,
            tenant=tenants.pop() if len(tenants) == 1 else WHOLE_TENANT,
            key_ids=(WHOLE_TENANT,) if whole else tuple(sorted({key.key_id for key in planted.keys})),
            start=round(max(start, self._from), 3),
            end=round(end, 3),
            material_at=round(min(max(float(when), start, self._from), max(end, self._from)), 3),
            material=scenario.kind is not None and (planted.free or total >= TRIFLE_USD),
            usd=total,
            action=scenario.action,
            curve=tuple((round(float(at[n]), 3), round(max(float(usd[n]), 0.0), 6)) for n in shown) if total else (),
        )

    def _sent(self, planted: Sequence[Planted]) -> Calls:
        """The background with all that was planted, what producers send twice, and what they claim it cost."""
        calls = self._background.calls
        keep = np.ones(len(calls), np.bool_)
        for one in planted:
            keep[one.gone] = False
            self._claim(calls[one.rows], one.changed)
            calls[one.rows] = one.changed
        more = np.concatenate([calls[:0], *(part for p in planted for part in (p.added, p.ordinary))])
        more["call"] = len(calls) + np.arange(len(more))
        sent = np.concatenate([calls[keep], more, *(p.again for p in planted)])
        claims = np.array([key.claims for key in self._background.keys] + [False] * len(self._background.words.keys))
        ours = sent["call"] >= len(self._background.words.ids)
        claimed = np.flatnonzero(ours & claims[sent["key"]] & np.isnan(sent["cost_usd"]))
        sent["cost_usd"][claimed] = cost(sent[claimed], self._background.words, self._prices)
        if not self._background.words.ids:
            sent = np.concatenate([sent, repeated(self._rng, sent, 0.002)])
        in_time = (sent["ts"] >= self._background.start - HOUR_S) & (sent["ts"] <= self._background.end + HOUR_S)
        sent = sent[in_time]
        return sent[np.argsort(sent["arrival_ts"], kind="stable")]

    def _claim(self, before: Calls, changed: Calls) -> None:
        """Where a file says what a call cost, one that was changed costs as much more as its tokens do."""
        stale = np.flatnonzero((before["cost_usd"] == changed["cost_usd"]) & (before["cost_usd"] > 0))
        one, other = (cost(calls[stale], self._background.words, self._prices) for calls in (before, changed))
        changed["cost_usd"][stale] *= np.divide(other, one, out=np.ones(len(stale)), where=one > 0)


def _past(background: Background, prices: PriceBook) -> Keys:
    calls, count = background.calls, len(background.keys)
    days = max((background.end - background.start) / DAY_S, 1e-6)

    def of_key(values: F64) -> F64:
        return np.bincount(calls["key"], values, count).astype(float)

    given = np.maximum(of_key(calls["input_tokens"].astype(float)), 1)
    made = np.maximum(of_key(np.ones(len(calls))), 1)
    return Keys(
        spend=of_key(cost(calls, background.words, prices)) / days,
        calls=made / days,
        cached=of_key(np.maximum(calls["cached_input_tokens"], 0).astype(float)) / given,
        input_tokens=given / made,
        embeds=of_key((calls["operation"] == 1).astype(float)) / made,
    )


def _directory(keys: Sequence[Key], budgets: dict[str, float], windows: list[dict[str, Any]]) -> dict[str, Any]:
    tenants: dict[str, dict[str, Any]] = {}
    for key in keys:
        tenant = tenants.setdefault(key.tenant, {"tenant": key.tenant, "home_country": key.country, "keys": []})
        tenant["created_at"] = min(tenant.get("created_at", key.created_at), key.created_at)
        entry = {"key_id": key.key_id, "role": key.role, "created_at": key.created_at, "replaces": key.replaces}
        tenant["keys"].append({name: value for name, value in entry.items() if value is not None})
        if key.tenant in budgets:
            tenant["monthly_budget_usd"] = budgets[key.tenant]
    return {"tenants": list(tenants.values()), "declared_windows": windows}
