"""What many versions of many programs send, with the right answer written down before it was run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.adapters.reading import Reading
from schemas.adapters.sources import usage_events
from schemas.adapters.who import SourceName
from tests.foreign import NOW, body, span, traces, who
from tests.test_adapters import ODD, mutated, safe

Case = tuple[str, Any, list[Mapping[str, Any]]]
"""What it is, the payload, and of each call some fields of its event (None: not told)."""


def read(source: SourceName, payload: Any) -> Reading:
    return usage_events(source, payload if isinstance(payload, bytes) else body(payload), who(source), NOW)


def matches(reading: Reading, expected: list[Mapping[str, Any]]) -> None:
    assert reading.refused == []
    told = [{name: event.get(name) for name in fields} for event, fields in zip(reading.events, expected, strict=True)]
    assert told == [dict(fields) for fields in expected]


def tokens(input: int, output: int, cached: int | None = None, write: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        **{"input_tokens": input, "output_tokens": output},
        **{"cached_input_tokens": cached, "cache_write_tokens": write},
        **more,
    }


def logged(usage: Any = None, **fields: Any) -> dict[str, Any]:
    """A payload of LiteLLM with little on it."""
    return {
        **{"id": "chatcmpl-1", "status": "success", "call_type": "acompletion", "startTime": 1.79e9, "endTime": 1.79e9 + 2},
        **{"model": "gpt-4o", "custom_llm_provider": "openai"},
        **{"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        "metadata": {"user_api_key_hash": "h", "user_api_key_team_id": "t", "usage_object": usage},
        **fields,
    }


ANTHROPIC_USAGE = {"cache_read_input_tokens": 60, "cache_creation_input_tokens": 30}
LITELLM: list[Case] = [
    ("an old one: times as texts", logged(startTime="2024-09-03 12:00:00.5", endTime="2024-09-03 12:00:02"), [
        tokens(100, 20, ts=1725364802.0, latency_ms=1500.0)]),
    ("an old one: parts in the answer", logged(response={"usage": {"prompt_tokens_details": {"cached_tokens": 64}}}), [
        tokens(100, 20, 64)]),
    ("Anthropic's names only", logged(ANTHROPIC_USAGE), [tokens(100, 20, 60, 30)]),
    ("no detail, an empty object", logged({"prompt_tokens_details": None, "completion_tokens_details": {}}), [
        tokens(100, 20)]),
    ("anthropic_messages that leaves the cache out of prompt_tokens", logged(
        {"prompt_tokens": 100, **ANTHROPIC_USAGE}, prompt_tokens=10, total_tokens=30, call_type="anthropic_messages"), [
        tokens(100, 20, 60, 30, operation="chat")]),
    ("Gemini's thoughts beside the output, as the total shows", logged(
        {"completion_tokens_details": {"reasoning_tokens": 300}}, total_tokens=420), [
        tokens(100, 320, reasoning_tokens=300)]),
    ("a model group's alias, an Azure deployment with its base model", logged(
        model="azure/prod-chat-eu", model_group="chat", model_id="m-1", custom_llm_provider="azure",
        model_map_information={"model_map_key": "azure/gpt-4o", "model_map_value": {"key": "azure/gpt-4o"}}), [
        {"model": "gpt-4o", "requested_model": "chat", "provider": "azure"}]),
    ("an Azure deployment with prices of its own", logged(
        model="azure/prod-chat-eu", model_id="m-1", custom_llm_provider="azure",
        model_map_information={"model_map_key": "m-1", "model_map_value": {"key": "m-1"}}), [{"model": "prod-chat-eu"}]),
    ("responses", logged(call_type="aresponses"), [{"operation": "chat"}]),
    ("Gemini's own route", logged(call_type="agenerate_content_stream"), [{"operation": "generate_content"}]),
    ("embeddings", logged(call_type="aembedding", completion_tokens=0, total_tokens=100), [
        tokens(100, 0, operation="embeddings")]),
    ("images without tokens", logged(call_type="aimage_generation", model="dall-e-3", prompt_tokens=0, completion_tokens=0,
        total_tokens=0, response_cost=0.04), [tokens(0, 0, operation="image_generation", cost_usd=0.04)]),
    ("audio", logged({"prompt_tokens_details": {"audio_tokens": 80}, "completion_tokens_details": {"audio_tokens": 15}}), [
        {"audio_input_tokens": 80, "audio_output_tokens": 15}]),
    ("web searches", logged({"server_tool_use": {"web_search_requests": 3}}), [{"web_search_requests": 3}]),
    ("tool calls in the answer", logged(response={"choices": [{"message": {"tool_calls": [{"id": "a"}, {"id": "b"}]}}]}), [
        {"tool_calls": 2}]),
    ("its own cache, said as a text", logged(cache_hit="True", response_cost=0.0), [
        tokens(0, 0, response_cache="hit", cost_usd=None)]),
    ("failed, told by its class only", logged(status="failure", prompt_tokens=0, completion_tokens=0, total_tokens=0,
        error_information={"error_code": "", "error_class": "RateLimitError"}), [tokens(0, 0, status=429)]),
    ("failed, nobody knows how", logged(status="failure", prompt_tokens=0, completion_tokens=0, total_tokens=0,
        error_information={"error_code": "", "error_class": "APIConnectionError"}), [tokens(0, 0, status=0)]),
    ("a batch that is done", logged(call_type="aretrieve_batch", model="", id="batch_1", total_tokens=120,
        hidden_params={"batch_models": ["gpt-4o-mini"]}), [
        tokens(100, 20, model="gpt-4o-mini", service_tier="batch", operation="chat")]),
    ("polls of a batch, files, tools of MCP servers", [
        logged(call_type=kind, model="", prompt_tokens=0, completion_tokens=0, total_tokens=0)
        for kind in ("aretrieve_batch", "acreate_batch", "acreate_file", "afile_content", "alist_batches", "call_mcp_tool")],
        []),
    ("priority on Vertex", logged({"service_tier": "ON_DEMAND_PRIORITY"}, custom_llm_provider="vertex_ai_beta"), [
        {"service_tier": "priority", "provider": "google"}]),
    ("cost and tier that are unknown stay so", logged({"service_tier": "scale"}, response_cost=None), [
        {"service_tier": None, "cost_usd": None}]),
    ("routes of Bedrock and of the Responses API", [logged(model="bedrock/converse/anthropic.claude-sonnet-4-5-20250929-v1:0",
        custom_llm_provider="bedrock"), logged(id="2", model="openai/responses/gpt-5")], [
        {"model": "anthropic.claude-sonnet-4-5-20250929-v1:0", "provider": "aws"}, {"model": "gpt-5"}]),
]  # fmt: skip


def chat_span(**attributes: Any) -> dict[str, Any]:
    """Spans of a request with one span, `a__b` for `a.b`."""
    return traces(span({name.replace("__", "."): value for name, value in attributes.items()}))


def snake(value: Any) -> Any:
    """The JSON with protobuf's own field names."""
    if isinstance(value, dict):
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): snake(part) for name, part in value.items()}
    return [snake(part) for part in value] if isinstance(value, list) else value


CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai"}
USED = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20}
VERCEL = {
    **{"gen_ai.system": "anthropic.messages", "gen_ai.request.model": "claude-sonnet-4-5", "gen_ai.response.id": "msg_1"},
    **{"ai.operationId": "ai.streamText.doStream", "ai.model.id": "claude-sonnet-4-5"},
    **USED,
}
OTLP: list[Case] = [
    ("today's names", traces(span({**CHAT, **USED, "gen_ai.conversation.id": "c-1",
        "gen_ai.usage.cache_write.input_tokens": 30, "gen_ai.usage.cache_read.input_tokens": 60})), [
        tokens(100, 20, 60, 30, provider="openai", session_id="c-1", latency_ms=2000.0, ts=1_789_000_002.0)]),
    ("the first names, counts as texts (Spring AI)", traces(span({"gen_ai.operation.name": "chat", "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o", "gen_ai.response.model": "none", "gen_ai.response.id": "none",
        "gen_ai.usage.input_tokens": "100", "gen_ai.usage.output_tokens": "20", "gen_ai.usage.total_tokens": "120"})), [
        tokens(100, 20, model="gpt-4o", request_id=None)]),
    ("protobuf's own names in JSON", snake(traces(span({**CHAT, **USED}, status={"code": "STATUS_CODE_OK"}))), [
        tokens(100, 20, model="gpt-4o", tenant="acme", key_id="app", trace_id="0af7651916cd43dd8448eb211c80319c")]),
    ("before scopes had their name", {"resourceSpans": [{"resource": {}, "instrumentationLibrarySpans": [{"spans": [
        span({**CHAT, **USED})]}]}]}, [tokens(100, 20)]),
    ("Strands on Bedrock counts the cache beside the input, as its total shows", traces(span({**CHAT,
        "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 20, "gen_ai.usage.total_tokens": 120,
        "gen_ai.usage.cache_read_input_tokens": 60, "gen_ai.usage.cache_write_input_tokens": 30,
        "gen_ai.system": "strands-agents"})), [tokens(100, 20, 60, 30)]),
    ("thoughts beside the answer, as the total shows", traces(span({**CHAT, **USED, "gen_ai.usage.total_tokens": 420,
        "gen_ai.usage.reasoning.output_tokens": 300})), [tokens(100, 320, reasoning_tokens=300)]),
    ("Pydantic AI", traces(
        span({"agent_name": "a", "gen_ai.agent.name": "a", "model_name": "gpt-4o", **USED}, "1" * 16),
        span({**CHAT, **USED, "gen_ai.usage.details.cache_read_tokens": 60, "gen_ai.usage.details.reasoning_tokens": 7,
              "operation.cost": 0.25}, "2" * 16, "9" * 16)), [
        tokens(100, 20, 60, reasoning_tokens=7, cost_usd=0.25)]),
    ("Vercel's AI SDK 5 and later: its outer span sums up", traces(
        span({"ai.operationId": "ai.streamText", "ai.usage.inputTokens": 900, "ai.usage.outputTokens": 90,
              "ai.usage.cachedInputTokens": 800}, "1" * 16),
        span({**VERCEL, "ai.usage.cachedInputTokens": 60, "ai.usage.inputTokenDetails.cacheWriteTokens": 30,
              "ai.usage.reasoningTokens": 7}, "2" * 16, "8" * 16)), [
        tokens(100, 20, 60, 30, provider="anthropic", reasoning_tokens=7, request_id="msg_1", operation="chat")]),
    ("Vercel's AI SDK: embeddings", traces(
        span({"ai.operationId": "ai.embed", "ai.usage.tokens": 12, "ai.model.id": "text-embedding-3-small"}, "1" * 16),
        span({"ai.operationId": "ai.embed.doEmbed", "ai.usage.tokens": 12, "ai.model.id": "text-embedding-3-small",
              "ai.model.provider": "openai.embedding"}, "2" * 16, "1" * 16)), [
        tokens(12, 0, operation="embeddings", model="text-embedding-3-small", provider="openai")]),
    ("OpenLIT", traces(span({**CHAT, **USED, "gen_ai.usage.prompt_tokens_details.cache_read": 60,
        "gen_ai.usage.completion_tokens_details.reasoning": 7, "gen_ai.usage.cost": 0.5})), [
        tokens(100, 20, 60, reasoning_tokens=7, cost_usd=0.5)]),
    ("Sentry's names", traces(span({**CHAT, **USED, "gen_ai.usage.input_tokens.cached": 60,
        "gen_ai.usage.input_tokens.cache_write": 30, "gen_ai.usage.output_tokens.reasoning": 7})), [
        tokens(100, 20, 60, 30, reasoning_tokens=7)]),
    ("Semantic Kernel of 2024", traces(span({"gen_ai.operation.name": "chat.completions", "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o", "gen_ai.response.prompt_tokens": 100,
        "gen_ai.response.completion_tokens": 20})), [tokens(100, 20, operation="chat")]),
    ("LangSmith: a chain sums up", traces(
        span({"langsmith.span.kind": "chain", **USED}, "1" * 16),
        span({"langsmith.span.kind": "llm", "gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o", **USED,
              "langsmith.trace.session_id": "s"}, "2" * 16, "7" * 16)), [tokens(100, 20, session_id="s", operation="chat")]),
    ("OpenInference with cost", traces(span({"openinference.span.kind": "LLM", "llm.model_name": "claude-sonnet-4-5",
        "llm.provider": "anthropic", "llm.token_count.prompt": 100, "llm.token_count.completion": 20,
        "llm.token_count.prompt_details.cache_read": 60, "llm.cost.total": 0.1})), [
        tokens(100, 20, 60, provider="anthropic", cost_usd=0.1, operation="chat")]),
    ("OpenLLMetry's own first names", traces(span({"llm.request.type": "chat", "gen_ai.system": "Anthropic",
        "gen_ai.request.model": "claude-3-opus", "gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 20,
        "llm.usage.total_tokens": 120, "traceloop.association.properties.session_id": "s"})), [
        tokens(100, 20, provider="anthropic", session_id="s")]),
    ("Google's ADK", traces(span({"gen_ai.system": "gcp.vertex.agent", "gen_ai.request.model": "gemini-2.5-pro", **USED})), [
        tokens(100, 20, provider="google")]),
    ("Azure's inference client", traces(span({**CHAT, **USED, "gen_ai.provider.name": "az.ai.inference"})), [
        {"provider": "azure"}]),
    ("failed with its status", traces(span({**CHAT, "error.type": "429"})), [tokens(0, 0, status=429)]),
    ("failed without one", traces(span({**CHAT, "error.type": "timeout"}, status={"code": "STATUS_CODE_ERROR"})), [
        tokens(0, 0, status=0)]),
    ("tier and resource", traces(span({**CHAT, **USED, "openai.response.service_tier": "priority"})), [
        {"service_tier": "priority", "environment": "prod"}]),
]  # fmt: skip


def bifrost_trace(*spans: Any, **root: Any) -> dict[str, Any]:
    return {
        **{"RequestID": "q-1", "TraceID": "0e8b9293a69d4652804d2ab61121c1f2"},
        "RootSpan": {"SpanID": "a", "Kind": "http.request", "Attributes": {"bifrost.customer.id": "acme", **root}},
        "Spans": list(spans),
    }


def attempt(id: str, kind: Any = "llm.call", status: Any = "ok", **more: Any) -> dict[str, Any]:
    return {
        **{"SpanID": id, "ParentID": "a", "Kind": kind, "Status": status},
        **{"StartTime": "2026-06-29T12:00:00.25Z", "EndTime": "2026-06-29T17:30:02.25+05:30"},
        "Attributes": {
            **{"gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o", "bifrost.virtual_key.id": "vk"},
            **more,
        },
    }


FIRST_USED = {"gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 20}
BIFROST: list[Case] = [
    ("a call", bifrost_trace(attempt("b", **FIRST_USED)), [
        tokens(100, 20, tenant="acme", key_id="vk", ts=1_782_734_402.25, latency_ms=2000.0, request_id="q-1")]),
    ("a fallback: what failed is a call without use", bifrost_trace(
        attempt("b", status="error", **{"gen_ai.error.code": "429"}),
        attempt("c", **FIRST_USED, **{"gen_ai.provider.name": "anthropic", "gen_ai.request.model": "claude-sonnet-4-5"})), [
        tokens(0, 0, status=429, provider="openai"), tokens(100, 20, provider="anthropic")]),
    ("attempts that retry", bifrost_trace(attempt("b", **FIRST_USED, **{"bifrost.retries": 2})), [{"attempt": 3}]),
    ("today's names of the cache", bifrost_trace(attempt("b", **USED, **{"gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.usage.cache_creation.input_tokens": 30})), [tokens(100, 20, 60, 30)]),
    ("embeddings", bifrost_trace(attempt("b", "embedding", **{"gen_ai.usage.prompt_tokens": 12})), [
        tokens(12, 0, operation="embeddings")]),
    ("speech", bifrost_trace(attempt("b", "speech", **USED)), [{"operation": "speech"}]),
    ("plugins, tools and keys are about calls", bifrost_trace(
        attempt("b", "plugin"), attempt("c", "mcp.tool", **USED), attempt("d", "internal"), attempt("e", **FIRST_USED)), [
        tokens(100, 20)]),
    ("a request without a model call", bifrost_trace(**{"http.status_code": 200}), []),
    ("turned away before any call", bifrost_trace() | {"Spans": None}, []),
    ("an answer of its semantic cache has no call", bifrost_trace(attempt("b", "plugin")), []),
]  # fmt: skip


def kong_entry(usage: Any = None, plugin: str = "proxy", **more: Any) -> dict[str, Any]:
    used = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120} if usage is None else usage
    meta = {"provider_name": "openai", "request_model": "gpt-4o", "response_model": "gpt-4o-2024-08-06"}
    return {
        **{"started_at": 1_789_000_000_000, "request": {"id": "r-1"}, "response": {"status": 200}},
        **{"latencies": {"request": 2_500}, "consumer": {"id": "c", "username": "ci"}},
        "ai": {plugin: {"usage": used, "meta": meta}},
        **more,
    }


KONG: list[Case] = [
    ("ai-proxy of 3.8 and later", kong_entry(), [tokens(100, 20, ts=1_789_000_002.5, key_id="c", tenant="ci")]),
    ("ai-proxy-advanced", kong_entry(plugin="ai-proxy-advanced"), [tokens(100, 20)]),
    ("3.6: singular names", kong_entry({"prompt_token": 100, "completion_token": 20, "total_token": 120}, "ai-proxy"), [
        tokens(100, 20)]),
    ("the plugin's part itself under `ai`", kong_entry() | {"ai": kong_entry()["ai"]["proxy"]}, [
        tokens(100, 20, model="gpt-4o-2024-08-06")]),
    ("only the total", kong_entry({"prompt_tokens": 100, "total_tokens": 120}), [tokens(100, 20)]),
    ("Bedrock: the total shows what the cache took", kong_entry({"prompt_tokens": 10, "completion_tokens": 20,
        "total_tokens": 90, "prompt_tokens_details": {"cached_tokens": 60}}), [tokens(70, 20, 60)]),
    ("its semantic cache", kong_entry() | {"ai": {"proxy": kong_entry()["ai"]["proxy"] | {
        "cache": {"cache_status": "Hit", "fetch_latency": 21}}}}, [tokens(0, 0, response_cache="hit")]),
    ("turned away", kong_entry({"prompt_tokens": 0, "completion_tokens": 0, "time_per_token": None},
        response={"status": 429}), [tokens(0, 0, status=429)]),
    ("failed without counts", kong_entry({}, response={"status": 502}), [tokens(0, 0, status=502)]),
    ("no provider, no answer's model, cost as a text", kong_entry() | {"ai": {"proxy": {
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "cost": "0.25"},
        "meta": {"provider_name": "UNSPECIFIED", "request_model": "llama3", "response_model": "UNSPECIFIED"}}}}, [
        tokens(100, 20, provider=None, model="llama3", cost_usd=0.25)]),
    ("Bedrock and Gemini by Kong's names", [kong_entry() | {"ai": {"proxy": kong_entry()["ai"]["proxy"] | {
        "meta": {"provider_name": name, "request_model": "m"}}}} for name in ("bedrock", "gemini")], [
        {"provider": "aws"}, {"provider": "google"}]),
]  # fmt: skip


def event(data: Any, **more: Any) -> dict[str, Any]:
    return {
        **{"specversion": "1.0", "type": "call", "id": "1", "source": "app", "subject": "acme"},
        **{"time": "2026-09-09T08:00:00Z", "data": data},
        **more,
    }


CLOUDEVENTS: list[Case] = [
    ("LiteLLM's openmeter", event({"model": "gpt-4o", "cost": 0.1, "prompt_tokens": 100, "completion_tokens": 20,
        "total_tokens": 120}), [tokens(100, 20, cost_usd=0.1, event_id="app 1", ts=1_788_940_800.0)]),
    ("our names", event({"model": "gpt-4o", "input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 60,
        "session_id": "s", "service_tier": "batch", "status": 200}), [
        tokens(100, 20, 60, session_id="s", service_tier="batch", status=200)]),
    ("one side each", [event({"tokens": "100", "model": "gpt-4o", "type": "input"}),
        event({"tokens": 20, "model": "gpt-4o", "type": "output"}, id="2"),
        event({"tokens": 7, "model": "gpt-4o", "type": "system"}, id="3")], [tokens(100, 0), tokens(0, 20), tokens(7, 0)]),
    ("data as a JSON text", event(json.dumps({"model": "gpt-4o", "prompt_tokens": 100, "completion_tokens": 20})), [
        tokens(100, 20)]),
    ("a provider's usage in data", event({"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 60}}}), [tokens(100, 20, 60)]),
    ("no time", {name: part for name, part in event({"model": "m", "prompt_tokens": 1, "completion_tokens": 2}).items()
        if name != "time"}, [tokens(1, 2, ts=NOW)]),
    ("a time in another zone", event({"model": "m", "prompt_tokens": 1, "completion_tokens": 2},
        time="2026-09-09T10:00:00.5+02:00"), [{"ts": 1_788_940_800.5}]),
    ("what a key did", event({"model": "m", "input_tokens": 1, "output_tokens": 2, "key_id": "k-7"}), [{"key_id": "k-7"}]),
    ("other meters", [event({"duration_ms": 7}), event(None), event({"cpu": 1}, type="vm")], []),
]  # fmt: skip

CHAT_USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def answer(usage: Any = None, **more: Any) -> dict[str, Any]:
    return {
        **{"id": "chatcmpl-1", "object": "chat.completion", "created": 1_789_000_000, "model": "gpt-4o-2024-08-06"},
        "usage": CHAT_USAGE if usage is None else usage,
        **more,
    }


def sse(*events: Any) -> bytes:
    return b"".join(b"event: e\ndata: " + body(part) + b"\n\n" for part in events) + b"data: [DONE]\n\n"


CHUNK = answer(object="chat.completion.chunk")
OPENAI: list[Case] = [
    ("chat with everything", answer({**CHAT_USAGE,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": 3, "rejected_prediction_tokens": 2}},
        service_tier="default", choices=[{"message": {"tool_calls": [{"id": "a"}]}}]), [
        tokens(100, 20, 60, reasoning_tokens=7, audio_input_tokens=5, audio_output_tokens=3, service_tier="standard",
               tool_calls=1, operation="chat", ts=1_789_000_000.0, event_id="chatcmpl-1-1789000000")]),
    ("responses", {"id": "resp_1", "object": "response", "created_at": 1_789_000_000.0, "model": "gpt-5", "service_tier":
        "flex", "output": [{"type": "web_search_call"}, {"type": "function_call"}, {"type": "message"}],
        "usage": {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": 20,
                  "output_tokens_details": {"reasoning_tokens": 7}, "total_tokens": 120}}, [
        tokens(100, 20, 60, reasoning_tokens=7, web_search_requests=1, tool_calls=1, service_tier="flex",
               operation="chat")]),
    ("embeddings", {"object": "list", "model": "text-embedding-3-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}}, [
        tokens(8, 0, operation="embeddings")]),
    ("a stream of Azure", [{"object": "", "id": "", "prompt_filter_results": []}, CHUNK | {"usage": None}, CHUNK], [
        tokens(100, 20)]),
    ("a stream of chat", [CHUNK | {"usage": None, "choices": []}, CHUNK], [tokens(100, 20)]),
    ("a stream as it came over the wire", sse(CHUNK | {"usage": None}, CHUNK), [tokens(100, 20)]),
    ("usage in every chunk: the last one counts", [
        CHUNK | {"usage": CHAT_USAGE | {"completion_tokens": n}} for n in (1, 7, 20)], [tokens(100, 20)]),
    ("a stream of responses", sse({"type": "response.created", "response": {"id": "resp_1", "model": "gpt-5", "usage": None}},
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.completed", "response": {"id": "resp_1", "object": "response", "model": "gpt-5",
         "usage": {"input_tokens": 100, "output_tokens": 20}}}), [tokens(100, 20, request_id="resp_1")]),
    ("a line of a batch's output", {"id": "batch_req_1", "custom_id": "x", "error": None,
        "response": {"status_code": 200, "request_id": "r", "body": answer()}}, [
        tokens(100, 20, service_tier="batch", status=200)]),
    ("images", {"created": 1_789_000_000, "data": [], "usage": {"input_tokens": 50, "output_tokens": 4160,
        "total_tokens": 4210, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10}}}, [
        tokens(50, 4160, model="model-1")]),
    ("a transcription", {"text": "x", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45,
        "total_tokens": 59, "input_token_details": {"text_tokens": 0, "audio_tokens": 14}}}, [
        tokens(14, 45, audio_input_tokens=14)]),
    ("realtime", {"type": "response.done", "response": {"id": "resp_2", "object": "realtime.response", "usage": {
        "total_tokens": 120, "input_tokens": 100, "output_tokens": 20,
        "input_token_details": {"cached_tokens": 60, "audio_tokens": 40}, "output_token_details": {"audio_tokens": 15}}}}, [
        tokens(100, 20, 60, audio_input_tokens=40, audio_output_tokens=15)]),
    ("Azure", answer(prompt_filter_results=[]), [{"provider": "azure"}]),
    ("xAI counts thoughts beside the answer", answer({"prompt_tokens": 10120, "completion_tokens": 1499, "total_tokens":
        14428, "prompt_tokens_details": {"cached_tokens": 128}, "completion_tokens_details": {"reasoning_tokens": 2809}}), [
        tokens(10120, 4308, 128, reasoning_tokens=2809)]),
    ("DeepSeek", answer({**CHAT_USAGE, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40}), [
        tokens(100, 20, 60, provider="deepseek")]),
    ("a proxy of Claude that counts the cache beside the input", answer({"prompt_tokens": 10, "completion_tokens": 20,
        "total_tokens": 90, "prompt_tokens_details": {"cached_tokens": 60}}), [tokens(70, 20, 60)]),
    ("Gemini behind OpenAI's format tells of thoughts in the total only", answer({"prompt_tokens": 100,
        "completion_tokens": 20, "total_tokens": 420}, model="gemini-2.5-pro"), [tokens(100, 320)]),
    ("OpenRouter", answer({**CHAT_USAGE, "cost": 0.25}, provider="Anthropic", model="anthropic/claude-sonnet-4.5"), [
        tokens(100, 20, provider="openrouter", cost_usd=0.25)]),
    ("embeddings of those that tell the total only (Voyage)", {"object": "list", "model": "voyage-3", "usage": {
        "total_tokens": 8}}, [tokens(8, 0, operation="embeddings")]),
]  # fmt: skip

MESSAGE_USAGE = {"input_tokens": 10, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30, "output_tokens": 20}


def claude(usage: Any = None, **more: Any) -> dict[str, Any]:
    return {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929"},
        "usage": MESSAGE_USAGE if usage is None else usage,
        **more,
    }


STARTED = {"type": "message_start", "message": claude(MESSAGE_USAGE | {"output_tokens": 1})}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}}
ANTHROPIC: list[Case] = [
    ("messages", claude(), [tokens(100, 20, 60, 30, event_id="msg_1", provider="anthropic", operation="chat")]),
    ("written for 5 minutes and for an hour, searches, tools, tier", claude({**MESSAGE_USAGE, "service_tier": "batch",
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "server_tool_use": {"web_search_requests": 2}}, content=[{"type": "tool_use"}, {"type": "text"}]), [
        tokens(100, 20, 60, 30, cache_write_1h_tokens=20, web_search_requests=2, tool_calls=1, service_tier="batch")]),
    ("no cache at all", claude({"input_tokens": 10, "output_tokens": 20}), [tokens(10, 20)]),
    ("nulls", claude({"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": None, "cache_creation": None,
        "server_tool_use": None, "service_tier": None}), [tokens(10, 20)]),
    ("a stream as it came over the wire", sse(STARTED, {"type": "ping"}, {"type": "content_block_delta"}, DELTA,
        {"type": "message_stop"}), [tokens(100, 20, 60, 30)]),
    ("a stream's events as lines", b"\n".join(map(body, (STARTED, DELTA))), [tokens(100, 20, 60, 30)]),
    ("a delta that says all anew, for searches changed it", [STARTED, DELTA | {"usage": {**MESSAGE_USAGE,
        "input_tokens": 500, "server_tool_use": {"web_search_requests": 1}}}], [
        tokens(590, 20, 60, 30, web_search_requests=1)]),
    ("two streams", [STARTED, DELTA, {"type": "message_start", "message": claude(id="msg_2")}, DELTA], [
        tokens(100, 20, 60, 30), tokens(100, 20, 60, 30, event_id="msg_2")]),
    ("a line of a batch's results", [{"custom_id": "a", "result": {"type": "succeeded", "message": claude()}},
        {"custom_id": "b", "result": {"type": "errored", "error": {}}}, {"custom_id": "c", "result": {"type": "expired"}}], [
        tokens(100, 20, 60, 30, service_tier="batch")]),
    ("a compaction is billed beside the answer", claude({"input_tokens": 23_000, "output_tokens": 1_000, "iterations": [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000}]}), [tokens(203_000, 4_500)]),
]  # fmt: skip


def generated(usage: Any, **more: Any) -> dict[str, Any]:
    return {
        "candidates": [{"finishReason": "STOP", "content": {"parts": [{"text": "x"}]}}],
        **{"usageMetadata": usage, "modelVersion": "gemini-2.5-pro", "responseId": "r-1"},
        **more,
    }


PROMPT = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
GEMINI: list[Case] = [
    ("plain", generated(PROMPT), [tokens(100, 20, model="gemini-2.5-pro", provider="google", event_id="r-1")]),
    ("thoughts, cache, tools, sound", generated({"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 430,
        "thoughtsTokenCount": 300, "toolUsePromptTokenCount": 10, "cachedContentTokenCount": 60,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "AUDIO", "tokenCount": 30}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}]}), [
        tokens(110, 320, 60, reasoning_tokens=300, audio_input_tokens=30, audio_output_tokens=5)]),
    ("nothing but thoughts", generated({"promptTokenCount": 100, "thoughtsTokenCount": 300, "totalTokenCount": 400}), [
        tokens(100, 300, reasoning_tokens=300)]),
    ("a blocked prompt", {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "gemini-2.5-pro",
        "usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 100}}, [tokens(100, 0)]),
    ("a stream: only its last part counts", [
        generated({"promptTokenCount": 100, "candidatesTokenCount": n, "totalTokenCount": 100 + n},
                  candidates=[{"content": {"parts": []}} | ({"finishReason": "STOP"} if n == 20 else {})])
        for n in (3, 9, 20)], [tokens(100, 20)]),
    ("a stream of before there were ids, over the wire", sse(*(
        {"candidates": [{"content": {}} | ({"finishReason": "STOP"} if n == 20 else {})], "modelVersion": "gemini-1.5-pro",
         "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": n, "totalTokenCount": 100 + n}}
        for n in (3, 20))), [tokens(100, 20)]),
    ("tool calls and searches", generated(PROMPT, candidates=[{"finishReason": "STOP", "content": {"parts": [
        {"functionCall": {"name": "f"}}, {"functionCall": {"name": "g"}}]},
        "groundingMetadata": {"webSearchQueries": ["a", "b", "c"]}}]), [{"tool_calls": 2, "web_search_requests": 1}]),
    ("Gemini 3 bills every search", generated(PROMPT, modelVersion="gemini-3-pro-preview", candidates=[
        {"finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["a", "b", "c"]}}]), [{"web_search_requests": 3}]),
    ("tiers of Vertex", [generated(PROMPT | {"trafficType": kind}, responseId=kind) for kind in (
        "ON_DEMAND", "ON_DEMAND_PRIORITY", "ON_DEMAND_FLEX", "PROVISIONED_THROUGHPUT")], [
        {"service_tier": "standard"}, {"service_tier": "priority"}, {"service_tier": "flex"}, {"service_tier": None}]),
    ("a line of a batch's output", {"key": "a", "response": generated(PROMPT)}, [tokens(100, 20, service_tier="batch")]),
    ("as its Python client dumps it", {"candidates": [{"finish_reason": "STOP"}], "model_version": "gemini-2.5-pro",
        "response_id": "r-2", "usage_metadata": {"prompt_token_count": 100, "candidates_token_count": 20,
        "thoughts_token_count": 300, "cached_content_token_count": 60, "total_token_count": 420}}, [
        tokens(100, 320, 60, reasoning_tokens=300, event_id="r-2", model="gemini-2.5-pro")]),
    ("embeddings", {"embeddings": [{"values": [0.1]}], "usageMetadata": {"promptTokenCount": 8}}, [
        tokens(8, 0, operation="embeddings")]),
    ("Live", {"modelVersion": "gemini-live-2.5-flash", "usageMetadata": {"promptTokenCount": 100, "responseTokenCount": 20,
        "totalTokenCount": 120, "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 15}]}}, [
        tokens(100, 20, audio_output_tokens=15)]),
]  # fmt: skip

CONVERSE_USAGE = {"inputTokens": 10, "outputTokens": 20, "totalTokens": 120, "cacheReadInputTokens": 60,
                  "cacheWriteInputTokens": 30}  # fmt: skip


def invoked(operation: str, answer: Any, **more: Any) -> dict[str, Any]:
    return {
        **{"schemaType": "ModelInvocationLog", "timestamp": "2026-09-09T08:00:00Z", "accountId": "1234", "requestId": "q-1"},
        **{"operation": operation, "modelId": "anthropic.claude-sonnet-4-5-20250929-v1:0", "region": "us-east-1"},
        "input": {"inputTokenCount": 10, "cacheReadInputTokenCount": 60, "cacheWriteInputTokenCount": 30},
        "output": {"outputBodyJson": answer, "outputTokenCount": 20},
        **more,
    }


BEDROCK: list[Case] = [
    ("Converse", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 551}, "ResponseMetadata": {"RequestId": "q-2"},
        "output": {"message": {"content": [{"toolUse": {}}, {"text": "x"}]}}}, [
        tokens(100, 20, 60, 30, latency_ms=551.0, request_id="q-2", tool_calls=1, operation="chat")]),
    ("written for an hour", {"usage": CONVERSE_USAGE | {"cacheDetails": [{"ttl": "1h", "inputTokens": 20},
        {"ttl": "5m", "inputTokens": 10}]}, "serviceTier": {"type": "flex"}}, [
        tokens(100, 20, 60, 30, cache_write_1h_tokens=20, service_tier="flex")]),
    ("the log of Converse", invoked("Converse", {"usage": CONVERSE_USAGE}), [
        tokens(100, 20, 60, 30, ts=1_788_940_800.0, tenant="1234", model="anthropic.claude-sonnet-4-5-20250929-v1:0")]),
    ("the log of InvokeModel: counts beside the provider's own answer", invoked("InvokeModel", claude()), [
        tokens(100, 20, 60, 30, event_id="q-1", operation="chat")]),
    ("the log of a stream", invoked("InvokeModelWithResponseStream", [STARTED, DELTA]), [tokens(100, 20, 60, 30)]),
    ("the log of an answer that was too large to be kept", invoked("ConverseStream", None), [tokens(100, 20, 60, 30)]),
    ("a stream's events", [{"messageStart": {"role": "assistant"}}, {"contentBlockDelta": {}}, {"messageStop": {}},
        {"metadata": {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 551}}}], [
        tokens(100, 20, 60, 30, latency_ms=551.0)]),
    ("throttled", invoked("Converse", None, errorCode="ThrottlingException", input={}, output={}), [
        tokens(0, 0, status=429)]),
    ("an inference profile", invoked("Converse", {"usage": CONVERSE_USAGE},
        modelId="arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-sonnet-4-5-20250929-v1:0"), [
        {"model": "eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "provider": "aws"}]),
    ("InvokeModel's answer, and a line of a batch's output", [claude(), {"recordId": "r", "modelInput": {},
        "modelOutput": claude(id="msg_2")}], [
        tokens(100, 20, 60, 30, provider="aws", model="claude-sonnet-4-5-20250929", event_id="msg_1", service_tier=None),
        tokens(100, 20, 60, 30, provider="aws", event_id="msg_2", service_tier="batch")]),
]  # fmt: skip
CASES: dict[SourceName, list[Case]] = {
    **{"litellm": LITELLM, "otlp": OTLP, "bifrost": BIFROST, "kong": KONG, "cloudevents": CLOUDEVENTS},
    **{"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI, "bedrock": BEDROCK},
}


@pytest.mark.parametrize(
    ("source", "payload", "expected"),
    [
        pytest.param(source, payload, expected, id=f"{source}: {what}")
        for source, cases in CASES.items()
        for what, payload, expected in cases
    ],
)
def test_it_is_read_as_its_maker_means_it(source: SourceName, payload: Any, expected: list[Mapping[str, Any]]) -> None:
    matches(read(source, payload), expected)


@pytest.mark.parametrize(
    ("source", "payload", "field", "reason"),
    [
        ("litellm", {"request_id": "r", "spend": 0.1, "prompt_tokens": 1, "completion_tokens": 1}, "ts", "required"),
        ("otlp", {"resourceLogs": []}, "resourceSpans", "no resourceSpans"),
        ("otlp", chat_span(langfuse__observation__type="generation", gen_ai__request__model="m"), "input_tokens", "no token"),
        ("bifrost", {"Spans": {}}, "Spans", "not a list"),
        ("bifrost", {"a": 1}, "Spans", "no Spans"),
        ("kong", kong_entry({"time_per_token": 7}), "input_tokens", "no token counts"),
        ("cloudevents", event({"model": "m", "tokens": 7}), "input_tokens", "no token counts"),
        ("cloudevents", event({"model": "m", "total_tokens": 7}), "input_tokens", "no token counts"),
        ("cloudevents", {"model": "m"}, "specversion", "not a CloudEvent"),
        ("openai", {"error": {"message": "x"}}, "usage", "not a response of OpenAI"),
        ("openai", claude(), "usage", "not a response of OpenAI"),
        ("openai", {"text": "x", "usage": {"type": "duration", "seconds": 9}}, "input_tokens", "no token counts"),
        ("openai", [CHUNK | {"usage": None}], "usage", "a stream without its last part"),
        ("openai", sse({"type": "response.created", "response": {"id": "r"}}), "usage", "a stream without its last part"),
        ("bedrock", [{"messageStart": {}}, {"messageStop": {}}], "usage", "a stream without its last part"),
        ("anthropic", {"input_tokens": 2095}, "type", "not a response of Anthropic"),
        ("anthropic", [DELTA], "type", "not a response of Anthropic"),
        ("gemini", {"totalTokens": 7}, "usageMetadata", "not a response of Gemini"),
        ("bedrock", {"message": "x"}, "usage", "not a response of Bedrock"),
    ],
)
def test_what_is_none_of_its_calls_is_refused_with_a_reason(
    source: SourceName, payload: Any, field: str, reason: str
) -> None:
    reading = read(source, payload)
    assert reading.events == []
    assert [(refusal.field, reason in refusal.reason) for refusal in reading.refused] == [(field, True)]


@given(st.sampled_from([(source, payload) for source, cases in CASES.items() for _, payload, _ in cases]), st.data())
@settings(max_examples=400, deadline=None)
def test_bent_variants_are_safe(case: tuple[SourceName, Any], data: st.DataObject) -> None:
    source, payload = case
    safe(source, payload if isinstance(payload, bytes) else body(data.draw(mutated(payload))))


@given(st.sampled_from(ODD))
def test_an_odd_status_of_a_batchs_line_is_no_reason_to_stop(odd: Any) -> None:
    line = {"response": {"status_code": odd, "body": answer()}}
    assert len(read("openai", line).events) == 1
