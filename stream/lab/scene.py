"""What a scenario needs to plant something into ordinary traffic, and what it says that it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.batch import ABSENT
from stream.lab.calls import F64, OPERATIONS, Calls, Rows, Words, blank, cost, fingerprints
from stream.lab.labels import RightAction
from stream.lab.population import (
    AGENTS,
    COUNTRIES,
    DAY_S,
    HOUR_S,
    MODELS,
    Background,
    Key,
    arrivals,
    between,
    fail,
    latency,
    send,
)
from stream.pricing import PriceBook

MOST_CALLS = 40_000
"""Calls that one scenario adds at most; one that would need more burns more slowly."""
FEWEST_CALLS = 10
"""What happens to fewer is nothing that anybody could see."""
DEAR = (("anthropic", "claude-opus-4-1"), ("anthropic", "claude-opus-4-5"), ("openai", "o1"))
FOREIGN = tuple("KP RU VN NG RO CN BD UA ID MA PK TR IR KZ GE ES IT MX SG TH".split())
TOOLS = ("python-requests/2.32", "curl/8.9", "Go-http-client/2.0", "aiohttp/3.14", "axios/1.7", "oai-reverse-proxy", *AGENTS)
"""Clients of strangers: odd ones, and those that everybody has."""


@dataclass(slots=True)
class Planted:
    """What a scenario did: calls that it added, rows of the background that it changed or took out, what it told people.

    `ordinary` are added calls that are no part of it, such as a job's earlier runs; `again` are sent a second time, with
    their ids. `keys` are those it is about. One that is `free` matters although it costs nothing. `span` is its time where
    no call shows it.
    """

    keys: Sequence[Key]
    added: Calls = field(default_factory=lambda: blank(0))
    ordinary: Calls = field(default_factory=lambda: blank(0))
    again: Calls = field(default_factory=lambda: blank(0))
    rows: Rows = field(default_factory=lambda: np.empty(0, np.intp))
    changed: Calls = field(default_factory=lambda: blank(0))
    gone: Rows = field(default_factory=lambda: np.empty(0, np.intp))
    free: bool = False
    span: tuple[float, float] | None = None
    windows: list[dict[str, Any]] = field(default_factory=list)
    budgets: dict[str, float] = field(default_factory=dict)
    prices: list[dict[str, Any]] = field(default_factory=list)

    @property
    def happened(self) -> bool:
        """Whether enough calls, or a price, are not as they were."""
        return len(self.prices) > 0 or len(self.added) + len(self.changed) + len(self.gone) >= FEWEST_CALLS


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that happens to traffic. `kind` is what it is called, None for what only looks like trouble.

    `wants` says which keys it can happen to (a weight for each; all 0: it cannot), `hours` how long it takes at most;
    one that is `awake` starts while the key makes calls, others at any hour; where it is about a `whole_tenant`, nothing
    else happens to that tenant's keys.
    """

    name: str
    kind: str | None
    action: RightAction
    says: str
    hours: float
    plant: Callable[[Scene], Planted]
    wants: Callable[[Keys], F64]
    awake: bool
    whole_tenant: bool


def planted(
    kind: str | None,
    action: RightAction,
    hours: float,
    wants: Callable[[Keys], F64] | None = None,
    awake: bool = False,
    whole_tenant: bool = False,
) -> Callable[[Callable[[Scene], Planted]], Scenario]:
    """Makes a function that plants something a Scenario of its name; its docstring says what happens."""

    def made(plant: Callable[[Scene], Planted]) -> Scenario:
        says = " ".join((plant.__doc__ or "").split())
        return Scenario(plant.__name__, kind, action, says, hours, plant, wants or any_key, awake, whole_tenant)

    return made


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key's past, as far as a scenario chooses by it: USD and calls a day, shares of its tokens and calls."""

    spend: F64
    calls: F64
    cached: F64
    input_tokens: F64
    embeds: F64


def any_key(keys: Keys) -> F64:
    """Every key alike."""
    return np.ones(len(keys.spend))


def busy(keys: Keys) -> F64:
    """Keys that spend, dear ones more often."""
    return np.where(keys.calls >= 50, keys.spend, 0.0)


def caching(keys: Keys) -> F64:
    """Busy keys most of whose prompt is cached."""
    return np.where(keys.cached > 0.5, busy(keys), 0.0)


def talking(keys: Keys) -> F64:
    """Busy keys whose calls are answered in words."""
    return np.where(keys.embeds < 0.5, busy(keys), 0.0)


def chatting(keys: Keys) -> F64:
    """Busy keys that people talk to: prompts are short."""
    return np.where(keys.input_tokens < 12_000, talking(keys), 0.0)


@dataclass(slots=True)
class Scene:
    """One key at one time, for a scenario to happen to."""

    rng: np.random.Generator
    background: Background
    prices: PriceBook
    key: Key
    at: float

    @property
    def words(self) -> Words:
        return self.background.words

    def vary(self, low: float, high: float) -> float:
        """A number between, log-uniform."""
        return between(self.rng, low, high)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def rows(self, hours: float, since: float = 0.0, keys: Sequence[Key] | None = None) -> Rows:
        """The background's calls of these keys (the one that it happens to), from `since` hours after the start on."""
        begin = self.at + since * HOUR_S
        return np.concatenate([self.background.of(key, begin, begin + hours * HOUR_S) for key in keys or [self.key]])

    def tenant(self) -> list[Key]:
        """All keys of the key's tenant."""
        return [key for key in self.background.keys if key.tenant == self.key.tenant]

    def usual(self, count: int, key: Key | None = None) -> Calls:
        """So many calls as the key makes them, without a time: drawn from its own, with prompts of their own."""
        calls = self.background.calls
        own = self.background.of(key or self.key, -np.inf, np.inf)
        own = own[calls["input_tokens"][own] > 0]
        return self.fresh(calls[self.rng.choice(own if len(own) else np.flatnonzero(calls["input_tokens"] > 0), count)])

    def fresh(self, calls: Calls) -> Calls:
        """With prompts that nobody has sent yet, answered as usual."""
        calls["prompt_fingerprint"] = fingerprints(self.rng, len(calls))
        calls["prompt_simhash"] = fingerprints(self.rng, len(calls))
        calls["status"], calls["attempt"], calls["cost_usd"] = 200, 1, np.nan
        return calls

    def sessions(self, calls: Calls, count: int) -> Calls:
        """Spread over new sessions."""
        calls["session_id"] = self.words.new_texts("session", count)[self.rng.integers(0, count, len(calls))]
        return calls

    def one_session(self, calls: Calls) -> Calls:
        """All in one session, of one user at one place."""
        self.sessions(calls, 1)
        for name in ("user_id", "address", "user_agent"):
            calls[name] = calls[name][:1] if len(calls) else calls[name]
        return calls

    def uncached(self, calls: Calls) -> Calls:
        """With nothing from a prompt cache, where the key says so at all."""
        for name in ("cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"):
            calls[name] = np.where(calls[name] == ABSENT, ABSENT, 0)
        return calls

    def cached(self, calls: Calls, known: F64) -> Calls:
        """With so much of each prompt from the cache, in blocks; the rest is written where the provider says that."""
        calls["cached_input_tokens"] = known.astype(int) // 64 * 64
        new = calls["input_tokens"] - calls["cached_input_tokens"]
        hour = calls["cache_write_1h_tokens"] != ABSENT
        calls["cache_write_tokens"] = np.where(calls["cache_write_tokens"] == ABSENT, ABSENT, new)
        calls["cache_write_1h_tokens"] = np.where(hour, new, ABSENT)
        return calls

    def sized(self, calls: Calls, given: float, answered: float, spread: float = 0.5) -> Calls:
        """Prompts and answers of about so many tokens, nothing cached."""
        noise = self.rng.lognormal(0, spread, (2, len(calls)))
        calls["input_tokens"] = np.clip(given * noise[0], 1, 190_000)
        thought = calls["reasoning_tokens"] / np.maximum(calls["output_tokens"], 1)
        calls["output_tokens"] = np.clip(answered * noise[1], 0, 32_000)
        known = calls["reasoning_tokens"] != ABSENT
        calls["reasoning_tokens"] = np.where(known, thought * calls["output_tokens"], ABSENT)
        calls["latency_ms"] = np.where(np.isnan(calls["latency_ms"]), np.nan, latency(self.rng, calls))
        return self.uncached(calls)

    def of_model(self, calls: Calls, model: tuple[str, str]) -> Calls:
        calls["model"] = self.words.model(*model)
        calls["requested_model"] = np.where(calls["requested_model"] == ABSENT, ABSENT, calls["model"])
        calls["operation"] = OPERATIONS.index("embeddings" if model in MODELS["embedding"] else "chat")
        return calls

    def dear(self) -> tuple[str, str]:
        return DEAR[int(self.rng.integers(len(DEAR)))]

    def abroad(self, countries: int) -> list[str]:
        """So many countries that are not the key's own."""
        others = [country for country in (*FOREIGN, *COUNTRIES) if country != self.key.country]
        return [str(country) for country in self.rng.choice(others, countries, replace=False)]

    def strangers(self, calls: Calls, countries: int, addresses: int, users: int | None = None) -> Calls:
        """From places that the key was never used from, with some client; with users of its own if said, else perhaps."""
        pool = [self.words.new_addresses(self.rng, c, max(1, addresses // countries)) for c in self.abroad(countries)]
        calls["address"] = self.rng.choice(np.concatenate(pool), len(calls))
        calls["user_agent"] = self.words.text(str(self.rng.choice(TOOLS)))
        users = users or int(self.rng.integers(2) * addresses)
        names = self.words.new_texts("user", users) if users else np.array([ABSENT], np.int32)
        calls["user_id"] = self.rng.choice(names, len(calls))
        return calls

    def usd(self, calls: Calls) -> F64:
        """What each call costs."""
        return cost(calls, self.words, self.prices)

    def sent(self, calls: Calls, at: F64, key: Key | None = None) -> Calls:
        """Made at these times."""
        calls["key"] = (key or self.key).number
        calls["ts"] = at
        embeds = calls["operation"] == OPERATIONS.index("embeddings")
        calls["output_tokens"] = np.where(embeds, 0, calls["output_tokens"])
        calls["reasoning_tokens"] = np.minimum(calls["reasoning_tokens"], calls["output_tokens"])
        unlucky = (calls["status"] == 200) & (self.rng.random(len(calls)) < (key or self.key).fails)
        fail(self.rng, calls, np.flatnonzero(unlucky))
        send(self.rng, key or self.key, calls)
        return calls

    def rates(self, model: int) -> dict[str, float]:
        """USD per million tokens of each kind, short prompts."""
        calls = blank(4)
        calls["model"], calls["ts"] = model, self.at
        calls["input_tokens"], calls["output_tokens"] = [1_000, 1_000, 1_000, 0], [0, 0, 0, 1_000]
        calls["cached_input_tokens"][1] = calls["cache_write_tokens"][2] = 1_000
        fresh, read, write, answered = (self.usd(calls) * 1_000).tolist()
        return {"input": fresh, "cache_read": read, "cache_write": write, "output": answered}

    def burning(self, make: Callable[[int], Calls], usd_per_hour: F64, key: Key | None = None, since: float = 0.0) -> Calls:
        """Calls that `make` makes, at so many dollars an hour, which change every minute; the first of them at once."""
        each = max(float(self.usd(make(200)).mean()), 1e-6)
        per_hour = usd_per_hour / each
        per_hour *= min(1.0, MOST_CALLS / max(per_hour.sum() / 60, 1.0))
        at = arrivals(self.rng, per_hour, self.at + since * HOUR_S, 60.0)
        return self.sent(make(len(at)), at, key)

    def like_usual(self, times: F64, key: Key | None = None, since: float = 0.0) -> Calls:
        """The key's own calls of that time once more, on top, so many times a minute's own (an array, by minute)."""
        own = self.background.calls[self.rows(len(times) / 60, since, [key or self.key])]
        own = own[own["input_tokens"] > 0]
        minute = np.clip((own["ts"] - self.at - since * HOUR_S) // 60, 0, len(times) - 1).astype(int)
        copies = self.rng.poisson(times[minute])
        copies = self.rng.poisson(times[minute] * min(1.0, MOST_CALLS / max(int(copies.sum()), 1)))
        calls = np.repeat(own, copies)
        at = calls["ts"] - (key or self.key).skew + self.rng.uniform(-60, 60, len(calls))
        return self.sent(self.fresh(calls), np.clip(at, self.at + since * HOUR_S, None), key)

    def new_key(self, days_old: float, replaces: Key | None = None) -> Key:
        """Another key of the tenant, made so many days ago, that the background does not use."""
        key_id = f"key-{len(self.words.keys) + 1}"
        made = self.at - days_old * DAY_S
        number = self.words.key(self.key.tenant, key_id)
        old = replaces.key_id if replaces else None
        return replace(self.key, number=number, key_id=key_id, created_at=made, replaces=old)


def minutes(hours: float) -> F64:
    """The minutes of so many hours, as hours since the start."""
    return np.arange(max(round(hours * 60), 1)) / 60


def ramp(hours: float, tau_hours: float) -> F64:
    """By minute, from 0 to 1."""
    return np.asarray(1 - np.exp(-(minutes(hours) + 1 / 60) / max(tau_hours, 1e-3)))
