"""Backgrounds from real traces, and from a user's own file of usage events."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from schemas.batch import ABSENT, F64, RESPONSE_CACHE, SERVICE_TIERS
from schemas.call import Call
from stream.lab.calls import OPERATIONS, TOKENS, Address, Calls, Rows, Words, blank
from stream.lab.population import BIN_S, DAY_S, Background, Key, arrivals, between, dress, make_keys, working
from stream.sources import BrokenFile, opened

REQUEST = np.dtype(
    [
        ("t", np.float64),
        ("client", np.int32),
        ("session", np.int32),
        ("input_tokens", np.int32),
        ("cached_input_tokens", np.int32),
        ("output_tokens", np.int32),
    ]
)
"""A row of a trace: seconds from its start; ABSENT where it does not say."""
CLIENTS = 24
"""Clients that a trace without any is dealt out to."""
LONGEST = 150_000


def background(rng: np.random.Generator, path: Path, start: float, days: float) -> Background:
    """The traffic of a file: a trace of ServeGen, Azure, Mooncake or kv-cache-tester (.gz too), or usage events (NDJSON).

    A trace has no prices, keys or tenants: its clients become keys with a model, callers, a cache and a length of prompt
    of their own, and one shorter than `days` is played again, less at night. Usage events keep their times (`start` and
    `days` do not matter) and the fields that a `CALL` has. Raises BrokenFile, OSError.
    """
    with opened(path) as file:
        lines = file.read().decode("utf-8-sig", "replace").splitlines()
    readers: dict[str, Callable[[list[str], np.random.Generator], Calls]] = {
        "t_s,client": _servegen,
        "TIMESTAMP,ContextTokens": _azure,
        '{"timestamp"': _mooncake,
        "session,agent": _sessions,
    }
    read = next((readers[begins] for begins in readers if lines and lines[0].startswith(begins)), None)
    if not any(lines):
        raise BrokenFile(f"{path}: is empty")
    try:
        if read is None:
            return _events(rng, path.name, lines)
        return _played(rng, path.name, np.sort(read(lines, rng), order="t"), start, days)
    except (KeyError, ValueError) as error:
        raise BrokenFile(f"{path}: neither a trace that is known nor usage events: {error}") from error


def _servegen(lines: list[str], rng: np.random.Generator) -> Calls:
    t, client, given, answered = np.loadtxt(lines, delimiter=",", skiprows=1, unpack=True, ndmin=2)
    return _requests(t, client, ABSENT, given, ABSENT, answered)


def _azure(lines: list[str], rng: np.random.Generator) -> Calls:
    rows = list(csv.DictReader(lines))
    t = np.array([datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows])
    given, answered = ([int(row[name]) for row in rows] for name in ("ContextTokens", "GeneratedTokens"))
    return _requests(t, _dealt(rng, len(rows)), ABSENT, given, ABSENT, answered)


def _mooncake(lines: list[str], rng: np.random.Generator) -> Calls:
    """A prefix block of 512 tokens that came before is cached."""
    rows = [json.loads(line) for line in lines]
    seen: set[int] = set()
    cached = []
    for row in rows:
        known = next((n for n, block in enumerate(row["hash_ids"]) if block not in seen), len(row["hash_ids"]))
        cached.append(min(512 * known, row["input_length"]))
        seen.update(row["hash_ids"])
    given, answered = ([row[name] for row in rows] for name in ("input_length", "output_length"))
    t = [row["timestamp"] / 1000 + rng.uniform(0, 3) for row in rows]
    return _requests(t, _dealt(rng, len(rows)), ABSENT, given, cached, answered)


def _sessions(lines: list[str], rng: np.random.Generator) -> Calls:
    """Sessions without a date: each begins somewhere in a working day of a fortnight, on one of CLIENTS keys."""
    rows = list(csv.DictReader(lines))
    session = np.array([int(row["session"]) for row in rows])
    begins = arrivals(rng, 8 * working(rng, "office", 4 * DAY_S, 14, 0.0), 0.0, 600.0)
    begins = rng.permutation(begins)[np.arange(session.max() + 1) % len(begins)]
    t = begins[session] + np.array([float(row["t_s"]) for row in rows])
    given, cached, answered = (
        [int(row[name]) for row in rows] for name in ("input_tokens", "cached_tokens", "output_tokens")
    )
    return _requests(t, session % CLIENTS, session, given, np.minimum(given, cached), answered)


def _requests(*columns: Any) -> Calls:
    """A table of REQUEST from its columns, in order; one that is ABSENT is so throughout."""
    out = np.empty(len(columns[0]), REQUEST)
    for name, column in zip(REQUEST.names or (), columns, strict=True):
        out[name] = column
    return out


def _dealt(rng: np.random.Generator, rows: int) -> F64:
    return np.floor(CLIENTS * rng.random(rows) ** 2)


def _played(rng: np.random.Generator, name: str, requests: Calls, start: float, days: float) -> Background:
    words = Words()
    t = requests["t"] - requests["t"].min()
    times = [(at, rows[t[rows] + at < days * DAY_S]) for at, rows in _times(rng, t, days)]
    which = np.concatenate([rows for _, rows in times])
    at = np.concatenate([t[rows] + at for at, rows in times])
    clients, client = np.unique(requests["client"], return_inverse=True)
    long = [float(np.median(requests["input_tokens"][client == n])) for n in range(len(clients))]
    roles = ["agent" if tokens > 20_000 else "rag" if tokens > 3_000 else "chat" for tokens in long]
    keys = make_keys(rng, words, roles, start)
    calls = []
    for n, key in enumerate(keys):
        mine = np.flatnonzero(client[which] == n)
        calls.append(_of_client(rng, words, key, requests[which[mine]], start + at[mine]))
    return Background(name, words, keys, np.concatenate(calls), start, start + days * DAY_S)


def _times(rng: np.random.Generator, t: F64, days: float) -> Iterator[tuple[float, Rows]]:
    """(shift, rows) of each time that the trace is played; one of less than half a day follows the hours of the day."""
    span = float(t.max()) + 1
    busy = working(rng, "waking", 0.0, days + 1, 0.0)
    for n in range(int(np.ceil(days * DAY_S / span))):
        share = busy[int(n * span // BIN_S)] / busy.max() if span < DAY_S / 2 else 1.0
        yield n * span, np.flatnonzero(rng.random(len(t)) < share)


def _of_client(rng: np.random.Generator, words: Words, key: Key, requests: Calls, at: F64) -> Calls:
    """A client's requests as calls of a key, its prompts longer by one factor, as its trade is."""
    calls = blank(len(requests))
    calls["ts"] = at
    longer = between(rng, 1, 16) if requests["input_tokens"].max(initial=0) < 8_000 else 1.0
    calls["input_tokens"] = np.minimum(longer * requests["input_tokens"], LONGEST)
    calls["output_tokens"] = requests["output_tokens"]
    if (requests["cached_input_tokens"] != ABSENT).any():
        calls["cached_input_tokens"] = np.minimum(requests["cached_input_tokens"], calls["input_tokens"])
    elif rng.random() < 0.5:
        share = rng.beta(6, 2) * (rng.random(len(calls)) < 0.95)
        calls["cached_input_tokens"] = np.where(calls["input_tokens"] > 1_024, share * calls["input_tokens"], 0)
    if (requests["session"] != ABSENT).any():
        session = np.unique(requests["session"], return_inverse=True)[1]
    else:
        session = np.cumsum(rng.random(len(calls)) < 0.4)
    return dress(rng, words, key, calls, session)


def _events(rng: np.random.Generator, name: str, lines: list[str]) -> Background:
    words, keys = Words(), dict[int, Key]()
    decoder = msgspec.json.Decoder(Call)
    said = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    calls = blank(len(said))
    for n, (number_of_line, line) in enumerate(said):
        try:
            event: Any = decoder.decode(line)
        except ValueError as error:
            raise ValueError(f"line {number_of_line}: {error}") from error
        row = calls[n]
        row["call"] = words.id(event.event_id)
        row["key"] = number = words.key(event.tenant, event.key_id)
        if number not in keys:
            keys[number] = _key_of(rng, words, event, number)
        row["ts"], row["arrival_ts"] = event.ts, event.ts if event.arrival_ts is None else event.arrival_ts
        row["model"] = words.model(event.provider or "", event.model)
        if event.requested_model is not None:
            row["requested_model"] = words.model(event.provider or "", event.requested_model)
        for field in (*TOKENS, "status", "attempt", "latency_ms", "cost_usd"):
            value = getattr(event, field)
            if value is not None:
                row[field] = value
        for field in ("session_id", "user_id", "user_agent", "feature", "environment"):
            if (text := getattr(event, field)) is not None:
                row[field] = words.text(text)
        if event.client_ip or event.country:
            address = Address(event.client_ip or "", event.asn or 0, event.country or "")
            row["address"] = words.address(address)
        for field in ("prompt_fingerprint", "prompt_simhash"):
            row[field] = int(getattr(event, field) or "0", 16)
        row["operation"] = OPERATIONS.index("embeddings" if event.operation == "embeddings" else "chat")
        row["tier"] = SERVICE_TIERS.index(event.service_tier or "standard")
        if event.response_cache is not None:
            row["response_cache"] = RESPONSE_CACHE.index(event.response_cache)
    start, end = (float(calls["ts"].min()), float(calls["ts"].max())) if len(calls) else (0.0, 0.0)
    return Background(name, words, [keys[n] for n in range(len(keys))], calls, start, end)


def _key_of(rng: np.random.Generator, words: Words, event: Any, number: int) -> Key:
    """A key that a file has, as its first call shows it; callers that it does not name are made up."""
    country = event.country or "US"
    return Key(
        number=number,
        tenant=event.tenant,
        key_id=event.key_id,
        role="unknown",
        model=words.model(event.provider or "", event.model),
        country=country,
        zone=0.0,
        addresses=words.new_addresses(rng, country, 8),
        users=words.new_texts("user", 8),
        agents=np.array([words.text(event.user_agent or "python")], np.int32),
        feature=ABSENT if event.feature is None else words.text(event.feature),
        environment=ABSENT if event.environment is None else words.text(event.environment),
        claims=event.cost_usd is not None,
    )
