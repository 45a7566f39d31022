"""Calls that grow, think more, or go to a dearer model."""

from __future__ import annotations

import numpy as np

from schemas.batch import ABSENT
from stream.lab.calls import F64, Calls
from stream.lab.population import HOUR_S
from stream.lab.scene import Planted, Scene, busy, chatting, planted, talking

_INPUT = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens")


def _longer(calls: Calls, times: F64) -> Calls:
    """Prompts so many times as long; what is new is not cached."""
    calls = calls.copy()
    calls["input_tokens"] = np.minimum(calls["input_tokens"] * times, np.maximum(calls["input_tokens"], 195_000))
    return calls


@planted("token_inflation", "downgrade", hours=24, wants=chatting, awake=True)
def prompt_bloat_step(scene: Scene) -> Planted:
    """A deploy makes prompts 8-40 times as long; answers and rate stay."""
    rows = scene.rows(scene.vary(3, 24))
    calls = scene.background.calls[rows]
    return Planted([scene.key], rows=rows, changed=_longer(calls, np.full(len(rows), scene.vary(8, 40))))


@planted("token_inflation", "notify", hours=44, wants=busy, awake=True)
def prompt_creep(scene: Scene) -> Planted:
    """Prompts grow 2.5-6 times over a day or two."""
    hours = scene.vary(22, 44)
    rows = scene.rows(hours)
    calls = scene.background.calls[rows]
    grown = scene.vary(2.5, 6) ** ((calls["ts"] - scene.at) / (hours * HOUR_S))
    return Planted([scene.key], rows=rows, changed=_longer(calls, np.maximum(grown, 1.0)))


@planted("token_inflation", "downgrade", hours=8, wants=talking, awake=True)
def reasoning_runaway(scene: Scene) -> Planted:
    """Answers 6-18 times as long, nearly all of it reasoning, for some hours."""
    rows = scene.rows(scene.vary(2, 8))
    calls = scene.background.calls[rows].copy()
    answers = np.minimum(calls["output_tokens"] * scene.vary(6, 18), 32_000)
    calls["reasoning_tokens"] = answers * scene.vary(0.85, 0.97)
    calls["latency_ms"] *= answers / np.maximum(calls["output_tokens"], 1)
    calls["output_tokens"] = answers
    return Planted([scene.key], rows=rows, changed=calls)


@planted("model_shift", "downgrade", hours=12, wants=talking, awake=True)
def model_swap(scene: Scene) -> Planted:
    """Calls move within minutes to a model that costs 10-60 times as much."""
    rows = scene.rows(scene.vary(4, 12))
    calls = scene.background.calls[rows].copy()
    share = np.clip((calls["ts"] - scene.at) / (scene.vary(1, 40) * 60), 0, 1) * scene.vary(0.6, 1.0)
    swapped = scene.rng.random(len(calls)) < share
    calls["model"] = np.where(swapped, scene.words.model(*scene.dear()), calls["model"])
    if scene.chance(0.5):
        asked = calls["requested_model"]
        calls["requested_model"] = np.where(swapped & (asked != ABSENT), calls["model"], asked)
    return Planted([scene.key], rows=rows, changed=calls)


@planted("token_inflation", "notify", hours=24, wants=busy, awake=True, whole_tenant=True)
def tokenizer_inflation(scene: Scene) -> Planted:
    """A model update counts 20-47 % more tokens for the same text, for a whole tenant, for good."""
    keys = scene.tenant()
    rows = scene.rows(1e6, keys=keys)
    calls = scene.background.calls[rows].copy()
    given, answered = scene.vary(1.2, 1.47), scene.vary(1.2, 1.47)
    for name in _INPUT:
        calls[name] = np.where(calls[name] > 0, calls[name] * given, calls[name])
    calls["output_tokens"] = calls["output_tokens"] * answered
    calls["reasoning_tokens"] = np.where(calls["reasoning_tokens"] > 0, calls["reasoning_tokens"] * answered, -1)
    return Planted(keys, rows=rows, changed=calls)
