"""Real LiteLLM and the real OpenTelemetry SDK against the intake: tokens and dollars are what the provider counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from schemas.decode import Decoder, split
from stream.pricing import PriceBook
from tests.foreign import SECRET_TEXT, body
from tests.intakes import TOKEN, Listening, intake
from tests.senders import ENVIRONMENTS, MODEL, NoSender, Provider, ask, litellm, python_of, run_otel
from tests.workers import eventually

OPENLLMETRY, V2 = "opentelemetry.instrumentation.openai", "opentelemetry.instrumentation.openai_v2"
pytestmark = pytest.mark.senders


@pytest.fixture(autouse=True)
def environments() -> None:
    try:
        for name in ENVIRONMENTS:
            python_of(name)
    except NoSender as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(reason))


def nano_dollars(events: list[dict[str, Any]]) -> list[int]:
    decoder = Decoder()
    batch, refused = decoder.decode(split(b"\n".join(map(body, events))))
    assert refused == []
    cost, guessed = PriceBook().cost(batch, decoder.models.names)
    assert not guessed.any()
    return [int(each) for each in cost]


def counted(provider: Provider, parts: bool = True) -> dict[str, dict[str, Any]]:
    """What the provider counted, as usage events by the id of the answer; without parts where the sender tells of none."""
    told: dict[str, dict[str, Any]] = {}
    for name, usage in provider.told.items():
        told[name] = {
            **{"event_id": name, "ts": 1_790_000_000.0, "tenant": "t", "key_id": "k", "provider": "openai", "model": MODEL},
            **{"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
        }
        if parts:
            told[name]["cached_input_tokens"] = usage["prompt_tokens_details"]["cached_tokens"]
            told[name]["reasoning_tokens"] = usage["completion_tokens_details"]["reasoning_tokens"]
    return told


def agree(there: Listening, told: dict[str, dict[str, Any]]) -> None:
    """Every call that the provider answered is there once, with its tokens and its dollars."""
    calls = {call["event_id"][-len("chatcmpl-0") :]: call for call in there.kafka.calls() if call.get("status", 200) < 400}
    assert calls.keys() == told.keys()
    for name, expected in told.items():
        parts = {part: value for part, value in calls[name].items() if part.endswith("_tokens")}
        assert parts == {part: value for part, value in expected.items() if part.endswith("_tokens")}
    assert nano_dollars([calls[name] for name in told]) == nano_dollars(list(told.values()))
    assert SECRET_TEXT not in repr(there.kafka.records)


def test_litellm_is_heard_and_its_dollars_are_ours(tmp_path: Path) -> None:
    provider = Provider(1)
    with intake(body_limit=16 << 20) as there, provider.listening() as base:
        endpoint = "http://{}:{}/v1/usage/litellm".format(*there.address)
        with litellm(tmp_path, base, endpoint, TOKEN) as proxy:
            assert [ask(proxy, SECRET_TEXT) for _ in range(6)] == [200] * 6
            assert ask(proxy, "refuse") == 429
            eventually(lambda: len(there.kafka.calls()) >= 7, 30, "all calls are heard of")
        failed = [call for call in there.kafka.calls() if call.get("status") == 429]
        assert [(call["input_tokens"], call["output_tokens"]) for call in failed] == [(0, 0)]
        agree(there, counted(provider))
        told = [call for call in there.kafka.calls() if call["status"] == 200]
        assert nano_dollars(told) == [round(call["cost_usd"] * 1e9) for call in told]


@pytest.mark.parametrize(("instrumentations", "parts"), [((OPENLLMETRY,), True), ((V2,), False), ((OPENLLMETRY, V2), True)])
def test_an_instrumented_program_is_heard_and_a_call_counts_once(instrumentations: tuple[str, ...], parts: bool) -> None:
    provider = Provider(2)
    with intake() as there, provider.listening() as base:
        said = run_otel(base, "http://{}:{}/v1/traces".format(*there.address), TOKEN, *instrumentations)
        assert "Failed to export" not in said
        agree(there, counted(provider, parts))
        assert {(call["tenant"], call["key_id"]) for call in there.kafka.calls()} == {("acme", "shop")}
        assert there.kafka.rows() == []
