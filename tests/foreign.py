"""Foreign payloads: what real software sent (tests/payloads), and the same call as every source would tell of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.adapters.reading import Event
from schemas.adapters.who import SourceName, Sources, Who

PAYLOADS = Path(__file__).parent / "payloads"
CAPTURED: tuple[tuple[SourceName, str], ...] = (
    ("litellm", "litellm_1.106.2.json"),
    ("otlp", "openllmetry_0.62.4.pb"),
    ("otlp", "openai_v2_2.4b0.pb"),
    ("bifrost", "bifrost.json"),
    ("kong", "kong.json"),
    ("cloudevents", "cloudevents.json"),
)
NOW = 1_790_000_000.0
SECRET_TEXT = "CANARY-what-the-person-asked"


def who(source: SourceName) -> Who:
    """The source's own fields, and a tenant and key for those that name none."""
    return Sources({}).of(source, "acme", "key-1", "model-1")


@dataclass(frozen=True)
class Truth:
    """What the provider counted for one call; `told` are the parts that the source tells of."""

    fresh: int
    cached: int
    write_5m: int
    write_1h: int
    visible: int
    reasoning: int
    told: frozenset[str]

    @property
    def input(self) -> int:
        return self.fresh + self.cached + self.write_5m + self.write_1h

    @property
    def write(self) -> int:
        return self.write_5m + self.write_1h

    @property
    def output(self) -> int:
        return self.visible + self.reasoning

    def say(self, **names: str) -> dict[str, Any]:
        """The parts that are told, under the source's names for them: `say(cached="cached_tokens")`."""
        return {name: getattr(self, part) for part, name in names.items() if part in self.told}


PARTS = ("cached", "write", "write_1h", "reasoning")


def chat(t: Truth) -> Any:
    return {
        **{
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_789_000_000,
            "model": "gpt-5",
            "service_tier": "flex",
        },
        "choices": [{"message": {"role": "assistant", "content": SECRET_TEXT}}],
        "usage": {
            **{"prompt_tokens": t.input, "completion_tokens": t.output, "total_tokens": t.input + t.output},
            "prompt_tokens_details": t.say(cached="cached_tokens", write="cache_write_tokens"),
            "completion_tokens_details": t.say(reasoning="reasoning_tokens"),
        },
    }


def responses(t: Truth) -> Any:
    return {
        **{
            "id": "resp_1",
            "object": "response",
            "created_at": 1_789_000_000,
            "completed_at": 1_789_000_009,
            "model": "gpt-5",
        },
        "output": [{"type": "web_search_call"}, {"type": "message", "content": [{"text": SECRET_TEXT}]}],
        "usage": {
            **{"input_tokens": t.input, "output_tokens": t.output, "total_tokens": t.input + t.output},
            "input_tokens_details": t.say(cached="cached_tokens", write="cache_write_tokens"),
            "output_tokens_details": t.say(reasoning="reasoning_tokens"),
        },
    }


def message(t: Truth) -> Any:
    by_lifetime = {"ephemeral_5m_input_tokens": t.write_5m, "ephemeral_1h_input_tokens": t.write_1h}
    return {
        **{
            "id": "msg_1",
            "type": "message",
            "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": SECRET_TEXT}],
        },
        "usage": {
            **{"input_tokens": t.fresh, "output_tokens": t.output, "service_tier": "priority"},
            **t.say(cached="cache_read_input_tokens", write="cache_creation_input_tokens"),
            **({"cache_creation": by_lifetime} if "write_1h" in t.told else {}),
            "output_tokens_details": t.say(reasoning="thinking_tokens"),
        },
    }


def generated(t: Truth) -> Any:
    tools = min(7, t.fresh)
    return {
        "candidates": [{"content": {"parts": [{"text": SECRET_TEXT}]}, "finishReason": "STOP"}],
        **{"modelVersion": "gemini-2.5-pro", "responseId": "r-1", "createTime": "2026-09-09T08:00:00.5Z"},
        "usageMetadata": {
            **{"promptTokenCount": t.input - tools, "toolUsePromptTokenCount": tools, "trafficType": "ON_DEMAND"},
            "candidatesTokenCount": t.visible if "reasoning" in t.told else t.output,
            "totalTokenCount": t.input + t.output,
            **t.say(cached="cachedContentTokenCount", reasoning="thoughtsTokenCount"),
        },
    }


def converse(t: Truth) -> Any:
    by_lifetime = [{"ttl": "5m", "inputTokens": t.write_5m}, {"ttl": "1h", "inputTokens": t.write_1h}]
    return {
        "output": {"message": {"content": [{"text": SECRET_TEXT}]}},
        "usage": {
            **{"inputTokens": t.fresh, "outputTokens": t.output, "totalTokens": t.input + t.output},
            **t.say(cached="cacheReadInputTokens", write="cacheWriteInputTokens"),
            **({"cacheDetails": by_lifetime} if "write_1h" in t.told else {}),
        },
        "metrics": {"latencyMs": 551},
    }


def converse_logged(t: Truth) -> Any:
    return {
        **{"timestamp": "2026-09-09T08:00:00Z", "accountId": "1234", "requestId": "q-1", "operation": "Converse"},
        "identity": {"arn": "arn:aws:sts::1234:assumed-role/app/x"},
        "modelId": "arn:aws:bedrock:eu-west-1:1234:inference-profile/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "input": {"inputBodyJson": {"messages": [{"content": SECRET_TEXT}]}},
        "output": {"outputBodyJson": converse(t)},
    }


def litellm(t: Truth) -> Any:
    usage = chat(t)["usage"]
    usage["prompt_tokens_details"] |= (
        {"cache_creation_token_details": {"ephemeral_1h_input_tokens": t.write_1h}} if "write_1h" in t.told else {}
    )
    return {
        **{"id": "chatcmpl-1", "status": "success", "call_type": "acompletion", "startTime": 1.79e9, "endTime": 1.79e9 + 2},
        **{"model": "anthropic/claude-sonnet-4-5", "custom_llm_provider": "anthropic", "end_user": "someone"},
        **{"prompt_tokens": t.input, "completion_tokens": t.output, "total_tokens": t.input + t.output, "cache_hit": False},
        **{"messages": [{"role": "user", "content": SECRET_TEXT}], "response": chat(t), "error_str": SECRET_TEXT},
        "metadata": {
            "usage_object": usage,
            "user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
            "user_api_key_team_id": "team-1",
            "requester_metadata": {"tenant": "evil", "prompt": SECRET_TEXT},
        },
    }


def entry(t: Truth) -> Any:
    return {
        **{
            "started_at": 1_789_000_000_000,
            "request": {"id": "q-1"},
            "response": {"status": 200},
            "latencies": {"request": 9},
        },
        "consumer": {"custom_id": "acme"},
        "authenticated_entity": {"id": "credential-1"},
        "ai": {
            "payload": {"request": SECRET_TEXT},
            "proxy": {
                "usage": chat(t)["usage"] | {"cost": 0.1},
                "meta": {"provider_name": "openai", "request_model": "gpt-5", "response_model": "gpt-5-2025-08-07"},
                "payload": {"response": SECRET_TEXT},
            },
        },
    }


def cloudevent(t: Truth) -> Any:
    return {
        **{
            "specversion": "1.0",
            "id": "1",
            "source": "app",
            "type": "call",
            "subject": "acme",
            "time": "2026-09-09T08:00:00Z",
        },
        "data": {
            **{"model": "gpt-5", "prompt": SECRET_TEXT, "input_tokens": t.input, "output_tokens": t.output},
            **t.say(cached="cached_input_tokens", write="cache_write_tokens"),
            **t.say(write_1h="cache_write_1h_tokens", reasoning="reasoning_tokens"),
        },
    }


def bifrost(t: Truth) -> Any:
    attributes = {
        **{"gen_ai.provider.name": "anthropic", "gen_ai.request.model": "claude", "gen_ai.input.messages": SECRET_TEXT},
        **{"gen_ai.usage.prompt_tokens": t.input, "gen_ai.usage.completion_tokens": t.output},
        **{"bifrost.virtual_key.id": "vk-1", "bifrost.customer.id": "acme", "bifrost.retries": 2},
        **t.say(cached="gen_ai.usage.cache_read.input_tokens", write="gen_ai.usage.cache_creation.input_tokens"),
        **t.say(write_1h="gen_ai.usage.prompt_token_details.cached_write_tokens_1h"),
        **t.say(reasoning="gen_ai.usage.reasoning.output_tokens"),
    }
    times = {"StartTime": "2026-09-09T08:00:00Z", "EndTime": "2026-09-09T08:00:01.25+00:00"}
    call = {"SpanID": "b", "ParentID": "a", "Kind": "llm.call", "Status": "ok", **times, "Attributes": attributes}
    root = {"SpanID": "a", "Kind": "http.request", **times, "Attributes": {"gen_ai.output.messages": SECRET_TEXT}}
    return {"RequestID": "q", "TraceID": "t", "RequestHeaders": {"x": SECRET_TEXT}, "RootSpan": root, "Spans": [root, call]}


TODAY = {
    **{"input": "gen_ai.usage.input_tokens", "output": "gen_ai.usage.output_tokens"},
    **{"cached": "gen_ai.usage.cache_read.input_tokens", "write": "gen_ai.usage.cache_write.input_tokens"},
    **{
        "reasoning": "gen_ai.usage.reasoning.output_tokens",
        "model": "gen_ai.response.model",
        "provider": "gen_ai.provider.name",
    },
}
BEFORE = TODAY | {
    **{"write": "gen_ai.usage.cache_creation.input_tokens", "reasoning": "gen_ai.usage.reasoning_tokens"},
    **{"provider": "gen_ai.system"},
}
FIRST = {
    **{"input": "gen_ai.usage.prompt_tokens", "output": "gen_ai.usage.completion_tokens", "provider": "gen_ai.system"},
    **{"cached": "gen_ai.usage.cache_read_input_tokens", "write": "gen_ai.usage.cache_creation_input_tokens"},
    **{"model": "gen_ai.response.model"},
}
OPENINFERENCE = {
    **{"input": "llm.token_count.prompt", "output": "llm.token_count.completion", "model": "llm.model_name"},
    **{"cached": "llm.token_count.prompt_details.cache_read", "write": "llm.token_count.prompt_details.cache_write"},
    **{"reasoning": "llm.token_count.completion_details.reasoning", "provider": "llm.provider"},
}
"""What the conventions and dialects call the same things."""


def attribute(name: str, value: Any) -> dict[str, Any]:
    kind = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}[type(value)]
    return {"key": name, "value": {kind: str(value) if kind == "intValue" else value}}


def span(attributes: Mapping[str, Any], span: str = "0102030405060708", parent: str = "", **rest: Any) -> dict[str, Any]:
    """A span as OTLP/JSON has it, 2 s long."""
    told = [attribute(name, value) for name, value in attributes.items()]
    at = 1_789_000_000_000_000_000
    ids = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": span, "parentSpanId": parent}
    times = {"startTimeUnixNano": str(at), "endTimeUnixNano": str(at + 2 * 10**9)}
    return {**ids, **times, "name": "chat", "attributes": told, "status": {"message": SECRET_TEXT}, **rest}


def traces(*spans: Any, resource: Mapping[str, Any] | None = None) -> dict[str, Any]:
    named = resource or {"service.namespace": "acme", "service.name": "app", "deployment.environment": "prod"}
    told = [attribute(name, value) for name, value in named.items()]
    return {"resourceSpans": [{"resource": {"attributes": told}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


def spoken(names: Mapping[str, str]) -> Callable[[Truth], Any]:
    """A call as a span that uses these names."""

    def emit(t: Truth) -> Any:
        parts = {part: name for part, name in names.items() if part in PARTS}
        counts = {names["input"]: t.input, names["output"]: t.output}
        kind = {"openinference.span.kind": "LLM"} if names is OPENINFERENCE else {"gen_ai.operation.name": "chat"}
        texts = {"gen_ai.input.messages": SECRET_TEXT, "input.value": SECRET_TEXT, "gen_ai.prompt.0.content": SECRET_TEXT}
        return traces(
            span({**kind, **counts, **texts, **t.say(**parts), names["model"]: "gpt-5", names["provider"]: "openai"})
        )

    return emit


@dataclass(frozen=True)
class Teller:
    """How a source tells of a call, which parts it can tell of, and whether it counts cached tokens as input."""

    source: SourceName
    emit: Callable[[Truth], Any]
    parts: tuple[str, ...] = PARTS
    inclusive: bool = True

    def as_far_as_told(self, truth: Truth) -> Truth:
        """The truth as this source can tell it: what stands beside the input and is not told of is not there."""
        told = truth.told & set(self.parts)
        if self.inclusive:
            return replace(truth, told=told)
        told |= {"write"} if "write_1h" in told else set()
        read, written = "cached" in told, "write" in told
        counts = {"cached": truth.cached * read, "write_5m": truth.write_5m * written, "write_1h": truth.write_1h * written}
        return replace(truth, told=told, **counts)


_NO_LIFETIME = ("cached", "write", "reasoning")
TELLERS = {
    "litellm": Teller("litellm", litellm),
    "otlp today": Teller("otlp", spoken(TODAY), _NO_LIFETIME),
    "otlp before": Teller("otlp", spoken(BEFORE), _NO_LIFETIME),
    "otlp first": Teller("otlp", spoken(FIRST), ("cached", "write")),
    "openinference": Teller("otlp", spoken(OPENINFERENCE), _NO_LIFETIME),
    "bifrost": Teller("bifrost", bifrost),
    "kong": Teller("kong", entry, ("cached", "reasoning")),
    "cloudevents": Teller("cloudevents", cloudevent),
    "openai chat": Teller("openai", chat, _NO_LIFETIME),
    "openai responses": Teller("openai", responses, _NO_LIFETIME),
    "anthropic": Teller("anthropic", message, inclusive=False),
    "gemini": Teller("gemini", generated, ("cached", "reasoning")),
    "bedrock": Teller("bedrock", converse, ("cached", "write", "write_1h"), inclusive=False),
    "bedrock log": Teller("bedrock", converse_logged, ("cached", "write", "write_1h"), inclusive=False),
}


def body(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def counted(event: Event) -> dict[str, int]:
    """The token counts of an event."""
    return {name: value for name, value in event.items() if name.endswith("_tokens")}
