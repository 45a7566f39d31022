"""Agents that go round and round."""

from __future__ import annotations

import numpy as np

from stream.lab.calls import F64, Calls, fingerprints, nearly
from stream.lab.population import HOUR_S
from stream.lab.scene import MOST_CALLS, Planted, Scene, caching, planted, talking


def _steps(scene: Scene, hours: float, every: float, regular: float) -> F64:
    """Times of a machine: about so many seconds apart."""
    count = min(int(hours * HOUR_S / every) + 1, MOST_CALLS)
    at: F64 = scene.at + np.cumsum(every * scene.rng.lognormal(0, regular, count))
    return at


def _growing(scene: Scene, calls: Calls, first: float, grows: float, most: float, cached: float) -> Calls:
    """A transcript sent again with every step, cut back when it is full."""
    steps = max(int((most - first) / grows), 1)
    context = first + np.arange(len(calls)) % steps * grows
    calls["input_tokens"] = context
    calls["output_tokens"] = np.maximum(scene.rng.lognormal(np.log(scene.vary(60, 500)), 0.4, len(calls)), 1)
    known = np.where(np.arange(len(calls)) % steps == 0, 0, (context - grows) * cached)
    return scene.cached(calls, np.maximum(known, 0))


def _of(scene: Scene, calls: Calls, prompts: int, near: float = 0.0) -> Calls:
    """Prompts that repeat with this period; a share of them differ in a counter."""
    turn = np.arange(len(calls)) % prompts
    calls["prompt_fingerprint"] = fingerprints(scene.rng, prompts)[turn]
    calls["prompt_simhash"] = fingerprints(scene.rng, prompts)[turn]
    changed = np.flatnonzero(scene.rng.random(len(calls)) < near)
    calls["prompt_fingerprint"][changed] = fingerprints(scene.rng, len(changed))
    calls["prompt_simhash"][changed] = nearly(scene.rng, calls["prompt_simhash"][changed])
    return calls


@planted("agent_loop", "throttle", hours=14, wants=caching)
def agent_loop_tight(scene: Scene) -> Planted:
    """One session sends the same 1-3 prompts every few seconds, its transcript growing and cached."""
    at = _steps(scene, scene.vary(1, 14), scene.vary(3, 16), scene.vary(0.03, 0.3))
    calls = scene.one_session(scene.usual(len(at)))
    first, grows = scene.vary(8_000, 60_000), scene.vary(400, 1_800)
    calls = _growing(scene, calls, first, grows, scene.vary(100_000, 190_000), scene.vary(0.9, 0.999))
    calls = _of(scene, calls, int(scene.vary(1, 4)), near=float(scene.rng.choice([0.0, 0.05, 0.9])))
    return Planted([scene.key], scene.sent(calls, at))


@planted("agent_loop", "throttle", hours=30, wants=talking)
def agent_pingpong(scene: Scene) -> Planted:
    """Two agents answer each other day and night, 2-8 prompts in turn, regular as a clock."""
    at = _steps(scene, scene.vary(6, 30), scene.vary(6, 20), scene.vary(0.02, 0.15))
    calls = scene.sized(scene.usual(len(at)), scene.vary(2_000, 14_000), scene.vary(200, 1_200), 0.1)
    calls = _of(scene, calls, int(scene.vary(2, 9)), near=float(scene.rng.choice([0.0, 0.3, 1.0])))
    calls["session_id"] = scene.words.new_texts("session", 2)[np.arange(len(calls)) % 2]
    for name in ("user_id", "address", "user_agent"):
        calls[name] = calls[name][:1]
    calls = scene.of_model(calls, scene.dear())
    return Planted([scene.key], scene.sent(calls, at))


@planted("agent_loop", "throttle", hours=4, wants=caching)
def subagent_fanout(scene: Scene) -> Planted:
    """30-200 concurrent sub-agents, two prompts in five nearly the same, $150-1,500/h."""
    hours, workers = scene.vary(0.5, 4), int(scene.vary(30, 200))
    grown = np.minimum(np.arange(1, round(hours * 60) + 1) / scene.vary(3, 30), 1.0)

    def make(count: int) -> Calls:
        calls = _growing(scene, scene.usual(count), scene.vary(10_000, 60_000), 900, 180_000, 0.93)
        calls = scene.sessions(scene.one_session(calls), workers)
        return _of(scene, calls, max(count * 2 // 3, 1), near=0.4)

    return Planted([scene.key], scene.burning(make, scene.vary(150, 1_500) * grown))
