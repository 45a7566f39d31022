"""Simulated calls in columns: one row a call, texts as numbers that a `Words` knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.batch import ABSENT, F64, I32, I64, RESPONSE_CACHE, SERVICE_TIERS, Batch
from stream.pricing import PriceBook

Rows: TypeAlias = NDArray[np.intp]
Calls: TypeAlias = NDArray[np.void]
"""Rows of CALL."""

_NAMES = ("key", "model", "requested_model", "session_id", "user_id", "address", "user_agent", "feature", "environment")
TOKENS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "web_search_requests",
)
_COUNTS = (*TOKENS, "status", "attempt")
CALL = np.dtype(
    [
        ("ts", np.float64),
        ("arrival_ts", np.float64),
        ("call", np.int64),
        *((name, np.int32) for name in (*_NAMES, "operation", "tier", "response_cache")),
        *((name, np.int32) for name in _COUNTS),
        ("latency_ms", np.float64),
        ("cost_usd", np.float64),
        ("prompt_fingerprint", np.uint64),
        ("prompt_simhash", np.uint64),
    ]
)
"""A call; ABSENT (or NaN, and 0 for the hashes) where the event does not say. `call` is its id: duplicates share it."""
OPERATIONS = ("chat", "embeddings")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a call comes from."""

    client_ip: str
    asn: int
    country: str


class Words:
    """Numbers for whatever calls name: keys as (tenant, key id), models as (provider, model), addresses, and texts."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str]] = []
        self.models: list[tuple[str, str]] = []
        self.addresses: list[Address] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        """The event ids of calls that had one already, by their number."""
        self._known: dict[Any, int] = {}

    def key(self, tenant: str, key_id: str) -> int:
        return self._number(self.keys, (tenant, key_id))

    def model(self, provider: str, model: str) -> int:
        return self._number(self.models, (provider, model))

    def text(self, text: str) -> int:
        return self._number(self.texts, text)

    def address(self, address: Address) -> int:
        return self._number(self.addresses, address)

    def new_texts(self, prefix: str, count: int) -> I32:
        """Numbers of `count` texts that nobody has used."""
        first = len(self.texts)
        self.texts += [f"{prefix}-{scrambled(first + n)}" for n in range(count)]
        return np.arange(first, first + count, dtype=np.int32)

    def new_addresses(self, rng: np.random.Generator, country: str, count: int) -> I32:
        """Numbers of `count` addresses in one country, of a few networks that are its own."""
        first = len(self.addresses)
        networks = rng.integers(1_000, 400_000, max(1, count // 8))
        ips = rng.integers(0, 256, (count, 3))
        self.addresses += [
            Address(f"{20 + int(a) % 180}.{a}.{b}.{c}", int(rng.choice(networks)), country) for a, b, c in ips.tolist()
        ]
        return np.arange(first, first + count, dtype=np.int32)

    def id(self, event_id: str) -> int:
        return self._number(self.ids, event_id)

    def _number(self, words: list[Any], word: Any) -> int:
        place = (id(words), word)
        if place not in self._known:
            self._known[place] = len(words)
            words.append(word)
        return self._known[place]


def scrambled(number: int) -> str:
    """The number as an id that does not tell which came first, as all that is planted did last.

    >>> scrambled(1), scrambled(2)
    ('9e3779b1', '3c6ef362')
    """
    return f"{number * 2_654_435_761 % 2**32:08x}"


def blank(rows: int) -> Calls:
    """Calls that say nothing yet but status 200 and first attempt."""
    calls = np.zeros(rows, CALL)
    for name in (*_NAMES, *_COUNTS, "response_cache"):
        calls[name] = ABSENT
    calls["latency_ms"] = calls["cost_usd"] = np.nan
    calls["status"] = 200
    calls["attempt"] = 1
    return calls


def fingerprints(rng: np.random.Generator, rows: int) -> NDArray[np.uint64]:
    """Prompts that are all different."""
    return rng.integers(1, 2**64, rows, np.uint64)


def nearly(rng: np.random.Generator, simhash: NDArray[np.uint64], bits: int = 3) -> NDArray[np.uint64]:
    """Simhashes at most `bits` bits away: prompts that differ in a counter or a timestamp."""
    flips = np.uint64(1) << rng.integers(0, 64, (bits, len(simhash)), np.uint64)
    near: NDArray[np.uint64] = simhash ^ np.bitwise_xor.reduce(flips, axis=0)
    return near


def cost(calls: Calls, words: Words, prices: PriceBook) -> F64:
    """What each call costs, in USD."""
    none, zero = np.empty(0, np.int64), np.zeros(len(calls), np.int32)
    small, nobody = zero.astype(np.int8), zero.astype(np.uint64)
    batch = Batch(
        clock=none,
        position=none,
        ts=np.round(calls["ts"] * 1000).astype(np.int64),
        event=nobody,
        tenant=zero,
        key=zero,
        model=np.ascontiguousarray(calls["model"]),
        feature=zero,
        operation=zero,
        tier=calls["tier"].astype(np.int8),
        **{name: np.ascontiguousarray(calls[name]) for name in TOKENS},
        attempt=zero,
        status=zero.astype(np.int16),
        latency_ms=zero,
        fallback=small,
        response_cache=calls["response_cache"].astype(np.int8),
        cost_usd=none,
        request=nobody,
        user=nobody,
        address=nobody,
        session=nobody,
        fingerprint=nobody,
    )
    nano: I64 = prices.cost(batch, words.models)[0]
    return nano / 1e9


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """A usage event as it is written."""

    event_id: str
    ts: float
    arrival_ts: float
    tenant: str
    key_id: str
    provider: str | None
    model: str
    input_tokens: int
    output_tokens: int
    status: int
    operation: str
    requested_model: str | None = None
    service_tier: str | None = None
    response_cache: str | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    web_search_requests: int | None = None
    attempt: int | None = None
    latency_ms: float | None = None
    cost_usd: float | None = None
    session_id: str | None = None
    user_id: str | None = None
    user_agent: str | None = None
    feature: str | None = None
    environment: str | None = None
    client_ip: str | None = None
    asn: int | None = None
    country: str | None = None
    prompt_fingerprint: str | None = None
    prompt_simhash: str | None = None


def encode(calls: Calls, words: Words, run: str, chunk: int = 50_000) -> Iterator[bytes]:
    """The calls as NDJSON usage events, in their order; `run` makes new ids differ from another run's."""
    encoder = msgspec.json.Encoder()
    columns = _Columns(words, run)
    for at in range(0, len(calls), chunk):
        rows = zip(*columns.of(calls[at : at + chunk]), strict=True)
        yield encoder.encode_lines([Event(*row) for row in rows])


class _Columns:
    """The columns of an Event, in the order of its fields."""

    def __init__(self, words: Words, run: str) -> None:
        self._run = run
        self._ids = words.ids
        self._texts = _objects(words.texts)
        self._tenants = _objects([tenant for tenant, _ in words.keys])
        self._keys = _objects([key_id for _, key_id in words.keys])
        self._providers = _objects([provider or None for provider, _ in words.models])
        self._models = _objects([model for _, model in words.models])
        self._places = [_objects([getattr(a, name) for a in words.addresses]) for name in ("client_ip", "asn", "country")]

    def of(self, calls: Calls) -> list[Sequence[Any]]:
        ids, run = self._ids, self._run
        return [
            [ids[call] if call < len(ids) else f"{run}-{scrambled(call)}" for call in calls["call"].tolist()],
            np.round(calls["ts"], 3).tolist(),
            np.round(calls["arrival_ts"], 3).tolist(),
            self._tenants[calls["key"]].tolist(),
            self._keys[calls["key"]].tolist(),
            self._providers[calls["model"]].tolist(),
            self._models[calls["model"]].tolist(),
            calls["input_tokens"].tolist(),
            calls["output_tokens"].tolist(),
            calls["status"].tolist(),
            _objects(list(OPERATIONS))[calls["operation"]].tolist(),
            self._models[calls["requested_model"]].tolist(),
            _TIERS[calls["tier"]].tolist(),
            _CACHED[calls["response_cache"]].tolist(),
            *(_known(calls[name]) for name in TOKENS[1:4]),
            *(_known(calls[name]) for name in TOKENS[5:]),
            _known(calls["attempt"]),
            _known(np.round(calls["latency_ms"], 1)),
            _known(np.round(calls["cost_usd"], 9)),
            *(
                self._texts[calls[name]].tolist()
                for name in ("session_id", "user_id", "user_agent", "feature", "environment")
            ),
            *(place[calls["address"]].tolist() for place in self._places),
            *(_hex(calls[name]) for name in ("prompt_fingerprint", "prompt_simhash")),
        ]


def _objects(words: list[Any]) -> NDArray[np.object_]:
    """The words, and None at the end, where ABSENT (-1) finds it."""
    out = np.empty(len(words) + 1, object)
    out[:-1] = words
    return out


_TIERS = _objects([None, *SERVICE_TIERS[1:]])
_CACHED = _objects(list(RESPONSE_CACHE))


def _known(column: NDArray[Any]) -> list[Any]:
    out = column.astype(object)
    out[np.isnan(column) if column.dtype.kind == "f" else column == ABSENT] = None
    return list(out)


def _hex(column: NDArray[np.uint64]) -> list[str | None]:
    return [f"{value:x}" if value else None for value in column.tolist()]
