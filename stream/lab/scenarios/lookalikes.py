"""What looks like an incident and is none: a notice may come, an action must not."""

from __future__ import annotations

import numpy as np

from stream.lab.calls import Calls
from stream.lab.population import DAY_S, HOUR_S, MODELS, fail, working
from stream.lab.scenarios.caches import missed
from stream.lab.scene import MOST_CALLS, Planted, Scene, busy, caching, chatting, minutes, planted


@planted(None, "none", hours=20, wants=chatting, awake=True)
def b_product_launch(scene: Scene) -> Planted:
    """A launch: a smooth rise to 3-6 times over two hours, everything else as before."""
    hours, rises, times = scene.vary(6, 20), scene.vary(1.5, 3), scene.vary(2, 5)
    return Planted([scene.key], scene.like_usual(times * np.clip(minutes(hours) / rises, 0, 1)))


@planted(None, "none", hours=0)
def b_nightly_batch(scene: Scene) -> Planted:
    """A dear batch at the same hour every night since the first."""
    key, first = scene.key, scene.background.start + scene.rng.uniform(0, 24) * HOUR_S
    usd, lasts = scene.vary(5, 500), scene.vary(0.2, 3)
    nights = int((scene.background.end - first - lasts * HOUR_S) // DAY_S) + 1
    each = max(float(scene.usd(scene.usual(200)).mean()), 1e-6)
    count = int(min(usd * lasts / each, MOST_CALLS / max(nights, 1)))
    added = []
    for night in range(max(nights, 1)):
        at = first + night * DAY_S + np.sort(scene.rng.normal(0, 60) + scene.rng.uniform(0, lasts * HOUR_S, count))
        added.append(scene.sent(scene.one_session(scene.usual(count)), at))
    return Planted([key], np.concatenate(added))


@planted(None, "none", hours=0, wants=busy)
def b_workday_ramp(scene: Scene) -> Planted:
    """A key that is busy every working day and idle else, from the first week on."""
    days = (scene.background.end - scene.background.start) / DAY_S
    shape = np.repeat(working(scene.rng, "office", scene.background.start, days, scene.key.zone), 10)
    usd = scene.vary(5, 150) * shape * np.repeat(scene.rng.gamma(10, 0.1, len(shape) // 10), 10)
    since = (scene.background.start - scene.at) / HOUR_S
    added = scene.burning(scene.usual, usd, since=since)
    return Planted([scene.key], scene.sessions(added, max(1, len(added) // 5)))


@planted(None, "none", hours=24)
def b_new_tenant(scene: Scene) -> Planted:
    """A tenant made minutes to hours ago starts to work."""
    key = scene.new_key(days_old=scene.vary(0.01, 0.3))
    key.tenant = f"tenant-{key.number + 1}"
    key.number = scene.words.key(key.tenant, key.key_id)
    usd = scene.vary(10, 200) * np.clip(minutes(scene.vary(4, 24)) / scene.vary(0.2, 2), 0.05, 1)
    return Planted([key], scene.burning(scene.usual, usd, key))


@planted(None, "none", hours=3)
def b_load_test(scene: Scene) -> Planted:
    """A declared load test on a staging key."""
    hours = scene.vary(0.5, 3)
    client = scene.words.text("k6/1.2")

    def made(count: int) -> Calls:
        calls = scene.one_session(scene.sized(scene.usual(count), scene.vary(300, 3_000), 200, 0.05))
        calls["user_agent"], calls["environment"] = client, scene.words.text("staging")
        fail(scene.rng, calls, np.flatnonzero(scene.rng.random(count) < 0.2), [429])
        return calls

    key = scene.new_key(days_old=200)
    ordinary = scene.burning(
        scene.usual,
        np.full(round((scene.at - scene.background.start) / 60), 0.2),
        key,
        -(scene.at - scene.background.start) / HOUR_S,
    )
    added = scene.burning(made, np.full(round(hours * 60), scene.vary(20, 600)), key)
    return Planted([key], added, ordinary=ordinary, windows=[_window(scene, "load_test", hours, key.key_id)])


def _window(scene: Scene, kind: str, hours: float, key_id: str | None = None) -> dict[str, object]:
    window: dict[str, object] = {
        "kind": kind,
        "tenant": scene.key.tenant,
        "start_ts": scene.at - 600,
        "end_ts": scene.at + (hours + 0.5) * HOUR_S,
    }
    return window | ({"key_id": key_id} if key_id else {})


@planted(None, "none", hours=4, wants=caching, awake=True)
def b_deploy_window(scene: Scene) -> Planted:
    """A declared deploy: cold cache for some minutes, prompts 5-20 % longer."""
    cold, hours = scene.vary(5, 20) / 60, scene.vary(1, 4)
    rows = scene.rows(hours)
    calls = scene.background.calls[rows]
    early = calls["ts"] < scene.at + cold * HOUR_S
    calls[early] = missed(scene, calls[early], 0.02, True)
    calls["input_tokens"] = (calls["input_tokens"] * scene.vary(1.05, 1.2)).astype(np.int32)
    return Planted([scene.key], rows=rows, changed=calls, windows=[_window(scene, "deploy", hours)])


@planted(None, "none", hours=24, wants=busy, awake=True)
def b_price_change(scene: Scene) -> Planted:
    """A provider's price rises; the price list says so, tokens and models are the same."""
    provider, model = scene.words.models[scene.key.model]
    times = scene.vary(1.2, 3)
    entry = {"provider": provider, "model": model, "effective_from": scene.at, "unit": "USD per 1M tokens"}
    entry |= {name: round(rate * times, 6) for name, rate in scene.rates(scene.key.model).items()}
    users = [key for key in scene.background.keys if key.model == scene.key.model]
    return Planted(users, span=(scene.at, scene.background.end), prices=[entry])


@planted(None, "none", hours=5)
def b_one_off_job(scene: Scene) -> Planted:
    """A backfill from its own machine, all prompts distinct, which ends by itself."""
    address, feature = scene.words.new_addresses(scene.rng, scene.key.country, 1), scene.words.text("backfill")

    def made(count: int) -> Calls:
        calls = scene.one_session(scene.sized(scene.usual(count), scene.vary(2_000, 12_000), 300))
        calls["address"], calls["feature"] = address, feature
        return calls

    return Planted([scene.key], scene.burning(made, np.full(round(scene.vary(0.5, 5) * 60), scene.vary(10, 250))))


@planted(None, "none", hours=6, wants=busy, awake=True)
def b_clock_skew(scene: Scene) -> Planted:
    """A producer's clock jumps by 1-90 minutes; calls arrive as ever."""
    hours = scene.vary(0.5, 6)
    rows = scene.rows(hours)
    calls = scene.background.calls[rows].copy()
    calls["ts"] += float(scene.rng.choice([-1, 1])) * scene.vary(60, 5_400)
    return Planted([scene.key], rows=rows, changed=calls, span=(scene.at, scene.at + hours * HOUR_S))


@planted(None, "none", hours=1, wants=busy, awake=True)
def b_late_dup(scene: Scene) -> Planted:
    """An exporter stalls and sends it all later, much of it twice."""
    hours, twice = scene.vary(0.1, 1), scene.vary(0.3, 1.0)
    rows = scene.rows(hours)
    calls = scene.background.calls[rows].copy()
    calls["arrival_ts"] = np.maximum(calls["arrival_ts"], scene.at + hours * HOUR_S + scene.rng.uniform(0, 20, len(calls)))
    again = calls[scene.rng.random(len(calls)) < twice].copy()
    again["arrival_ts"] += scene.rng.uniform(1, 300, len(again))
    return Planted([scene.key], again=again, rows=rows, changed=calls)


@planted(None, "none", hours=24, wants=busy, awake=True)
def b_key_rotation(scene: Scene) -> Planted:
    """A key is replaced by a new one that carries its traffic on."""
    new = scene.new_key(days_old=scene.vary(0.001, 1), replaces=scene.key)
    rows = scene.rows(1e6)
    calls = scene.background.calls[rows].copy()
    calls["key"] = new.number
    return Planted([scene.key, new], rows=rows, changed=calls)


@planted(None, "none", hours=72, wants=busy, awake=True)
def b_travel_dev(scene: Scene) -> Planted:
    """A developer works from abroad: same client, habits and cache."""
    rows = scene.rows(scene.vary(8, 72))
    calls = scene.background.calls[rows].copy()
    user = calls["user_id"] == (calls["user_id"][0] if len(calls) else 0)
    away = scene.words.new_addresses(scene.rng, scene.abroad(1)[0], 3)
    calls["address"] = np.where(user, scene.rng.choice(away, len(calls)), calls["address"])
    return Planted([scene.key], rows=rows[user], changed=calls[user])


@planted(None, "none", hours=20, wants=caching)
def b_agent_marathon(scene: Scene) -> Planted:
    """Four long agent sessions side by side, all prompts distinct, with human pauses."""
    added = []
    for _ in range(4):
        steps = int(scene.vary(150, 700))
        calls = scene.one_session(scene.usual(steps))
        context = 20_000 + np.cumsum(scene.rng.lognormal(np.log(900), 0.8, steps))
        context = 20_000 + context % 140_000
        gaps = scene.rng.lognormal(np.log(scene.vary(12, 40)), 1.2, steps)
        calls["input_tokens"] = context
        calls["output_tokens"] = scene.rng.lognormal(np.log(250), 0.8, steps)
        known = np.concatenate([[0], np.minimum(context[:-1], context[1:])])
        calls = scene.cached(calls, np.where(gaps > 300, 0, known))
        added.append(scene.sent(calls, scene.at + np.cumsum(gaps)))
    return Planted([scene.key], np.concatenate(added))


@planted(None, "none", hours=1.3, wants=caching, awake=True)
def b_failover(scene: Scene) -> Planted:
    """5xx, then another provider's model of the same tier for up to an hour."""
    hours, broken = scene.vary(0.3, 1.3), scene.vary(1, 6) * 60
    rows = scene.rows(hours)
    calls = scene.background.calls[rows].copy()
    moved = missed(scene, calls, 0.3, True)
    others = [model for model in MODELS["large"] if model != scene.words.models[scene.key.model]]
    moved["model"] = scene.words.model(*others[int(scene.rng.integers(len(others)))])
    fail(scene.rng, moved, np.flatnonzero(calls["ts"] < scene.at + broken), [503])
    return Planted([scene.key], rows=rows, changed=moved)
