"""More of the same: nothing is odd about the calls but what they come to."""

from __future__ import annotations

import numpy as np

from stream.lab.population import DAY_S
from stream.lab.scene import Planted, Scene, busy, planted, ramp


@planted("spend_spike", "throttle", hours=12)
def spend_spike(scene: Scene) -> Planted:
    """A key's own kind of call, multiplied: $15-900/h at once, slowly or in bursts."""
    hours = scene.vary(0.5, 12)
    shape = ramp(hours, float(scene.rng.choice([0.01, 0.05, 0.5, 2.0])))
    if scene.chance(0.3):
        shape = shape * (np.arange(len(shape)) // round(scene.vary(4, 40)) % 2 == 0)
    added = scene.burning(scene.usual, scene.vary(15, 900) * shape)
    return Planted([scene.key], scene.sessions(added, max(1, len(added) // 5)))


@planted("budget_burn", "notify", hours=48, wants=busy, awake=True, whole_tenant=True)
def budget_burn(scene: Scene) -> Planted:
    """All keys of a tenant make 2-6 times their calls; the month's budget will not last."""
    past = [key for key in scene.tenant() if len(scene.rows(24, -24, [key]))] or [scene.key]
    since = max(scene.background.start, scene.at - 7 * DAY_S)
    own = [scene.background.calls[scene.background.of(key, since, scene.at)] for key in past]
    a_day = sum(float(scene.usd(calls).sum()) for calls in own) / ((scene.at - since) / DAY_S)
    times, hours = scene.vary(2, 6), scene.vary(12, 48)
    added = [scene.like_usual(np.full(round(hours * 60), times), key) for key in past]
    budget = round(max(a_day, 0.1) * 30 * scene.vary(1.05, 1.4), 2)
    return Planted(past, np.concatenate(added), budgets={scene.key.tenant: budget})
