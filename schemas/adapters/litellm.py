"""LiteLLM's `StandardLoggingPayload`: what its callback `generic_api` sends, as a JSON array, NDJSON or one object.

`prompt_tokens` includes cached and cache-write tokens for every provider, `completion_tokens` includes reasoning.
"""

from __future__ import annotations

from typing import Any

from schemas.adapters.reading import Event, Item, Names, Reading, at, count, identity, items, read, text, used, values, whose
from schemas.adapters.who import Who

_USAGE = "metadata.usage_object"
_INPUT, _OUTPUT = f"{_USAGE}.prompt_tokens_details", f"{_USAGE}.completion_tokens_details"
NAMES: Names = {
    "ts": ("endTime",),
    "input_tokens": ("prompt_tokens",),
    "output_tokens": ("completion_tokens",),
    "cached_input_tokens": (f"{_INPUT}.cached_tokens", f"{_USAGE}.cache_read_input_tokens"),
    "cache_write_tokens": (
        f"{_INPUT}.cache_write_tokens",
        f"{_INPUT}.cache_creation_tokens",
        f"{_USAGE}.cache_creation_input_tokens",
    ),
    "cache_write_1h_tokens": (f"{_INPUT}.cache_creation_token_details.ephemeral_1h_input_tokens",),
    "audio_input_tokens": (f"{_INPUT}.audio_tokens",),
    "reasoning_tokens": (f"{_OUTPUT}.reasoning_tokens",),
    "audio_output_tokens": (f"{_OUTPUT}.audio_tokens",),
    "web_search_requests": (f"{_USAGE}.server_tool_use.web_search_requests", f"{_INPUT}.web_search_requests"),
    "provider": ("custom_llm_provider",),
    "model": ("model",),
    "requested_model": ("model_group",),
    "operation": ("call_type",),
    "service_tier": (f"{_USAGE}.service_tier", "response.service_tier", "cost_breakdown.service_tier"),
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
    **dict.fromkeys(("completion", "acompletion", "anthropic_messages"), "chat"),
    **dict.fromkeys(("embedding", "aembedding"), "embeddings"),
    **dict.fromkeys(("text_completion", "atext_completion"), "text_completion"),
}
_RETRIES = "hidden_params.additional_headers.x-litellm-attempted-retries"


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The calls that LiteLLM tells of."""
    return read(items(body), lambda item: event(item, who))


def event(item: Item, who: Who) -> Event:
    """One payload as a usage event. Failed attempts of a request share its id: when they began tells them apart."""
    found = values(item, NAMES)
    failed = at(item, "status") == "failure"
    began, provider = at(item, "startTime"), text(item, "custom_llm_provider")
    if isinstance(began, float) and "ts" in found and found["ts"] >= began:
        found["latency_ms"] = (found["ts"] - began) * 1000
    if provider and "model" in found:
        found["model"] = found["model"].removeprefix(f"{provider}/")
    if "operation" in found:
        found["operation"] = OPERATIONS.get(found["operation"], found["operation"])
    if not failed:
        found["status"] = 200
    retries = count(item, _RETRIES)
    found["attempt"] = None if retries is None else retries + 1
    found["feature"] = next((tag[8:] for tag in _tags(item) if tag.startswith("feature:")), None) or None
    own = text(item, "id")
    found["event_id"] = identity(f"{own}-{began}" if own and failed else own, item)
    return used(whose(item, who, found), failed, count(item, "total_tokens"))


def _tags(item: Item) -> list[str]:
    tags: Any = at(item, "request_tags")
    return [tag[:4096] for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
