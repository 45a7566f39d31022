"""What we are told is wrong or missing."""

from __future__ import annotations

import numpy as np

from stream.lab.scene import Planted, Scene, busy, planted


@planted("unpriced_model", "notify", hours=24, wants=busy, awake=True)
def unpriced_model(scene: Scene) -> Planted:
    """Calls go to a model that no price table knows."""
    rows = scene.rows(scene.vary(2, 24))
    calls = scene.background.calls[rows].copy()
    provider, known = scene.words.models[scene.key.model]
    name = str(scene.rng.choice([f"{known}-preview-2027", "acme-private-70b", f"{provider}-next-large", "ft:internal:v3"]))
    moved = scene.rng.random(len(calls)) < scene.vary(0.3, 1.0)
    calls["model"] = np.where(moved, scene.words.model(provider, name), calls["model"])
    return Planted([scene.key], rows=rows[moved], changed=calls[moved], free=True)


@planted("price_mismatch", "notify", hours=30, wants=busy, awake=True)
def price_mismatch(scene: Scene) -> Planted:
    """The cost that a gateway claims is off by a factor of 0.05-0.7 or 1.4-12."""
    scene.key.claims = True
    rows = scene.rows(scene.vary(3, 30))
    calls = scene.background.calls[rows].copy()
    factor = float(scene.rng.choice([scene.vary(0.05, 0.7), scene.vary(1.4, 12)]))
    calls["cost_usd"] = scene.usd(calls) * factor
    return Planted([scene.key], rows=rows, changed=calls, free=True)


@planted("telemetry_gap", "notify", hours=4, wants=busy, awake=True, whole_tenant=True)
def telemetry_gap(scene: Scene) -> Planted:
    """A tenant's exporter dies for 20 minutes to 4 hours: 60-100 % of its calls are missing."""
    keys = scene.tenant()
    hours = scene.vary(0.3, 4)
    rows = scene.rows(hours, keys=keys)
    gone = rows[scene.rng.random(len(rows)) < scene.vary(0.6, 1.0)]
    return Planted(keys, gone=gone, free=True, span=(scene.at, scene.at + hours * 3600))
