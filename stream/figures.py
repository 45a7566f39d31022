"""What sums over a window mean: shares, rates and ratios; None where nothing is known, never 0 for it."""

from __future__ import annotations

from dataclasses import dataclass


def ratio(part: float, whole: float) -> float | None:
    """
    >>> ratio(1, 4), ratio(0, 0)
    (0.25, None)
    """
    return part / whole if whole else None


def inflated(short: float | None, usual: float | None) -> float | None:
    """How many times the usual figure a short window's is.

    >>> inflated(3.0, 2.0), inflated(None, 2.0), inflated(3.0, 0.0)
    (1.5, None, None)
    """
    return None if short is None or not usual else short / usual


@dataclass(frozen=True, slots=True)
class Totals:
    """The measures of some calls, in their order in `stream/measures.py`; money in nano-dollars.

    `reported_*` are of the calls that say how many of their input tokens came from the provider's prompt cache.
    """

    usd: int
    guessed_usd: int
    calls: int
    fresh: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    untold: int
    ok: int
    denied: int
    rate_limited: int
    rejected: int
    broken: int
    fallbacks: int
    retries: int
    cache_hits: int
    timed: int
    failed_usd: int
    retried_usd: int
    latency_ms: int
    timed_tokens: int
    timed_output: int
    reported_input: int
    reported_cached: int

    @property
    def tokens(self) -> int:
        """Input and output."""
        return self.fresh + self.cached + self.cache_write + self.output

    @property
    def requests(self) -> int:
        """Distinct requests: every call but the attempts after a first one."""
        return self.calls - self.retries

    @property
    def attempts_per_request(self) -> float | None:
        """Near 1 where little is tried again. Far above it with few failures: `request_id` is no request's, but a trace's."""
        return ratio(self.calls, self.requests)

    @property
    def success(self) -> float | None:
        """Of the calls whose status is known."""
        return ratio(self.ok, self.calls - self.untold)

    @property
    def prefix_share(self) -> float | None:
        """Of the input tokens, those that the provider's prompt cache had."""
        return ratio(self.reported_cached, self.reported_input)

    @property
    def hit_ratio(self) -> float | None:
        """Of the calls, those that the response cache answered; they cost nothing."""
        return ratio(self.cache_hits, self.calls)

    @property
    def latency(self) -> float | None:
        """Milliseconds a call."""
        return ratio(self.latency_ms, self.timed)

    @property
    def ms_per_token(self) -> float | None:
        return ratio(self.latency_ms, self.timed_tokens)

    @property
    def ms_per_output_token(self) -> float | None:
        return ratio(self.latency_ms, self.timed_output)

    @property
    def tokens_per_call(self) -> float | None:
        return ratio(self.tokens, self.calls)
