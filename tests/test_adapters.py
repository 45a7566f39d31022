"""Foreign payloads to usage events: counts mean the same whoever sent them, and nothing else comes in."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from genai_prices import data_snapshot
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from schemas.adapters.reading import PROVIDERS, Reading, items
from schemas.adapters.sources import usage_events
from schemas.adapters.who import BOUND, SOURCES, SourceName, Sources
from schemas.call import Refused, convert
from schemas.decode import Decoder, parse, split
from schemas.documents import DocumentError, parse_document
from stream.pricing import PriceBook
from tests.foreign import (
    CAPTURED,
    NOW,
    OPENINFERENCE,
    PARTS,
    PAYLOADS,
    SECRET_TEXT,
    TELLERS,
    TODAY,
    Truth,
    attribute,
    body,
    counted,
    entry,
    litellm,
    message,
    span,
    traces,
    who,
)

USUAL = Truth(1_000, 500, 30, 70, 90, 10, frozenset(PARTS))


def read(source: SourceName, payload: Any, **named: Any) -> Reading:
    raw = payload if isinstance(payload, bytes) else body(payload)
    return usage_events(source, raw, who(source).model_copy(update=named), NOW)


def captured(source: SourceName, name: str) -> Reading:
    return usage_events(source, (PAYLOADS / name).read_bytes(), Sources({}).of(source), NOW)


def only(reading: Reading) -> dict[str, Any]:
    assert (len(reading.events), reading.refused) == (1, [])
    return reading.events[0]


truths = st.builds(
    Truth,
    *(st.integers(0, 300_000) for _ in range(6)),
    told=st.frozensets(st.sampled_from(PARTS)),
)


@pytest.mark.parametrize("name", TELLERS)
@given(truths)
@example(Truth(0, 0, 0, 0, 0, 0, frozenset(PARTS)))
@settings(max_examples=40, deadline=None)
def test_input_includes_the_cache_output_includes_reasoning_and_absent_stays_unknown(name: str, truth: Truth) -> None:
    teller = TELLERS[name]
    truth = teller.as_far_as_told(truth)
    event = only(read(teller.source, teller.emit(truth)))
    fields = {"cached": "cached_input_tokens", "write": "cache_write_tokens", "write_1h": "cache_write_1h_tokens"}
    parts = truth.say(**fields, reasoning="reasoning_tokens")
    assert counted(event) == {"input_tokens": truth.input, "output_tokens": truth.output, **parts}


def test_litellm_as_captured() -> None:
    reading = captured("litellm", "litellm_1.106.2.json")
    assert reading.refused == []
    first, second, failed, claude = reading.events
    assert counted(claude) == {
        **{
            "input_tokens": 46_284,
            "cached_input_tokens": 41_994,
            "cache_write_tokens": 4_096,
            "cache_write_1h_tokens": 3_072,
        },
        **{"output_tokens": 267, "reasoning_tokens": 0},
    }
    assert (failed["status"], failed["input_tokens"], failed["output_tokens"]) == (429, 0, 0)
    assert "cached_input_tokens" not in failed
    assert (first["model"], first["requested_model"], first["operation"]) == ("gpt-5", "fast", "chat")
    assert (first["key_id"], first["feature"]) == ("litellm_proxy_master_key", "summarize")
    assert (first["attempt"], second["response_cache"], second["service_tier"]) == (1, "miss", "standard")
    assert "user_id" not in first


def test_litellms_claim_is_the_cost_before_its_own_margin() -> None:
    costs = {"response_cost": 0.012, "cost_breakdown": {"total_cost": 0.012, "original_cost": 0.01, "margin_percent": 0.2}}
    assert only(read("litellm", litellm(USUAL) | costs))["cost_usd"] == 0.01
    assert only(read("litellm", litellm(USUAL) | costs | {"cost_breakdown": None}))["cost_usd"] == 0.012


def test_litellms_dollars_are_ours_to_the_nano_dollar() -> None:
    reading = captured("litellm", "litellm_1.106.2.json")
    decoder = Decoder()
    batch, refused = decoder.decode(split(b"\n".join(map(msgspec.json.encode, reading.events))))
    assert refused == []
    cost, guessed = PriceBook().cost(batch, decoder.models.names)
    assert cost.tolist() == [round(event["cost_usd"] * 1e9) for event in reading.events]
    assert not guessed.any()


@pytest.mark.parametrize("name", ["openllmetry_0.62.4.pb", "openai_v2_2.4b0.pb"])
def test_otlp_is_the_same_call_in_protobuf_and_in_both_kinds_of_json(name: str) -> None:
    binary = (PAYLOADS / name).read_bytes()
    as_protobuf_has_it = MessageToDict(ExportTraceServiceRequest.FromString(binary))
    as_otlp_has_it = deepcopy(as_protobuf_has_it)
    request = ExportTraceServiceRequest.FromString(binary)
    for group, told in zip(request.resource_spans, as_otlp_has_it["resourceSpans"], strict=True):
        for scope, spans in zip(group.scope_spans, told["scopeSpans"], strict=True):
            for one, said in zip(scope.spans, spans["spans"], strict=True):
                said |= {"traceId": one.trace_id.hex(), "spanId": one.span_id.hex(), "parentSpanId": one.parent_span_id.hex()}
                said["status"] = {"code": one.status.code}
    expected = read("otlp", binary)
    assert expected.events
    assert read("otlp", as_protobuf_has_it) == read("otlp", as_otlp_has_it) == expected
    assert read("otlp", b"\n" + body(as_otlp_has_it)) == expected


@pytest.mark.parametrize("looks_like", [b"\n{", b"\n["])
def test_protobuf_that_looks_like_json_is_read(looks_like: bytes) -> None:
    silent = {"traceId": "00" * 16, "spanId": "00" * 8, "attributes": [attribute("gen_ai.operation.name", "chat")]}
    requests = (
        ParseDict(traces(silent, resource={"a": "x" * n}), ExportTraceServiceRequest()).SerializeToString() for n in range(60)
    )
    raw = next(raw for raw in requests if raw.startswith(looks_like))
    assert [refusal.reason for refusal in read("otlp", raw).refused] == ["no token counts"]


def test_openllmetry_as_captured() -> None:
    reading = captured("otlp", "openllmetry_0.62.4.pb")
    assert (reading.refused, dict(reading.passed)) == ([], {"span around calls": 1})
    assert sum(event["input_tokens"] for event in reading.events) == 12_611 + 28_911 + 18_627 + 4_289 + 812 + 29_094
    assert [event.get("cached_input_tokens") for event in reading.events] == [1_235, 8_779, 3_517, 985, None, 0, 9_264]
    failed, embedded, flexible = reading.events[4:]
    assert (failed["status"], failed["input_tokens"]) == (429, 0)
    assert (embedded["operation"], embedded["output_tokens"]) == ("embeddings", 0)
    assert (flexible["service_tier"], flexible["reasoning_tokens"]) == ("flex", 57)
    assert {(event["tenant"], event["key_id"], event["environment"]) for event in reading.events} == {
        ("acme", "checkout-assistant", "prod")
    }


def test_an_instrumentation_that_tells_of_no_cache_leaves_it_unknown() -> None:
    reading = captured("otlp", "openai_v2_2.4b0.pb")
    assert len(reading.events) == 6
    assert not any("cached_input_tokens" in event for event in reading.events)


def test_bifrost_as_documented() -> None:
    event = only(captured("bifrost", "bifrost.json"))
    assert counted(event) == {"input_tokens": 8, "output_tokens": 9}
    assert (event["tenant"], event["key_id"], event["attempt"], event["cost_usd"]) == ("acme", "my-vk", 1, 160.0000054)
    assert event["ts"] == 1782734679.551269
    assert (event["user_agent"], event["request_id"]) == ("bruno-runtime/3.5.0", "d2791ef1-3386-4ec8-9861-87bdaaac72a8")


def test_kong_as_documented() -> None:
    reading = captured("kong", "kong.json")
    chat, command, transformer = (read("kong", (PAYLOADS / "kong.json").read_bytes())).events
    assert counted(chat) == {"input_tokens": 89, "output_tokens": 56, "cached_input_tokens": 64, "reasoning_tokens": 12}
    assert (chat["tenant"], chat["key_id"], chat["ts"], chat["cost_usd"]) == (
        "acme",
        "e7f1-credential",
        1787113204.408,
        0.0012,
    )
    assert counted(command) == {"input_tokens": 28, "output_tokens": 20}
    assert "cost_usd" not in command  # Kong says 0 where it knows no price
    assert (transformer["response_cache"], counted(transformer)) == ("hit", {"input_tokens": 0, "output_tokens": 0})
    assert len({event["event_id"] for event in reading.events}) == 3
    assert dict(reading.passed) == {"no AI plugin's usage": 1}


def test_cloudevents_as_documented() -> None:
    reading = captured("cloudevents", "cloudevents.json")
    assert [counted(event) for event in reading.events] == [
        {"input_tokens": 100, "output_tokens": 20},
        {"input_tokens": 0, "output_tokens": 123_456},
    ]
    assert reading.events[0]["event_id"] == "litellm-proxy chatcmpl-1"
    assert dict(reading.passed) == {"no token counts in data": 1}


def inference(id: str, parent: str = "", response: str = "", **more: Any) -> dict[str, Any]:
    named = {"gen_ai.response.id": response} if response else {}
    told = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", TODAY["input"]: 10, TODAY["output"]: 5}
    return span({**told, **named, **more}, id * 16, parent * 16)


def agent(id: str, parent: str = "", **more: Any) -> dict[str, Any]:
    return span(
        {"gen_ai.operation.name": "invoke_agent", TODAY["input"]: 900, TODAY["output"]: 900, **more}, id * 16, parent * 16
    )


@pytest.mark.parametrize(
    ("spans", "calls"),
    [
        ([agent("1"), inference("2", "1"), inference("3", "1")], 2),
        ([span({"openinference.span.kind": "CHAIN", OPENINFERENCE["input"]: 20, OPENINFERENCE["output"]: 9}, "1" * 16)], 0),
        ([span({"traceloop.span.kind": "workflow", TODAY["input"]: 20, TODAY["output"]: 9}, "1" * 16)], 0),
        ([inference("1"), inference("2", "1")], 1),
        ([inference("1"), span({"gen_ai.tool.name": "t"}, "2" * 16, "1" * 16), inference("3", "2")], 1),
        ([inference("1", response="a"), inference("2", "1", response="a")], 1),
        ([inference("1", response="a"), inference("2", response="a")], 1),
        ([inference("1", response="a"), inference("2", "1", response="b")], 2),
        ([inference("1"), inference("2", "1", response="b"), inference("3", "1", response="c")], 2),
        ([inference("1"), inference("2")], 2),
        ([inference("1", "1")], 1),
        (
            [inference("0"), inference("0"), span({TODAY["input"]: 10, TODAY["output"]: 5, "gen_ai.request.model": "m"}, "")],
            3,
        ),
        ([span({"http.request.method": "GET"}, "1" * 16), span({"gen_ai.operation.name": "execute_tool"}, "2" * 16)], 0),
    ],
)
def test_every_call_is_counted_once_however_many_spans_tell_of_it(spans: list[Any], calls: int) -> None:
    reading = read("otlp", traces(*spans))
    assert reading.refused == []
    assert len(reading.events) == calls
    assert sum(event["input_tokens"] for event in reading.events) == 10 * calls
    assert sum(reading.passed.values()) == len(spans) - calls


def test_a_failed_attempt_inside_a_call_takes_nothing_from_it() -> None:
    failed = span(
        {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "error.type": "RateLimitError"}, "2" * 16, "1" * 16
    )
    events = read("otlp", traces(inference("1"), failed)).events
    assert [(event["input_tokens"], event.get("status")) for event in events] == [(10, None), (0, 429)]


def test_the_inner_span_and_the_fuller_one_are_kept() -> None:
    cached: dict[str, Any] = {TODAY["cached"]: 4}
    assert only(read("otlp", traces(inference("1"), inference("2", "1", **cached))))["cached_input_tokens"] == 4
    assert (
        only(read("otlp", traces(inference("1", response="a", **cached), inference("2", "1", "a"))))["cached_input_tokens"]
        == 4
    )


def test_a_span_of_a_call_has_the_same_id_in_whatever_request_it_comes() -> None:
    together = read("otlp", traces(inference("1", response="a"), inference("2", response="b")))
    apart = [only(read("otlp", traces(inference(n, response=r))))["event_id"] for n, r in (("1", "a"), ("9", "b"))]
    assert [event["event_id"] for event in together.events] == apart


def test_a_call_without_counts_is_refused_unless_it_failed() -> None:
    silent = span({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"})
    assert [refusal.reason for refusal in read("otlp", traces(silent)).refused] == ["no token counts"]
    failed = only(read("otlp", traces(silent | {"status": {"code": 2}})))
    assert counted(failed) == {"input_tokens": 0, "output_tokens": 0}


def test_what_a_gateways_own_cache_answered_used_nothing() -> None:
    hit = litellm(USUAL) | {"cache_hit": True, "response_cost": 0.0}
    assert counted(only(read("litellm", hit))) == {"input_tokens": 0, "output_tokens": 0}


def test_parts_over_their_total_are_refused_not_guessed() -> None:
    exclusive = litellm(USUAL) | {"prompt_tokens": 1}
    exclusive["metadata"]["usage_object"]["prompt_tokens"] = 1
    assert [refusal.reason for refusal in read("litellm", exclusive).refused] == [
        "Value error, cached_input_tokens + cache_write_tokens exceed input_tokens"
    ]


def test_only_fields_of_the_key_say_whose_a_call_is() -> None:
    forged = litellm(USUAL) | {"end_user": "evil", "request_tags": ["tenant:evil", "feature:search"]}
    forged["metadata"]["user_api_key_end_user_id"] = "evil"
    event = only(read("litellm", forged))
    assert (event["tenant"], event["feature"]) == ("team-1", "search")
    baggage = inference("1", **{"service.namespace": "evil", "service.name": "evil", "deployment.environment": "evil"})
    event = only(read("otlp", traces(baggage)))
    assert (event["tenant"], event["key_id"], event["environment"]) == ("acme", "app", "prod")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("litellm", "end_user"),
        ("litellm", "request_tags"),
        ("litellm", "metadata.requester_metadata.tenant"),
        ("litellm", "metadata.user_api_key_end_user_id"),
        ("otlp", "attributes.user.id"),
        ("otlp", "attributes.user_id"),
        ("otlp", "attributes.session.id"),
        ("otlp", "attributes.metadata.tenant"),
        ("otlp", "attributes.gen_ai.input.messages"),
        ("otlp", "attributes.http.request.header.x-tenant"),
        ("bifrost", "RequestHeaders.x-tenant-id"),
        ("kong", "request.headers.x-tenant-id"),
        ("cloudevents", "data.user"),
        ("openai", "user"),
    ],
)
def test_what_a_caller_can_set_is_refused_as_tenant_and_key(source: str, path: str) -> None:
    for field in ("tenant_from", "key_from"):
        with pytest.raises(DocumentError, match="does not belong to the key"):
            parse_document(json.dumps({source: {field: [path]}}).encode(), "sources.json", Sources)


def test_the_operator_says_which_fields_count_and_what_stands_in() -> None:
    document = b"""
    otlp: {tenant_from: [attributes.bifrost.team.id, attributes.tenant.id], key_from: [attributes.metadata.user_api_key_hash]}
    litellm:
      tenant: nobody
      tenant_from: [metadata.user_api_key_org_id]
      origin_tenant_from: [metadata.spend_logs_metadata.for]
    """
    sources = parse_document(document, "sources.yaml", Sources)
    told = inference("1", **{"tenant.id": "t-1", "metadata.user_api_key_hash": "h-1"})
    event = only(usage_events("otlp", body(traces(told)), sources.of("otlp"), NOW))
    assert (event["tenant"], event["key_id"]) == ("t-1", "h-1")
    payload = litellm(USUAL)
    payload["metadata"]["spend_logs_metadata"] = {"for": "customer-9"}
    event = only(usage_events("litellm", body(payload), sources.of("litellm"), NOW))
    assert (event["tenant"], event["origin_tenant"]) == ("nobody", "customer-9")
    assert "origin_tenant" not in only(read("litellm", payload))


@pytest.mark.parametrize("source", SOURCES)
def test_the_page_has_every_source_and_the_fields_that_say_whose_its_calls_are(source: SourceName) -> None:
    page = (Path(__file__).parent.parent / "docs/adapters.md").read_text()
    assert f"\n| `{source}` | " in page
    bound = BOUND[source]
    for path in (*bound.tenant, *bound.key):
        assert f"`{path}`" in page
        assert parse_document(json.dumps({source: {"key_from": [path]}}).encode(), "sources.json", Sources)


def test_whose_call_it_is_must_be_known() -> None:
    reading = usage_events("anthropic", body(message(USUAL)), Sources({}).of("anthropic", "acme"), NOW)
    assert [(refusal.field, refusal.part) for refusal in reading.refused] == [("key_id", 1)]


def test_a_secret_never_becomes_a_key_id_and_a_user_is_told_apart_by_a_salted_hash_only() -> None:
    payload = litellm(USUAL)
    payload["metadata"]["user_api_key_hash"] = "sk-1234567890"
    event = only(read("litellm", payload))
    assert (
        event["key_id"] == "fb9af30d37e3e7d9a8bd9e5a6d5ea79cad1f56ee4ed9d3ce67d8c2cb1a5a8d8a" or "sk-" not in event["key_id"]
    )
    assert "user_id" not in event
    salted = [only(read("litellm", payload | {"end_user": name}, user_salt="0123456789abcdef"))["user_id"] for name in "aba"]
    assert salted[0] == salted[2] != salted[1]
    assert len(salted[0]) == 32


def test_calls_without_an_id_get_a_stable_one() -> None:
    bare = TELLERS["bedrock"].emit(USUAL)
    ids = [usage_events("bedrock", body(bare), who("bedrock"), at).events[0]["event_id"] for at in (NOW, NOW + 60)]
    other = only(read("bedrock", TELLERS["bedrock"].emit(replace(USUAL, fresh=2))))["event_id"]
    assert ids[0] == ids[1] != other
    long = only(read("litellm", litellm(USUAL) | {"id": "x" * 5_000}))["event_id"]
    assert len(long) < 100


NAMES_OF_IDS = set("id traceId spanId TraceID SpanID ParentID RequestID responseId requestId litellm_call_id".split())


def nameless(payload: Any) -> Any:
    """What a source that gives no ids would have sent."""
    if isinstance(payload, dict):
        return {name: nameless(value) for name, value in payload.items() if name not in NAMES_OF_IDS}
    return [nameless(part) for part in payload] if isinstance(payload, list) else payload


def backwards(payload: Any) -> Any:
    """The same JSON with the names of every object in the other order."""
    if isinstance(payload, dict):
        return {name: backwards(payload[name]) for name in reversed(payload)}
    return [backwards(part) for part in payload] if isinstance(payload, list) else payload


@pytest.mark.parametrize("name", TELLERS)
@given(st.lists(truths, min_size=1, max_size=4), st.data())
@settings(max_examples=25, deadline=None)
def test_a_call_without_an_id_has_the_same_one_in_whatever_body_it_comes(
    name: str, told: list[Truth], data: st.DataObject
) -> None:
    teller = TELLERS[name]
    calls = [nameless(teller.emit(teller.as_far_as_told(truth))) for truth in told]
    ids = [only(usage_events(teller.source, body(call), who(teller.source), NOW))["event_id"] for call in calls]
    assert all((one == other) == (ids[i] == ids[j]) for i, one in enumerate(calls) for j, other in enumerate(calls))
    order = data.draw(st.permutations(range(len(calls))))
    cut = data.draw(st.integers(0, len(calls)))
    resent = [
        json.dumps(backwards([calls[n] for n in some]), indent=2).encode() for some in (order[:cut], order[cut:]) if some
    ]
    found = [
        event["event_id"] for raw in resent for event in usage_events(teller.source, raw, who(teller.source), NOW + 99).events
    ]
    assert found == [ids[n] for n in order]


def test_spans_without_ids_are_told_apart_by_all_that_is_kept_of_them() -> None:
    bare = {"traceId": "", "spanId": "", "parentSpanId": ""}
    later = {"endTimeUnixNano": str(1_789_000_003 * 10**9)}
    spans = [
        inference("1") | bare,
        inference("1") | bare | later,
        inference("1", **{"error.type": "timeout"}) | bare,
        inference("1") | bare | {"parentSpanId": "2" * 16},
        inference("1") | bare,
    ]
    ids = [event["event_id"] for event in read("otlp", traces(*spans)).events]
    assert len(set(ids)) == 4
    assert ids[0] == ids[4]
    assert ids == [only(read("otlp", traces(span)))["event_id"] for span in spans]


def test_failed_attempts_that_do_not_say_when_they_began_are_told_apart_too() -> None:
    failed = litellm(USUAL) | {"status": "failure", "id": "c"}
    del failed["startTime"]
    events = read("litellm", [failed, failed | {"endTime": 1.79e9 + 9}, failed]).events
    assert [event["event_id"] == events[0]["event_id"] for event in events] == [True, False, True]


def test_an_id_that_a_source_gives_to_two_calls_makes_them_none_of_each_others_repeats() -> None:
    data = {"model": "m", "input_tokens": 5, "output_tokens": 1}
    bound = {"specversion": "1.0", "subject": "s", "time": "2026-09-09T08:00:00Z", "data": data}
    events = [bound | {"source": source, "id": id} for source, id in (("app", "1-2"), ("app-1", "2"), ("app", "1-2"))]
    first, other, again = (event["event_id"] for event in read("cloudevents", events).events)
    assert first == again != other
    ollama = {"id": "chatcmpl-7", "model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    answers = [ollama | {"object": "chat.completion", "created": 1_789_000_000 + n} for n in (0, 1, 0)]
    first, other, again = (event["event_id"] for event in read("openai", answers).events)
    assert first == again != other


@pytest.mark.parametrize("empty", [b"", b"{}", b'{"resourceSpans":[]}', b'{"resourceSpans":null}'])
def test_an_empty_request_of_otlp_is_no_mistake(empty: bytes) -> None:
    reading = usage_events("otlp", empty, who("otlp"), NOW)
    assert (reading.events, reading.refused) == ([], [])


def test_what_belongs_together_without_being_tried_again_is_no_attempt() -> None:
    told = entry(USUAL)
    told["ai"]["transformer"] = told["ai"]["proxy"]
    proxy, transformer = read("kong", told).events
    assert proxy["trace_id"] == transformer["trace_id"]
    assert proxy["request_id"] != transformer["request_id"]
    data = {"model": "m", "request_id": "r", "tokens": 5}
    sides = [
        {"specversion": "1.0", "id": side, "source": "a", "subject": "s", "data": data | {"type": side}}
        for side in ("input", "output")
    ]
    assert ["request_id" in event for event in read("cloudevents", sides).events] == [False, False]


def test_failed_attempts_of_one_request_are_tied_not_dropped() -> None:
    attempts = [
        litellm(USUAL) | {"status": "failure", "id": "c", "litellm_call_id": "c", "startTime": 1.79e9 + n} for n in range(3)
    ]
    events = read("litellm", attempts).events
    assert len({event["event_id"] for event in events}) == 3
    assert {event["request_id"] for event in events} == {"c"}
    assert read("litellm", attempts).events == events


@pytest.mark.parametrize("shape", ["array", "ndjson", "single", "arrays by line"])
def test_json_comes_as_an_array_as_lines_or_alone(shape: str) -> None:
    payloads = [litellm(USUAL) | {"id": f"c-{n}"} for n in range(1 if shape == "single" else 3)]
    lines = b"\r\n".join(body([p] if shape == "arrays by line" else p) for p in payloads) + b"\n"
    raw = {"array": body(payloads), "single": body(payloads[0])}.get(shape, lines)
    assert [event["event_id"] for event in read("litellm", raw).events] == [p["id"] for p in payloads]


def test_one_broken_line_costs_one_call() -> None:
    reading = read("litellm", b"\n".join([b'{"broken', body(litellm(USUAL)), b"7", body([litellm(USUAL)])]))
    assert (len(reading.events), [refusal.part for refusal in reading.refused]) == (2, [1, 3])


def test_the_library_knows_every_provider_that_we_name() -> None:
    known = {provider.id for provider in data_snapshot.get_snapshot().providers}
    assert set(PROVIDERS.values()) <= known


def test_every_source_has_a_teller() -> None:
    assert {teller.source for teller in TELLERS.values()} == set(SOURCES)


ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e300, 2**31, 2**63, 10**400, "", "5", "-5", "NaN", "\u0000", "\u202e", "x" * 5_000,
    SECRET_TEXT, [], [1], [[]], {}, {"a": {}}, [{"key": None}], "9999-12-31T23:59:59+00:01", "0001-01-01T00:00:00+23:59",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inner for place in places(part, (*path, key))]


@st.composite
def mutated(draw: st.DrawFn, payload: Any) -> Any:
    changed = deepcopy(payload)
    for _ in range(draw(st.integers(1, 4))):
        options = places(changed)
        if not options:
            break
        path = draw(st.sampled_from(options))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        what = draw(st.sampled_from(["odd", "gone", "twice"]))
        if what == "odd":
            holder[path[-1]] = deepcopy(draw(st.sampled_from(ODD)))
        elif what == "gone":
            del holder[path[-1]]
        elif isinstance(holder, list):
            holder.append(holder[path[-1]])
    return changed


def safe(source: SourceName, raw: bytes) -> Reading:
    """Whatever the bytes: no exception, no event that the contract refuses, no content in what is said of them."""
    reading = usage_events(source, raw, who(source), NOW)
    for event in reading.events:
        convert(parse(msgspec.json.encode(event)))
    assert all("CANARY" not in refusal.reason + refusal.field for refusal in reading.refused)
    assert all("CANARY" not in reason for reason in reading.passed)
    return reading


def seeds() -> list[tuple[SourceName, Any]]:
    real: list[tuple[SourceName, Any]] = [
        (source, json.loads((PAYLOADS / name).read_bytes())) for source, name in CAPTURED if name.endswith(".json")
    ]
    spans = MessageToDict(ExportTraceServiceRequest.FromString((PAYLOADS / "openllmetry_0.62.4.pb").read_bytes()))
    return [*real, ("otlp", spans), *((teller.source, teller.emit(USUAL)) for teller in TELLERS.values())]


@pytest.mark.parametrize(("source", "payload"), seeds())
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_bent_payloads_never_raise_and_never_become_an_invalid_event(
    source: SourceName, payload: Any, data: st.DataObject
) -> None:
    safe(source, body(data.draw(mutated(payload))))


json_values = st.recursive(
    st.sampled_from(ODD).map(deepcopy),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@pytest.mark.parametrize("source", SOURCES)
@given(st.binary(max_size=200) | json_values.map(body))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_safe(source: SourceName, raw: bytes) -> None:
    safe(source, raw)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_bent_protobuf_is_safe(data: st.DataObject) -> None:
    raw = bytearray((PAYLOADS / "openai_v2_2.4b0.pb").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    safe("otlp", bytes(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"null", b"7", b'"x"', b"[]", b"[[]]", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"1e999",
        b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'"\\ud800"', b"1" * 6_000, b"\x0a\xff\xff\xff\xff\x0f",
        b"{}\n" * 50,
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", SOURCES)
def test_the_hostile_corpus_yields_no_call(source: SourceName, raw: bytes) -> None:
    assert safe(source, raw).events == []


def test_a_long_chain_of_spans_between_a_call_and_its_agent_is_walked_not_climbed() -> None:
    ids = {"traceId": "0af7651916cd43dd8448eb211c80319c"}
    chain = [ids | {"spanId": f"{n:016x}", "parentSpanId": f"{n - 1:016x}", "attributes": []} for n in range(2, 5_001)]
    outer = inference("0") | {"spanId": f"{1:016x}"}
    inner = inference("f") | {"parentSpanId": f"{5_000:016x}"}
    assert dict(read("otlp", traces(outer, *chain, inner)).passed) == {
        "another span of the same call": 1,
        "no model call": 4_999,
    }


@pytest.mark.parametrize("name", TELLERS)
def test_prompts_and_answers_are_dropped_at_the_door(name: str) -> None:
    teller = TELLERS[name]
    payload = teller.emit(USUAL)
    whole = body(payload)
    assert SECRET_TEXT.encode() in whole
    for raw in (
        whole,
        *(whole[:cut] for cut in range(0, len(whole), 311)),
        whole.replace(b'tokens"', b'tokens":"CANARY","x"'),
    ):
        reading = usage_events(teller.source, raw, who(teller.source), NOW)
        assert "CANARY" not in repr(reading)
    bent = ParseDict(payload, ExportTraceServiceRequest()).SerializeToString() if teller.source == "otlp" else whole
    assert "CANARY" not in repr(usage_events(teller.source, bent, who(teller.source), NOW))


@pytest.mark.parametrize(
    ("name", "without"), [("litellm", "id"), ("kong", "request"), ("cloudevents", "id"), ("bedrock", "request_id")]
)
def test_what_can_just_be_read_can_be_given_an_id(name: str, without: str) -> None:
    teller = TELLERS[name]
    payload = body(teller.emit(USUAL) | {without: None, "nest": "here"})
    outcomes = set()
    for depth in range(900, 1_000):
        reading = safe(teller.source, payload.replace(b'"here"', b"[" * depth + b"]" * depth))
        outcomes.add((len(reading.events), len(reading.refused)))
    assert outcomes == {(1, 0), (0, 1)}


def test_what_callers_choose_is_cut_never_a_reason_to_refuse() -> None:
    event = only(read("litellm", litellm(USUAL) | {"user_agent": "x" * 10_000, "session_id": {"a": 1}, "response_cost": "y"}))
    assert len(event["user_agent"]) == 4_096
    assert not {"session_id", "cost_usd"} & set(event)


@pytest.mark.parametrize("bad", [-1, 1.5, "many", True, [], {}, "1e3", 2**31, 10**30])
def test_a_count_that_is_none_refuses_the_call(bad: Any) -> None:
    refused = read("litellm", litellm(USUAL) | {"completion_tokens": bad}).refused
    assert [refusal.field for refusal in refused] == ["output_tokens" if bad == 2**31 else "completion_tokens"]


def test_a_request_of_many_spans_keeps_its_order() -> None:
    spans = [inference("1", response=f"r-{n}") | {"spanId": f"{n:016x}"} for n in range(50)]
    reading = read("otlp", traces(*spans))
    assert [event["request_id"] for event in reading.events] == [f"r-{n}" for n in range(50)]


def test_items_says_what_is_no_object() -> None:
    assert [isinstance(item, Refused) for item in items(b"[{}, 1, [], null]")] == [False, True, True, True]
