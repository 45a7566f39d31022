"""CloudEvents with token counts in `data`, as OpenMeter takes them: structured, batch (a JSON array) or NDJSON.

`data` may use the usage event's own names or OpenAI's; `input_tokens` includes cached tokens, as everywhere. An event
that counts one side only (`{"tokens": 12, "type": "input" | "output"}`) is a call of that side, and no attempt of the
other.
"""

from __future__ import annotations

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
    moment,
    read,
    text,
    used,
    values,
    whose,
)
from schemas.adapters.who import Who
from schemas.call import Refused, json_of
from schemas.usage import UsageEvent

OURS = {"event_id", "ts", "tenant", "key_id", "origin_tenant", "arrival_ts"}
"""What `data` has no say in."""
ALSO: Names = {
    **{
        name: (*paths, *(f"usage.{path}" for path in paths))
        for name, paths in {
            "input_tokens": ("prompt_tokens",),
            "output_tokens": ("completion_tokens",),
            "cached_input_tokens": ("prompt_tokens_details.cached_tokens",),
            "reasoning_tokens": ("completion_tokens_details.reasoning_tokens",),
        }.items()
    },
    "cost_usd": ("cost",),
}
NAMES: Names = {name: (name, *ALSO.get(name, ())) for name in UsageEvent.model_fields if name not in OURS}
SIDES = {"input": "input_tokens", "system": "input_tokens", "output": "output_tokens"}


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The calls among the events; one without token counts is no call."""
    return read(items(body), lambda item: event(item, who, now))


def event(item: Item, who: Who, now: float) -> Event:
    """One CloudEvent as a usage event. Raises Refused, NoCall."""
    if at(item, "specversion") is None:
        raise Refused("not a CloudEvent", "specversion")
    if "data_base64" in item:
        raise Refused("data is not JSON", "data_base64")
    data = at(item, "data")
    if isinstance(data, str):
        data = json_of(data.encode(errors="replace"))
    found = values(data, NAMES)
    side = SIDES.get(text(data, "type") or "")
    if side is not None and "input_tokens" not in found and "output_tokens" not in found:
        found |= dict.fromkeys(SIDES.values(), 0) | {side: count(data, "tokens"), "request_id": None}
    if not any(name in found for name in SIDES.values()) and not any(at(data, name) for name in ("tokens", "total_tokens")):
        raise NoCall("no token counts in data")
    found["ts"] = moment(item, "time") if "time" in item else now
    source, own = text(item, "source"), text(item, "id")
    found["event_id"] = identity(f"{source} {own}" if source and own else None, item)
    return used(whose(item, who, found), total=count(data, "total_tokens"))
