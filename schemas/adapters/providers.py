"""The bodies that providers answer with: OpenAI (chat, responses, embeddings), Anthropic, Gemini, Bedrock Converse.

None says whose call it was; what stands in for tenant and key is yours to say. Only some say when, or have an id.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.adapters.reading import (
    Event,
    Item,
    Names,
    Reading,
    at,
    count,
    identity,
    items,
    listed,
    moment,
    read,
    text,
    used,
    values,
    whole,
    whose,
)
from schemas.adapters.who import SourceName, Who
from schemas.call import Refused

OPENAI: Names = {
    "input_tokens": ("usage.prompt_tokens", "usage.input_tokens"),
    "output_tokens": ("usage.completion_tokens", "usage.output_tokens"),
    "cached_input_tokens": ("usage.prompt_tokens_details.cached_tokens", "usage.input_tokens_details.cached_tokens"),
    "cache_write_tokens": ("usage.prompt_tokens_details.cache_write_tokens", "usage.input_tokens_details.cache_write_tokens"),
    "audio_input_tokens": ("usage.prompt_tokens_details.audio_tokens",),
    "reasoning_tokens": (
        "usage.completion_tokens_details.reasoning_tokens",
        "usage.output_tokens_details.reasoning_tokens",
    ),
    "audio_output_tokens": ("usage.completion_tokens_details.audio_tokens",),
    "model": ("model",),
    "service_tier": ("service_tier",),
    "ts": ("completed_at", "created", "created_at"),
    "request_id": ("id",),
}
ANTHROPIC: Names = {
    "output_tokens": ("usage.output_tokens",),
    "cached_input_tokens": ("usage.cache_read_input_tokens",),
    "cache_write_tokens": ("usage.cache_creation_input_tokens",),
    "cache_write_1h_tokens": ("usage.cache_creation.ephemeral_1h_input_tokens",),
    "reasoning_tokens": ("usage.output_tokens_details.thinking_tokens",),
    "web_search_requests": ("usage.server_tool_use.web_search_requests",),
    "model": ("model",),
    "service_tier": ("usage.service_tier",),
    "request_id": ("id",),
}
GEMINI: Names = {
    "cached_input_tokens": ("usageMetadata.cachedContentTokenCount",),
    "reasoning_tokens": ("usageMetadata.thoughtsTokenCount",),
    "model": ("modelVersion",),
    "service_tier": ("usageMetadata.serviceTier", "usageMetadata.trafficType"),
    "ts": ("createTime",),
    "request_id": ("responseId",),
}
BEDROCK: Names = {
    "output_tokens": ("usage.outputTokens",),
    "cached_input_tokens": ("usage.cacheReadInputTokens",),
    "cache_write_tokens": ("usage.cacheWriteInputTokens",),
    "service_tier": ("serviceTier.type",),
    "latency_ms": ("metrics.latencyMs",),
}


def openai(body: Item, item: Item) -> Event:
    """Everything is inclusive."""
    if "usage" not in body or "model" not in body or at(body, "type") == "message":
        raise Refused("not a response of OpenAI", "usage")
    found = values(body, OPENAI)
    if at(body, "object") == "list":
        found["operation"] = "embeddings"
    searches = sum(at(part, "type") == "web_search_call" for part in listed(body, "output"))
    return found | {"provider": "openai", "web_search_requests": searches or None}


def anthropic(body: Item, item: Item) -> Event:
    """`input_tokens` is what was neither read from nor written to the cache; output includes thinking."""
    if at(body, "type") != "message":
        raise Refused("not a response of Anthropic", "type")
    found = values(body, ANTHROPIC)
    by_lifetime = [count(body, f"usage.cache_creation.ephemeral_{kept}_input_tokens") for kept in ("5m", "1h")]
    found.setdefault("cache_write_tokens", whole(*by_lifetime))
    found["input_tokens"] = _with(count(body, "usage.input_tokens"), found)
    return found | {"provider": "anthropic"}


def gemini(body: Item, item: Item) -> Event:
    """Cached tokens are included; prompts of tools and thoughts are told beside."""
    told = at(body, "usageMetadata")
    if not isinstance(told, dict):
        raise Refused("not a response of Gemini", "usageMetadata")
    found = values(body, GEMINI)
    prompt, total = count(told, "promptTokenCount"), count(told, "totalTokenCount")
    answer = count(told, "candidatesTokenCount" if "candidatesTokenCount" in told else "responseTokenCount")
    if prompt is not None:
        found["input_tokens"] = whole(prompt, count(told, "toolUsePromptTokenCount"))
    if answer is not None or total is None:
        found["output_tokens"] = whole(answer, found.get("reasoning_tokens"))
    for name, path in (("audio_input_tokens", "promptTokensDetails"), ("audio_output_tokens", "candidatesTokensDetails")):
        found[name] = whole(*(count(part, "tokenCount") for part in listed(told, path) if at(part, "modality") == "AUDIO"))
    return found | {"provider": "google"}


def bedrock(body: Item, item: Item) -> Event:
    """`inputTokens` is what was neither read from nor written to the cache. A body, or Bedrock's log entry around it."""
    if not isinstance(at(body, "usage"), dict) or at(body, "usage.inputTokens") is None:
        raise Refused("not a response of Bedrock Converse", "usage")
    found = values(body, BEDROCK)
    by_lifetime = [(text(part, "ttl"), count(part, "inputTokens")) for part in listed(body, "usage.cacheDetails")]
    found["cache_write_1h_tokens"] = whole(*(number for kept, number in by_lifetime if kept == "1h"))
    found.setdefault("cache_write_tokens", whole(*(number for _, number in by_lifetime)))
    found["input_tokens"] = _with(count(body, "usage.inputTokens"), found)
    found["request_id"] = text(item, "requestId") or text(body, "ResponseMetadata.RequestId")
    model = text(item, "modelId")
    return found | {"provider": "aws", "model": model and model.rpartition("/")[2], "ts": moment(item, "timestamp")}


def reader(
    provider: Callable[[Item, Item], Event], inner: str = "", total: str = "usage.total_tokens"
) -> Callable[[bytes, Who, float], Reading]:
    """The adapter of a provider: its bodies, bare or at the path `inner` of what is logged around them."""

    def event(item: Item, who: Who, now: float) -> Event:
        logged = at(item, inner) if inner else None
        body = logged if isinstance(logged, dict) else item
        found = provider(body, item)
        found["ts"] = found.get("ts") or now
        found["event_id"] = identity(found.get("request_id"), item)
        return used(whose(item, who, found), total=count(body, total))

    return lambda body, who, now: read(items(body), lambda item: event(item, who, now))


ANSWERS: dict[SourceName, Callable[[bytes, Who, float], Reading]] = {
    "openai": reader(openai),
    "anthropic": reader(anthropic),
    "gemini": reader(gemini, total="usageMetadata.totalTokenCount"),
    "bedrock": reader(bedrock, inner="output.outputBodyJson", total="usage.totalTokens"),
}


def _with(fresh: int | None, found: Event) -> int | None:
    """Fresh tokens and those that went through the cache."""
    return None if fresh is None else whole(fresh, found.get("cached_input_tokens"), found.get("cache_write_tokens"))
