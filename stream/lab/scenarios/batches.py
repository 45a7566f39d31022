"""Jobs that run too often or on the wrong key, and people who abuse what is open to them."""

from __future__ import annotations

import numpy as np

from stream.lab.calls import OPERATIONS, Calls, fingerprints
from stream.lab.population import HOUR_S, MODELS, fail
from stream.lab.scene import MOST_CALLS, Planted, Scene, chatting, planted


@planted("loop_batch", "throttle", hours=6)
def embed_reindex_loop(scene: Scene) -> Planted:
    """The same documents are embedded again and again: many tokens, few dollars."""
    documents = int(scene.vary(400, 3_000))
    count = min(documents * int(scene.vary(6, 40)), MOST_CALLS)
    calls = scene.sized(scene.usual(count), scene.vary(2_000, 8_000), 0, 0.2)
    models = MODELS["embedding"]
    calls = scene.of_model(scene.one_session(calls), models[int(scene.rng.integers(len(models)))])
    calls["operation"] = OPERATIONS.index("embeddings")
    calls["output_tokens"] = 0
    calls["prompt_fingerprint"] = fingerprints(scene.rng, documents)[np.arange(count) % documents]
    fail(scene.rng, calls, np.flatnonzero(scene.rng.random(count) < scene.vary(0.03, 0.25)), [429])
    return Planted([scene.key], scene.sent(calls, scene.at + np.arange(count) / scene.vary(2, 10)))


@planted("loop_batch", "throttle", hours=13)
def cron_storm(scene: Scene) -> Planted:
    """The nightly job, known since the first night, starts every 15-60 minutes."""
    documents, usd = int(scene.vary(150, 700)), scene.vary(1, 12)
    every, hours, lasts = float(scene.rng.choice([15, 30, 60])) / 60, scene.vary(4, 12), scene.vary(4, 12) / 60
    prompts = fingerprints(scene.rng, documents)
    given = scene.vary(1_000, 8_000)
    one = scene.one_session(scene.sized(scene.usual(documents), given, scene.vary(100, 800)))
    one["prompt_fingerprint"] = prompts
    each = max(float(scene.usd(one).sum()), 1e-6)
    one["input_tokens"] = np.minimum(one["input_tokens"] * np.clip(usd / each, 0.2, 30), 150_000)
    nightly = [scene.at - night * 24 * HOUR_S for night in range(1, int((scene.at - scene.background.start) / 86_400) + 1)]
    storm = [scene.at + n * every * HOUR_S for n in range(max(2, min(round(hours / every), MOST_CALLS // documents)))]

    def job(at: float) -> Calls:
        return scene.sent(one.copy(), at + np.sort(scene.rng.uniform(0, lasts * HOUR_S, documents)))

    usual = np.concatenate([job(at) for at in nightly]) if nightly else one[:0]
    return Planted([scene.key], np.concatenate([job(at) for at in storm]), ordinary=usual)


@planted("misuse", "rotate", hours=25)
def ci_prod_key(scene: Scene) -> Planted:
    """CI uses the production key: bursts of the same 150 prompts from a new runner each time."""
    runs, prompts = int(scene.vary(10, 36)), fingerprints(scene.rng, 150)
    model, client = scene.dear(), scene.words.text("pytest-llm/2")
    begins = scene.at + np.sort(scene.rng.uniform(0, scene.vary(6, 24) * HOUR_S, runs))
    begins[0] = scene.at
    given, answered = scene.vary(500, 4_000), scene.vary(100, 900)
    added, cloud = [], scene.abroad(1)[0] if scene.key.country == "US" else "US"
    for begin in begins:
        count = int(scene.vary(150, 600))
        calls = scene.of_model(scene.sized(scene.usual(count), given, answered, 0.2), model)
        calls = scene.sessions(scene.strangers(calls, 1, 1), 1)
        calls["address"], calls["user_agent"] = scene.words.new_addresses(scene.rng, cloud, 1), client
        calls["prompt_fingerprint"] = prompts[np.arange(count) % len(prompts)]
        added.append(scene.sent(calls, begin + np.sort(scene.rng.uniform(0, scene.vary(4, 12) * 60, count))))
    return Planted([scene.key], np.concatenate(added))


@planted("abuse", "throttle", hours=5, wants=chatting)
def wallet_abuse(scene: Scene) -> Planted:
    """Hundreds of strangers make a public chat write its longest answers."""
    given, answered = scene.vary(4_000, 12_000), scene.vary(1_000, 3_000)
    countries, addresses = int(scene.vary(6, 16)), int(scene.vary(200, 900))

    def abused(count: int) -> Calls:
        own = scene.sized(scene.usual(count), given, answered, 0.15)
        clients = own["user_agent"].copy()
        calls = scene.strangers(own, countries, addresses, addresses)
        calls["user_agent"], calls["session_id"] = clients, scene.words.new_texts("session", count)
        return calls

    usd = np.full(round(scene.vary(1.5, 5) * 60), scene.vary(20, 400))
    return Planted([scene.key], scene.burning(abused, usd))
