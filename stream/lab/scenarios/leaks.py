"""Keys in the wrong hands."""

from __future__ import annotations

import numpy as np

from schemas.batch import ABSENT
from stream.lab.calls import OPERATIONS, Calls
from stream.lab.population import DAY_S, HOUR_S, MODELS, arrivals
from stream.lab.scene import MOST_CALLS, Planted, Scene, busy, chatting, minutes, planted, ramp


@planted("leaked_key", "rotate", hours=10)
def leak_fast(scene: Scene) -> Planted:
    """A stolen key: probes of many models, a pause, then a dear one at $60-1,800/h from abroad."""
    countries, addresses = int(scene.vary(1, 11)), int(scene.vary(4, 80))
    model = scene.dear()
    given, answered = scene.vary(400, 12_000), scene.vary(300, 4_000)

    def stolen(count: int) -> Calls:
        calls = scene.of_model(scene.sized(scene.usual(count), given, answered), model)
        return scene.sessions(scene.strangers(calls, countries, addresses), max(1, count // 8))

    probes = _probes(scene)
    pause = float(probes["ts"].max() - probes["ts"].min()) / HOUR_S + scene.vary(4, 30) / 60
    hours = scene.vary(1, 9)
    usd = scene.vary(60, 1_800) * ramp(hours, scene.vary(0.02, 0.6))
    burn = scene.burning(stolen, usd, since=pause)
    return Planted([scene.key], np.concatenate([probes, burn]))


def _probes(scene: Scene) -> Calls:
    """Which models answer, and which say no."""
    calls = scene.strangers(scene.sized(scene.usual(int(scene.vary(6, 20))), 12, 1), 1, 1)
    every = [scene.words.model(*model) for models in MODELS.values() for model in models]
    calls["model"] = scene.rng.choice(every, len(calls))
    calls["requested_model"] = np.where(calls["requested_model"] == ABSENT, ABSENT, calls["model"])
    embeds = np.isin(calls["model"], [scene.words.model(*model) for model in MODELS["embedding"]])
    calls["operation"] = np.where(embeds, OPERATIONS.index("embeddings"), OPERATIONS.index("chat"))
    refused = scene.rng.random(len(calls)) < 0.4
    calls["status"] = np.where(refused, scene.rng.choice([401, 403, 404], len(calls)), 200)
    calls["output_tokens"] = np.where(refused, 0, 1)
    calls["input_tokens"] = np.where(refused, 0, calls["input_tokens"])
    return scene.sent(calls, scene.at + np.sort(scene.rng.uniform(0, scene.vary(60, 400), len(calls))))


@planted("leaked_key", "rotate", hours=26, wants=busy)
def leak_slow(scene: Scene) -> Planted:
    """A shared key: a few addresses in one new country add 40-150 % for a day, on the same model."""
    hours = scene.vary(10, 26)
    own = scene.background.calls[scene.background.of(scene.key, scene.at - 2 * DAY_S, scene.at)]
    a_day = float(scene.usd(own).sum()) / 2
    usd = scene.vary(0.4, 1.5) * max(a_day, 1.0) / 24
    places = int(scene.vary(3, 7))
    added = scene.burning(
        lambda n: scene.strangers(scene.uncached(scene.usual(n)), 1, places), np.full(round(hours * 60), usd)
    )
    return Planted([scene.key], scene.sessions(added, max(1, len(added) // 10)))


@planted("leaked_key", "rotate", hours=14, wants=chatting)
def leak_proxy_resale(scene: Scene) -> Planted:
    """A resold key: users, addresses and countries double every 25-80 min, each of them light."""
    users, doubling = scene.vary(150, 4_000), scene.vary(25, 65) / 60
    hours = min(np.log2(users) * doubling + scene.vary(0.1, 2), 14)
    grown = np.minimum(2 ** (minutes(hours) / doubling), users)
    per_hour = grown * scene.vary(2, 12)
    per_hour *= min(1.0, MOST_CALLS / (per_hour.sum() / 60))
    at = arrivals(scene.rng, per_hour, scene.at, 60.0)
    calls = scene.sized(scene.usual(len(at)), scene.vary(300, 4_000), scene.vary(150, 900))
    calls = scene.strangers(calls, int(scene.vary(5, 16)), int(scene.vary(200, 3_000)), max(2, int(grown.max())))
    if scene.chance(0.6):
        calls = scene.of_model(calls, scene.dear())
    return Planted([scene.key], scene.sessions(scene.sent(calls, at), max(1, len(calls) // 4)))


@planted("leaked_key", "rotate", hours=5)
def leak_dormant_key(scene: Scene) -> Planted:
    """A key unused for months wakes in a foreign country and burns $30-400/h."""
    old = scene.new_key(days_old=scene.vary(40, 700))
    model, places = scene.dear(), int(scene.vary(1, 6))
    given, answered = scene.vary(500, 8_000), scene.vary(300, 4_000)

    def stolen(count: int) -> Calls:
        calls = scene.of_model(scene.sized(scene.usual(count), given, answered), model)
        return scene.sessions(scene.strangers(calls, 1, places), max(1, count // 10))

    usd = scene.vary(30, 400) * ramp(scene.vary(1.5, 5), scene.vary(0.05, 0.3))
    return Planted([old], scene.burning(stolen, usd, old))
