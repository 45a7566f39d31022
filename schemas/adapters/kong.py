"""Kong's log entries (http-log, file-log, kafka-log) with what its AI plugins add under `ai`.

Kong tells what the provider counted. For OpenAI's format that includes cached tokens; of Anthropic's and Bedrock's cached
tokens Kong's open version tells nothing, so they are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.adapters.reading import (
    Event,
    Item,
    Names,
    NoCall,
    Reading,
    at,
    count,
    identity,
    items,
    read,
    text,
    used,
    values,
    whose,
)
from schemas.adapters.who import Who
from schemas.decode import Refused

PLUGIN: Names = {
    "input_tokens": ("usage.prompt_tokens", "usage.prompt_token"),
    "output_tokens": ("usage.completion_tokens", "usage.completion_token"),
    "cached_input_tokens": ("usage.prompt_tokens_details.cached_tokens",),
    "audio_input_tokens": ("usage.prompt_tokens_details.audio_tokens",),
    "reasoning_tokens": ("usage.completion_tokens_details.reasoning_tokens",),
    "audio_output_tokens": ("usage.completion_tokens_details.audio_tokens",),
    "provider": ("meta.provider_name",),
    "model": ("meta.response_model", "meta.request_model"),
    "requested_model": ("meta.request_model",),
    "response_cache": ("cache.cache_status",),
    "cost_usd": ("usage.cost",),
}
"""What one plugin says of its call."""
ENTRY: Names = {
    "status": ("response.status",),
    "latency_ms": ("latencies.request",),
    "request_id": ("request.id",),
    "client_ip": ("client_ip",),
    "user_agent": ("request.headers.user-agent",),
}
UNKNOWN = "UNSPECIFIED"
MOST_PLUGINS = 32
"""Of one entry: each looks at all of it."""


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The calls that Kong tells of: one for each AI plugin that made one."""
    return read(_told(body), lambda told: event(told, who))


def _told(body: bytes) -> Iterator[tuple[Item, str, Item] | Refused | NoCall]:
    for entry in items(body):
        if isinstance(entry, Refused):
            yield entry
            continue
        told = at(entry, "ai")
        plugins = {"ai-proxy": told} if isinstance(at(told, "usage"), dict) else told
        used_by = [
            (entry, name, plugin)
            for name, plugin in (plugins.items() if isinstance(plugins, dict) else ())
            if isinstance(at(plugin, "usage"), dict)
        ]
        if not used_by:
            yield NoCall("no AI plugin's usage")
        elif len(used_by) > MOST_PLUGINS:
            yield Refused(f"more than {MOST_PLUGINS} plugins", "ai")
        else:
            yield from used_by


def event(said: tuple[Item, str, Item], who: Who) -> Event:
    """What one plugin says of its call (entry, plugin, its part) as a usage event. Raises Refused."""
    entry, plugin, told = said
    meta = at(told, "meta")
    known = {name: value for name, value in meta.items() if value != UNKNOWN} if isinstance(meta, dict) else {}
    found = values(entry, ENTRY) | values(told | {"meta": known}, PLUGIN)
    began = count(entry, "started_at")
    if began is not None:
        found["ts"] = (began + found.get("latency_ms", 0.0)) / 1000
    if not found.get("cost_usd"):
        found["cost_usd"] = None  # 0 is what Kong says where it was given no prices
    request = text(entry, "request.id")
    found["event_id"] = identity(f"{request}-{plugin}" if request else None, entry, plugin)
    return used(whose(entry, who, found), found.get("status", 200) >= 400, count(told, "usage.total_tokens"))
