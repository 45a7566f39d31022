"""The same call tried again and again."""

from __future__ import annotations

import numpy as np

from stream.lab.calls import Calls, Rows
from stream.lab.population import fail
from stream.lab.scene import MOST_CALLS, Planted, Scene, busy, planted


def _first(scene: Scene, hours: float) -> Rows:
    """The calls of these hours that are no second attempts and did not fail."""
    rows = scene.rows(hours)
    own = scene.background.calls[rows]
    return rows[(own["input_tokens"] > 0) & (own["attempt"] <= 1)]


def _again(scene: Scene, rows: Rows, tries: float, wait: float) -> Calls:
    """Each of these calls some more times, `wait` seconds apart: the same prompt, the next attempt, billed."""
    own = scene.background.calls[rows]
    more = np.minimum(scene.rng.poisson(tries, len(own)), 8)
    more = more if more.sum() <= MOST_CALLS else np.where(scene.rng.random(len(own)) < MOST_CALLS / more.sum(), more, 0)
    calls = np.repeat(own, more)
    attempt = np.arange(len(calls)) - np.repeat(np.cumsum(more) - more, more) + 1
    calls["attempt"] = attempt + 1
    return scene.sent(calls, calls["ts"] - scene.key.skew + attempt * wait * scene.rng.uniform(0.9, 1.1, len(calls)))


@planted("retry_storm", "throttle", hours=9, wants=busy, awake=True)
def retry_storm_timeout(scene: Scene) -> Planted:
    """Calls time out at 10-120 s and are sent 3-6 times more; all are billed."""
    hours, wait = scene.vary(1, 8), float(scene.rng.choice([10, 30, 60, 120]))
    rows = _first(scene, hours)
    calls = _again(scene, rows, scene.vary(3, 6), wait)
    calls["status"] = np.where(scene.rng.random(len(calls)) < 0.8, 499, 200)
    calls["latency_ms"] = wait * 1000
    late = scene.background.calls[rows].copy()
    late["status"], late["latency_ms"] = 499, wait * 1000
    return Planted([scene.key], np.concatenate([calls, _burst(scene, wait)]), rows=rows, changed=late)


def _burst(scene: Scene, wait: float) -> Calls:
    """One call some hundreds of times within a minute."""
    calls = scene.usual(int(scene.vary(300, 1_500)))
    calls[:] = calls[0]
    calls["status"], calls["latency_ms"] = 499, wait * 1000
    calls["attempt"] = 1 + np.arange(len(calls)) % 100
    return scene.sent(calls, scene.at + np.sort(scene.rng.uniform(0, 60, len(calls))))


@planted("retry_storm", "throttle", hours=11, wants=busy, awake=True)
def retry_storm_parse(scene: Scene) -> Planted:
    """Answers that a client cannot parse: the same prompt 2-5 times more, all 200 OK."""
    return Planted([scene.key], _again(scene, _first(scene, scene.vary(1, 10)), scene.vary(2, 5), scene.vary(0.5, 6)))


@planted("retry_storm", "throttle", hours=1)
def storm_429_unbilled(scene: Scene) -> Planted:
    """8-50 calls a second, all refused with 429: no tokens, no dollars."""
    seconds = scene.vary(8, 60) * 60
    calls = scene.usual(min(int(seconds * scene.vary(8, 50)), MOST_CALLS))
    fail(scene.rng, calls, np.arange(len(calls)), [429])
    calls["latency_ms"] = scene.rng.uniform(15, 90, len(calls))
    calls["prompt_fingerprint"] = scene.rng.choice(calls["prompt_fingerprint"][:200], len(calls))
    at = scene.at + np.sort(scene.rng.uniform(0, seconds, len(calls)))
    return Planted([scene.key], scene.sent(calls, at), free=True)
