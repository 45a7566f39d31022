"""Meters in plain Python: what single calls add, whom they count for, and how many are behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

from stream.distinct import BLOCKS, likeliest, place_of
from stream.readings import Whose

Event = dict[str, Any]


def totals_of(event: Event, usd: int) -> Counter[str]:
    """What a call of so many nano-dollars adds, field by field of Totals."""
    read, said, cached = event["input_tokens"], event["output_tokens"], event.get("cached_input_tokens", 0)
    status = event.get("status", -1)
    named = {-1: "untold", 401: "denied", 403: "denied", 429: "rate_limited", 408: "broken", 0: "broken"}
    outcome = named.get(status, "broken" if status >= 500 else "rejected" if status >= 400 else "ok")
    asked = event.get("requested_model") or event["model"]
    found = Counter(usd=usd, calls=1, fresh=read - cached, cached=cached, output=said)
    found.update({outcome: 1, "fallbacks": int(asked != event["model"] and event["model"] != f"{asked}-20260101")})
    found.update(failed_usd=usd * (outcome not in ("untold", "ok")), cache_hits=event.get("response_cache") == "hit")
    again = event.get("attempt", 1) > 1
    found.update(retries=again, retried_usd=usd * again)
    if "latency_ms" in event:
        found.update(timed=1, latency_ms=int(event["latency_ms"] + 0.5), timed_tokens=read + said, timed_output=said)
    if "cached_input_tokens" in event:
        found.update(reported_input=read, reported_cached=cached)
    return found


def numbered(calls: list[tuple[int, Event]]) -> list[Event]:
    """The calls (clock in Ms, event) of one partition, none of them twice, with the attempt that each is taken for."""
    requests: dict[tuple[str, ...], tuple[int, int]] = {}
    found = []
    for clock, event in calls:
        request = (event["tenant"], event["key_id"], event.get("request_id", ""))
        first, tried = requests.get(request, (clock, 0))
        if clock // 1000 - first // 1000 > 600:
            first, tried = clock, 0
        requests[request] = first, tried + 1
        among_few = request[2] and tried < 10
        found.append(({"attempt": tried + 1} if among_few else {}) | event)
    return found


def belongs(e: Event, whose: Whose) -> bool:
    """Whether a call counts for it."""
    return (
        (whose.tenant in (None, e["tenant"]))
        and (not whose.feature or whose.feature == e.get("feature"))
        and (not whose.model[1] or whose.model == (e["provider"], e["model"]))
    )


def whose_of(e: Event) -> list[Whose]:
    """All that a call counts for."""
    found = [Whose(None), Whose(e["tenant"]), Whose(e["tenant"], model=(e["provider"], e["model"]))]
    return found + ([Whose(e["tenant"], e["feature"])] if "feature" in e else [])


def by_hand(events: list[Event], few: int) -> dict[str, float]:
    """The estimate from the set of items whose hashes the contract gives, without the vector of minutes."""
    fields: dict[str, Callable[[Event], str | None]] = {
        "users": lambda e: e.get("user_id") or None,
        "addresses": lambda e: e.get("client_ip"),
        "sessions": lambda e: e.get("session_id"),
    }
    found = {}
    for kind, field in fields.items():
        items = {text for event in events if (text := field(event)) is not None}
        found[kind] = estimate([xxhash.xxh64_intdigest(item.encode()) for item in items], few)
    return found


def named(counted: dict[str, float]) -> dict[str, float]:
    """Without the fingerprints, whose hash is the decoder's own."""
    return {kind: value for kind, value in counted.items() if kind != "fingerprints"}


def estimate(hashes: list[int], few: int) -> float:
    places = {int(place_of(np.uint64(item), few)) for item in hashes}
    return float(likeliest(np.bincount([place // few for place in places], minlength=BLOCKS), few))
