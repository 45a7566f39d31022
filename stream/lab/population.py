"""The built-in background: an organisation's tenants and keys, and what they do on ordinary days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.batch import ABSENT, F64, I32, I64, RESPONSE_CACHE
from stream.lab.calls import OPERATIONS, Calls, Rows, Words, blank, fingerprints

HOUR_S, DAY_S = 3_600.0, 86_400.0
BIN_S = 600.0
"""How often a key's rate changes."""
MODELS = {
    "small": (("openai", "gpt-4o-mini"), ("google", "gemini-2.5-flash"), ("anthropic", "claude-haiku-4-5")),
    "large": (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-pro"), ("openai", "gpt-4.1")),
    "dear": (("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-4.1"), ("anthropic", "claude-opus-4-1")),
    "embedding": (("openai", "text-embedding-3-small"), ("openai", "text-embedding-3-large")),
}
COUNTRIES = ("US", "DE", "FR", "GB", "JP", "BR", "IN", "AU")
AGENTS = ("openai-python/1.99", "anthropic-sdk-python/0.62", "langchain/0.3", "litellm/1.80", "node-fetch/3", "acme-app/7")


@dataclass(frozen=True, slots=True)
class Habit:
    """How keys of a role behave: ranges to draw a key's own medians from (log-uniform), and when it works.

    `sessions` starts an hour while it works; a session has about `turns` calls, `think` seconds apart; the first prompt
    has `first` tokens behind a shared prefix of `prefix`, each turn adds `grows`, an answer has `answers` tokens.
    """

    role: str
    share: float
    model: str
    hours: str
    sessions: tuple[float, float]
    turns: tuple[float, float]
    think: tuple[float, float]
    prefix: tuple[float, float]
    first: tuple[float, float]
    grows: tuple[float, float]
    answers: tuple[float, float]
    caches: float
    users: tuple[int, int]


# fmt: off
HABITS = (
    # role, share, model, hours; sessions, turns, think; prefix, first, grows, answers; caches, users
    Habit("chat", 0.30, "large", "waking", (1, 20), (2, 6), (20, 90),
          (300, 4_000), (60, 400), (50, 400), (100, 500), 0.6, (20, 400)),
    Habit("rag", 0.15, "small", "waking", (5, 60), (1, 1.5), (30, 90),
          (500, 2_000), (2_000, 9_000), (200, 900), (80, 400), 0.3, (10, 200)),
    Habit("agent", 0.20, "dear", "office", (0.2, 1.5), (15, 60), (8, 40),
          (8_000, 30_000), (200, 2_000), (400, 2_500), (80, 600), 0.9, (1, 12)),
    Habit("batch", 0.12, "small", "nightly", (100, 900), (1, 1), (5, 5),
          (200, 1_500), (1_000, 6_000), (1, 2), (100, 800), 0.2, (1, 1)),
    Habit("embed", 0.08, "embedding", "waking", (20, 200), (1, 1), (5, 5),
          (0, 0), (300, 3_000), (1, 2), (0, 0), 0.0, (1, 3)),
    Habit("dev", 0.10, "large", "office", (0.3, 3), (3, 12), (30, 200),
          (200, 8_000), (100, 2_000), (100, 1_200), (150, 900), 0.5, (1, 6)),
    Habit("ci", 0.05, "small", "office", (5, 40), (1, 2), (5, 20),
          (300, 3_000), (200, 2_000), (50, 300), (50, 300), 0.3, (1, 1)),
)
# fmt: on


@dataclass(slots=True)
class Key:
    """One API key: what it is, and the numbers of everything it uses."""

    number: int
    tenant: str
    key_id: str
    role: str
    model: int
    country: str
    zone: float
    """Hours that its day is ahead of UTC."""
    addresses: I32
    users: I32
    agents: I32
    feature: int
    environment: int
    flushes: float = 0.0
    """Its exporter sends what it has every so many seconds; 0: at once."""
    phase: float = 0.0
    """When it does so first."""
    skew: float = 0.0
    """Seconds that its clock is ahead."""
    fails: float = 0.01
    claims: bool = False
    """Whether it says what a call cost."""
    created_at: float = 0.0
    replaces: str | None = None


@dataclass(slots=True)
class Background:
    """Ordinary traffic: `calls` sorted by key, then time, of which `first[k] : first[k + 1]` are key k's."""

    name: str
    words: Words
    keys: list[Key]
    calls: Calls
    start: float
    end: float
    first: I64 = field(default_factory=lambda: np.zeros(1, np.int64))

    def __post_init__(self) -> None:
        self.calls = self.calls[np.lexsort((self.calls["ts"], self.calls["key"]))]
        self.first = np.searchsorted(self.calls["key"], np.arange(len(self.keys) + 1))

    def of(self, key: Key, since: float, until: float) -> Rows:
        """The rows of a key's calls from `since` to `until`."""
        lo, hi = self.first[key.number], self.first[key.number + 1]
        ts = self.calls["ts"][lo:hi]
        return np.arange(lo + np.searchsorted(ts, since), lo + np.searchsorted(ts, until))


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform; 0 where the range is 0."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low > 0 else 0.0


def make_keys(rng: np.random.Generator, words: Words, roles: Sequence[str], start: float) -> list[Key]:
    """Keys of these roles, spread over tenants of very different size."""
    tenants = max(1, round(len(roles) / 5))
    weights = rng.pareto(2.0, tenants) + 0.3
    home = rng.choice(COUNTRIES, tenants)
    zone = rng.integers(-8, 10, tenants)
    flushes = rng.choice([0.0, 0.0, 0.0, 5.0, 5.0, 10.0], tenants)
    skew = np.where(rng.random(tenants) < 0.2, rng.uniform(-8, 8, tenants), 0.0)
    of = rng.choice(tenants, len(roles), p=weights / weights.sum())
    keys = []
    for n, (role, t) in enumerate(zip(roles, of.tolist(), strict=True)):
        tenant, key_id = f"tenant-{t + 1}", f"key-{n + 1}"
        habit = next((h for h in HABITS if h.role == role), HABITS[0])
        model = rng.choice(MODELS[habit.model])
        users = round(between(rng, *habit.users))
        country = str(home[t])
        keys.append(
            Key(
                number=words.key(tenant, key_id),
                tenant=tenant,
                key_id=key_id,
                role=role,
                model=words.model(str(model[0]), str(model[1])),
                country=country,
                zone=float(zone[t]),
                addresses=words.new_addresses(rng, country, max(1, users // 2)),
                users=words.new_texts("user", users),
                agents=np.array([words.text(str(a)) for a in rng.choice(AGENTS, 2, replace=False)], np.int32),
                feature=words.text(f"{role}-{n % 3 + 1}"),
                environment=words.text("staging" if role == "ci" else "production"),
                flushes=float(flushes[t]),
                phase=float(flushes[t] * rng.random()),
                skew=float(skew[t]),
                fails=between(rng, 0.001, 0.04),
                claims=bool(rng.random() < 0.3),
                created_at=start - DAY_S * between(rng, 20, 500),
            )
        )
    return keys


def population(rng: np.random.Generator, keys: int, start: float, days: float) -> Background:
    """So many keys over so many days."""
    words = Words()
    shares = np.array([habit.share for habit in HABITS])
    roles = [HABITS[n].role for n in rng.choice(len(HABITS), keys, p=shares / shares.sum())]
    made = make_keys(rng, words, roles, start)
    calls = [_days_of(rng, words, key, start, days) for key in made]
    return Background("built-in", words, made, np.concatenate(calls), start, start + days * DAY_S)


def _days_of(rng: np.random.Generator, words: Words, key: Key, start: float, days: float) -> Calls:
    habit = next(h for h in HABITS if h.role == key.role)
    works = working(rng, habit.hours, start, days, key.zone)
    burst = between(rng, 0.3, 1.5)
    weight = min(rng.pareto(1.3) + 0.3, 20.0)
    rate = weight * between(rng, *habit.sessions) * works * rng.gamma(1 / burst**2, burst**2, len(works))
    starts = arrivals(rng, rate, start, BIN_S)
    calls = conversations(rng, words, key, habit, starts)
    return calls[calls["ts"] < start + days * DAY_S]


def working(rng: np.random.Generator, hours: str, start: float, days: float, zone: float) -> F64:
    """How much of its usual rate a key works at, for each BIN_S."""
    at = start + zone * HOUR_S + np.arange(round(days * DAY_S / BIN_S)) * BIN_S
    hour, weekday = at / HOUR_S % 24, (at // DAY_S + 3) % 7
    if hours == "office":
        begins, ends = rng.uniform(6.5, 9.5), rng.uniform(16, 19.5)
        shape = np.clip((hour - begins) / 2, 0, 1) * np.clip((ends + 2 - hour) / 2, 0, 1)
        return np.asarray(np.where(weekday < 5, shape, 0.03 * shape))
    if hours == "nightly":
        begins, lasts = rng.uniform(0, 5), between(rng, 0.3, 3)
        return np.asarray(((hour - begins) % 24 < lasts).astype(float))
    depth, noon, weekend = rng.uniform(0.3, 0.95), rng.uniform(11, 19), rng.uniform(0.4, 1.1)
    shape = 1 + depth * np.cos((hour - noon) / 24 * 2 * np.pi)
    return np.asarray(np.where(weekday < 5, shape, weekend * shape))


def arrivals(rng: np.random.Generator, per_hour: F64, start: float, width_s: float) -> F64:
    """Times of a Poisson process whose rate changes every `width_s`."""
    counts = rng.poisson(per_hour * width_s / HOUR_S)
    at = start + np.repeat(np.arange(len(counts)), counts) * width_s + rng.uniform(0, width_s, int(counts.sum()))
    return np.sort(at)


def conversations(rng: np.random.Generator, words: Words, key: Key, habit: Habit, starts: F64) -> Calls:
    """Sessions that begin at `starts`: each call sends all that was said before, which a prompt cache may still know."""
    turns = rng.geometric(1 / between(rng, *habit.turns), len(starts))
    calls = blank(int(turns.sum()))
    session = np.repeat(np.arange(len(starts)), turns)
    new = np.diff(session, prepend=-1) != 0
    gap = np.where(new, 0.0, rng.lognormal(np.log(between(rng, *habit.think)), 1.1, len(calls)))
    calls["ts"] = starts[session] + _within(gap, new, session)
    prefix = int(between(rng, *habit.prefix))
    said = rng.lognormal(np.log(max(between(rng, *habit.grows), 1)), 0.7, len(calls))
    said = np.where(new, rng.lognormal(np.log(max(between(rng, *habit.first), 1)), 0.6, len(calls)), said)
    answers = between(rng, *habit.answers)
    output = rng.lognormal(np.log(answers), 0.7, len(calls)).astype(np.int32) if answers else np.zeros(len(calls), np.int32)
    before = np.where(new, 0, np.concatenate([[0], output[:-1]])[: len(calls)])
    context = np.minimum(prefix + _within(said + before, new, session), 180_000).astype(np.int32)
    calls["input_tokens"] = np.maximum(context, 1)
    calls["output_tokens"] = np.minimum(output, 16_000)
    if rng.random() < habit.caches:
        _cache(rng, words, key, calls, prefix, np.where(new, np.inf, gap))
    return dress(rng, words, key, calls, session)


def _within(steps: F64, new: Rows, session: I64) -> F64:
    """The running sum of each session's steps."""
    total = np.cumsum(steps)
    return np.asarray(total - (total - steps)[new][session] if len(steps) else total)


def _cache(rng: np.random.Generator, words: Words, key: Key, calls: Calls, prefix: int, gap: F64) -> None:
    """What the provider's cache still knows: the last turn's prompt within its TTL, else the shared prefix if it is warm."""
    ttl = float(rng.choice([300.0, 300.0, 3_600.0]))
    context = calls["input_tokens"]
    last = np.concatenate([[0], context[:-1]])[: len(calls)]
    order = np.argsort(calls["ts"], kind="stable")
    since = np.empty(len(calls))
    since[order] = np.diff(calls["ts"][order], prepend=-np.inf)
    known = np.where(gap < ttl, np.minimum(last, context), np.where(since < ttl, min(prefix, 10**9), 0))
    known = np.minimum(known, context - 1) // 64 * 64
    calls["cached_input_tokens"] = known
    if words.models[key.model][0] == "anthropic":
        calls["cache_write_tokens"] = np.maximum(context - known - rng.integers(4, 200, len(calls)), 0)
        if ttl > 300:
            calls["cache_write_1h_tokens"] = calls["cache_write_tokens"]


def dress(rng: np.random.Generator, words: Words, key: Key, calls: Calls, session: I64) -> Calls:
    """Fill in who asked, from where, with what prompt, and how it went; `session` groups the calls.

    Some keys say which model was asked for and what was reasoning. Most of what fails is tried once more.
    """
    groups = int(session.max()) + 1 if len(session) else 0
    user = _favourites(rng, len(key.users), groups)
    place = (user + rng.integers(0, 2, groups)) % len(key.addresses)
    calls["key"], calls["model"] = key.number, key.model
    calls["session_id"] = words.new_texts("session", groups)[session] if groups else 0
    calls["user_id"] = key.users[user][session]
    calls["address"] = key.addresses[place][session]
    calls["user_agent"] = key.agents[(rng.random(groups) < 0.1).astype(int)][session]
    calls["feature"], calls["environment"] = key.feature, key.environment
    calls["operation"] = OPERATIONS.index("embeddings" if key.role == "embed" else "chat")
    calls["prompt_fingerprint"] = fingerprints(rng, len(calls))
    calls["prompt_simhash"] = fingerprints(rng, len(calls))
    calls["latency_ms"] = latency(rng, calls)
    if rng.random() < 0.5:
        calls["requested_model"] = key.model
    if rng.random() < 0.5:
        calls["reasoning_tokens"] = calls["output_tokens"] * rng.beta(1, 3) * rng.random(len(calls))
    _ask_again(rng, key, calls)
    failed = np.flatnonzero((rng.random(len(calls)) < key.fails) & (calls["input_tokens"] > 0))
    again = calls[failed[rng.random(len(failed)) < 0.7]]
    again["attempt"] = 2
    again["ts"] += 0.5 + rng.exponential(4.0, len(again))
    fail(rng, calls, failed)
    calls = np.concatenate([calls, again])
    send(rng, key, calls)
    return calls


def _ask_again(rng: np.random.Generator, key: Key, calls: Calls) -> None:
    """Prompts that are sent over and over and mean no harm: tests, health checks, what everybody asks.

    Behind some keys a response cache knows the answer: no token is used.
    """
    tests = key.role == "ci"
    if rng.random() > (1.0 if tests else 0.4):
        return
    share = between(rng, 0.3, 0.95) if tests else between(rng, 0.01, 0.3)
    rows = np.flatnonzero(rng.random(len(calls)) < share)
    prompts = round(between(rng, 5, 300))
    which = _favourites(rng, prompts, len(rows))
    for name in ("prompt_fingerprint", "prompt_simhash"):
        calls[name][rows] = fingerprints(rng, prompts)[which]
    if rng.random() < 0.5:
        calls["response_cache"] = RESPONSE_CACHE.index("miss")
        known = rows[rng.random(len(rows)) < between(rng, 0.1, 0.8)]
        calls["response_cache"][known] = RESPONSE_CACHE.index("hit")
        calls["latency_ms"][known] = rng.uniform(5, 60, len(known))
        _use_nothing(calls, known)


def latency(rng: np.random.Generator, calls: Calls) -> F64:
    """Milliseconds that such answers take."""
    return np.asarray(300 + calls["output_tokens"] * rng.uniform(8, 25) * rng.lognormal(0, 0.3, len(calls)))


def fail(rng: np.random.Generator, calls: Calls, rows: Rows, statuses: Sequence[int] = (429, 500, 503, 529)) -> None:
    """These calls fail and cost nothing."""
    calls["status"][rows] = rng.choice(statuses, len(rows))
    _use_nothing(calls, rows)


def _use_nothing(calls: Calls, rows: Rows) -> None:
    for name in ("input_tokens", "output_tokens"):
        calls[name][rows] = 0
    for name in ("cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens"):
        calls[name][rows] = np.where(calls[name][rows] == ABSENT, ABSENT, 0)


def send(rng: np.random.Generator, key: Key, calls: Calls) -> None:
    """When each call arrives: at once, or when its exporter flushes. A clock that is ahead says a later `ts`."""
    waits = (key.phase - calls["ts"]) % key.flushes if key.flushes else rng.exponential(0.2, len(calls))
    calls["arrival_ts"] = calls["ts"] + waits + 0.05
    calls["ts"] += key.skew


def _favourites(rng: np.random.Generator, of: int, count: int) -> I64:
    """Numbers below `of`, small ones more often (Zipf-like)."""
    return np.minimum((of * rng.random(count) ** 2).astype(np.int64), of - 1)


def repeated(rng: np.random.Generator, calls: Calls, share: float) -> Calls:
    """What producers send twice: a share of the calls again, some seconds later."""
    again = calls[rng.random(len(calls)) < share].copy()
    again["arrival_ts"] += rng.exponential(20.0, len(again)) + 1
    return again
