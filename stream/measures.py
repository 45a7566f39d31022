"""What one call adds to whoever it is counted for: the one vector that panes, meters and hourly usage are sums of."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I64, RESPONSE_CACHE, Batch
from stream.classes import known

COUNTS = ("calls", "fresh", "cached", "cache_write", "output", "reasoning")
"""What a slot of a ring counts beside its nano-dollars; output includes reasoning."""
OUTCOMES = ("untold", "ok", "denied", "rate_limited", "rejected", "broken")
"""Every call is one of them, by its HTTP status: none; below 400; 401, 403; 429; any other 4xx; 5xx, 408, 0 (no answer)."""
HAPPENED = (*OUTCOMES, "fallbacks", "retries", "cache_hits", "timed")
"""How calls went, as counts: its outcome; another model served than was asked for; an attempt after the first; answered by
the response cache; its latency known."""
AMOUNTS = ("failed_usd", "retried_usd", "latency_ms", "timed_tokens", "timed_output", "reported_input", "reported_cached")
"""What belongs to that, as sums: nano-dollars of calls that failed, and of attempts after the first; of timed calls their
latency, tokens and output tokens; of calls that say how many input tokens were cached, those and their input tokens."""
HEALTH = HAPPENED + AMOUNTS
USD, GUESSED, FIRST_COUNT = range(3)
OF_A_SLICE = FIRST_HEALTH = FIRST_COUNT + len(COUNTS)
OF_A_CALL = FIRST_HEALTH + len(HEALTH)
"""Of how many measures a slice is the sum, and how many a call has; money in nano-dollars."""
UNTOLD, OK, DENIED, RATE_LIMITED, REJECTED, BROKEN, FALLBACKS, RETRIES, CACHE_HITS, TIMED = range(
    FIRST_HEALTH, FIRST_HEALTH + len(HAPPENED)
)
FAILED_USD, RETRIED_USD, LATENCY, TIMED_TOKENS, TIMED_OUTPUT, REPORTED_INPUT, REPORTED_CACHED = range(TIMED + 1, OF_A_CALL)
HIT = RESPONSE_CACHE.index("hit")


def measures(batch: Batch, cost: I64, guessed: NDArray[np.bool_]) -> I64:
    """Rows x OF_A_CALL."""
    sums = np.zeros((len(batch), OF_A_CALL), np.int64)
    _measure(
        (batch.input_tokens, batch.cached_input_tokens, batch.cache_write_tokens),
        (batch.output_tokens, batch.reasoning_tokens),
        (batch.status, batch.latency_ms, batch.attempt, batch.fallback, batch.response_cache),
        cost,
        guessed,
        sums,
    )
    return sums


@njit(cache=True, inline="always")
def outcome_of(status):  # type: ignore[no-untyped-def]  # numba infers the types
    """The measure that counts an HTTP status."""
    if status < 0:
        return UNTOLD
    if status == 401 or status == 403:
        return DENIED
    if status == 429:
        return RATE_LIMITED
    if status >= 500 or status == 408 or status == 0:
        return BROKEN
    if status >= 400:
        return REJECTED
    return OK


@njit(cache=True)
def _measure(inputs, outputs, request, cost, guessed, sums):  # type: ignore[no-untyped-def]
    input_all, cached_all, write_all = inputs
    output_all, reasoning_all = outputs
    status, latency, attempt, fallback, response_cache = request
    for i in range(len(cost)):
        row = sums[i]
        cached, output = known(cached_all[i]), np.int64(output_all[i])
        row[USD] = cost[i]
        if guessed[i]:
            row[GUESSED] = cost[i]
        row[FIRST_COUNT] = 1
        row[FIRST_COUNT + 1] = input_all[i] - cached - known(write_all[i])
        row[FIRST_COUNT + 2] = cached
        row[FIRST_COUNT + 3] = known(write_all[i])
        row[FIRST_COUNT + 4] = output
        row[FIRST_COUNT + 5] = known(reasoning_all[i])
        outcome = outcome_of(status[i])
        row[outcome] = 1
        if outcome > OK:
            row[FAILED_USD] = cost[i]
        if fallback[i] > 0:
            row[FALLBACKS] = 1
        if attempt[i] > 1:
            row[RETRIES] = 1
            row[RETRIED_USD] = cost[i]
        if response_cache[i] == HIT:
            row[CACHE_HITS] = 1
        if latency[i] >= 0:
            row[TIMED] = 1
            row[LATENCY] = latency[i]
            row[TIMED_TOKENS] = input_all[i] + output
            row[TIMED_OUTPUT] = output
        if cached_all[i] >= 0:
            row[REPORTED_INPUT] = input_all[i]
            row[REPORTED_CACHED] = cached
