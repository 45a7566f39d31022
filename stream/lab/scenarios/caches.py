"""Prompt caches that stop working."""

from __future__ import annotations

import numpy as np

from schemas.batch import ABSENT
from stream.lab.calls import Calls, fingerprints
from stream.lab.population import HOUR_S
from stream.lab.scene import Planted, Scene, busy, caching, planted


def missed(scene: Scene, calls: Calls, kept: float, writes: bool) -> Calls:
    """Calls of which only a share of what was cached still is; what is not is written anew where the provider writes."""
    calls = calls.copy()
    known = np.maximum(calls["cached_input_tokens"], 0)
    left = (known * kept).astype(np.int32) // 64 * 64
    calls["cached_input_tokens"] = np.where(calls["cached_input_tokens"] == ABSENT, ABSENT, left)
    if writes:
        written = np.maximum(calls["cache_write_tokens"], 0) + known - left
        calls["cache_write_tokens"] = np.where(calls["cache_write_tokens"] == ABSENT, ABSENT, written)
        calls["cache_write_1h_tokens"] = ABSENT
    return calls


@planted("cache_miss", "downgrade", hours=40, wants=caching, awake=True)
def cache_break_full(scene: Scene) -> Planted:
    """A gateway drops prompt caching: of a hit ratio of .9 almost nothing is left."""
    rows = scene.rows(scene.vary(4, 40))
    changed = missed(scene, scene.background.calls[rows], scene.vary(0.001, 0.08), scene.chance(0.3))
    return Planted([scene.key], rows=rows, changed=changed)


@planted("cache_miss", "notify", hours=40, wants=caching, awake=True)
def cache_break_partial(scene: Scene) -> Planted:
    """Only the system prefix hits, on and off: about half of the hit ratio, more cache writes."""
    rows = scene.rows(scene.vary(6, 40))
    hour = ((scene.background.calls["ts"][rows] - scene.at) // (scene.vary(0.3, 3) * HOUR_S)).astype(int)
    off = scene.rng.random(200) < scene.vary(0.5, 1.0)
    off[0] = True
    rows = rows[off[hour % 200]]
    return Planted([scene.key], rows=rows, changed=missed(scene, scene.background.calls[rows], scene.vary(0.3, 0.7), True))


@planted("cache_miss", "notify", hours=2, wants=busy)
def cache_stampede(scene: Scene) -> Planted:
    """One expensive prompt falls out of the response cache: many sessions and keys ask it at once."""
    keys = [key for key in scene.tenant() if len(scene.rows(24, -24, [key])) > 5] or [scene.key]
    keys = keys[: max(1, int(scene.vary(1, 9)))]
    prompt, hours, given = fingerprints(scene.rng, 1), scene.vary(0.2, 2), scene.vary(4_000, 60_000)
    usd = scene.vary(20, 300) / len(keys)

    def asked(count: int) -> Calls:
        calls = scene.sized(scene.usual(count), given, scene.vary(200, 1_500), 0.02)
        calls["prompt_fingerprint"] = calls["prompt_simhash"] = prompt
        calls["response_cache"] = 1
        return scene.sessions(calls, max(2, int(count * 0.8)))

    added = [scene.burning(asked, np.full(round(hours * 60), usd), key) for key in keys]
    return Planted(keys, np.concatenate(added))
