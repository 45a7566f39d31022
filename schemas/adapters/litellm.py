"""LiteLLM's `StandardLoggingPayload`: what its callback `generic_api` sends, as a JSON array, NDJSON or one object.

`prompt_tokens` includes cached and cache-write tokens for every provider, `completion_tokens` includes reasoning.
"""

from __future__ import annotations

import re

from schemas.adapters.providers import tool_calls
from schemas.adapters.reading import (
    NO_ANSWER,
    STATUS,
    Event,
    Item,
    Names,
    NoCall,
    Reading,
    at,
    attempt,
    count,
    each,
    identity,
    items,
    lasted,
    moment,
    read,
    text,
    used,
    values,
    whose,
)
from schemas.adapters.spans import OTHER
from schemas.adapters.who import Who

_USAGES = ("metadata.usage_object", "hidden_params.usage_object", "response.usage")
"""Where the provider's usage stands, as LiteLLM counts it: the first one that is there."""
_INPUT, _OUTPUT = "prompt_tokens_details", "completion_tokens_details"
USAGE: Names = {
    "cached_input_tokens": (f"{_INPUT}.cached_tokens", "cache_read_input_tokens"),
    "cache_write_tokens": (
        f"{_INPUT}.cache_write_tokens",
        f"{_INPUT}.cache_creation_tokens",
        "cache_creation_input_tokens",
    ),
    "cache_write_1h_tokens": (f"{_INPUT}.cache_creation_token_details.ephemeral_1h_input_tokens",),
    "audio_input_tokens": (f"{_INPUT}.audio_tokens",),
    "reasoning_tokens": (f"{_OUTPUT}.reasoning_tokens",),
    "audio_output_tokens": (f"{_OUTPUT}.audio_tokens",),
    "web_search_requests": ("server_tool_use.web_search_requests", f"{_INPUT}.web_search_requests"),
    "service_tier": ("service_tier",),
}
"""What the usage says of the parts of a count."""
NAMES: Names = {
    "ts": ("endTime",),
    "input_tokens": ("prompt_tokens",),
    "output_tokens": ("completion_tokens",),
    "provider": ("custom_llm_provider",),
    "requested_model": ("model_group",),
    "service_tier": ("response.service_tier", "cost_breakdown.service_tier"),
    "response_cache": ("cache_hit",),
    "status": ("error_information.error_code",),
    "request_id": ("litellm_call_id",),
    "session_id": ("session_id",),
    "trace_id": ("trace_id",),
    "user_id": ("end_user", "metadata.user_api_key_end_user_id"),
    "client_ip": ("requester_ip_address", "metadata.requester_ip_address"),
    "user_agent": ("user_agent", "metadata.user_agent"),
    "cost_usd": ("cost_breakdown.original_cost", "response_cost"),
}
OPERATIONS = {
    **dict.fromkeys(("completion", "responses", "anthropic_messages", "retrieve_batch"), "chat"),
    **{"embedding": "embeddings", "generate_content_stream": "generate_content"},
}
"""Its own words for an operation, without the `a` of the asynchronous ones."""
_ASYNCHRONOUS = re.compile(r"^_?a(?=(text_)?(completion|re|embedding|gen|image|trans|speech|mod))")
_ABOUT = re.compile(r"a?(create|retrieve|cancel|list|delete|get|update|file)_.+|call_mcp_tool")
"""Calls about batches, files, stored answers, and tools: no model worked for them, unless they tell of tokens."""
_ROUTE = re.compile(r"^(converse|invoke|responses)/")
"""How LiteLLM asks for a model, before the model's name."""
_RETRIES = "hidden_params.additional_headers.x-litellm-attempted-retries"


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The calls that LiteLLM tells of."""
    return read(items(body), lambda item: event(item, who))


def event(item: Item, who: Who) -> Event:
    """One payload as a usage event. Failed attempts of a request share its id: when they began tells them apart."""
    usage = next((told for path in _USAGES if isinstance(told := at(item, path), dict)), {})
    found = values(item, NAMES) | values(usage, USAGE)
    for name, path in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        told = [number for number in (found.get(name), count(usage, path)) if number is not None]
        found[name] = max(told, default=None)  # the call's own may leave out what went through the cache
    failed = at(item, "status") == "failure"
    kind = text(item, "call_type") or ""
    if _ABOUT.fullmatch(kind) and not (found["input_tokens"] or found["output_tokens"]):
        raise NoCall(OTHER)
    began = moment(item, "startTime")
    found["latency_ms"] = lasted(began, found.get("ts"))
    found["model"] = _model(item)
    plain = _ASYNCHRONOUS.sub("", kind)
    found["operation"] = OPERATIONS.get(plain, plain) or None
    if plain == "retrieve_batch":
        found["service_tier"] = "batch"
    if not failed:
        found["status"] = 200
    elif "status" not in found:
        found["status"] = STATUS.get(text(item, "error_information.error_class") or "", NO_ANSWER)
    found["tool_calls"] = tool_calls(at(item, "response"))
    found["attempt"] = attempt(item, _RETRIES)
    found["feature"] = next((tag[8:] for tag in _tags(item) if tag.startswith("feature:")), None) or None
    own = text(item, "id")
    tried = f"{own}-{began}" if own and began else None
    found["event_id"] = identity(tried if failed else own, item)
    return used(whose(item, who, found), failed, count(item, "total_tokens"))


def _model(item: Item) -> str | None:
    """The model that served: of an Azure deployment the one behind it, where LiteLLM was told; of a batch its first."""
    provider, model = text(item, "custom_llm_provider"), text(item, "model")
    behind = text(item, "model_map_information.model_map_value.key")
    if provider in ("azure", "azure_ai") and behind and behind != at(item, "model_id"):
        model = behind
    if model is None:
        model = next((name for name in each(item, "hidden_params.batch_models") if isinstance(name, str)), None)
    return model and _ROUTE.sub("", model.removeprefix(f"{provider}/"))


def _tags(item: Item) -> list[str]:
    return [tag[:4096] for tag in each(item, "request_tags") if isinstance(tag, str)]
