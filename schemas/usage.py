"""The usage event: the wire contract of one LLM call, and the one home of its names, kinds and bounds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_COUNT = 2**31 - 1
LATEST_S = 4_102_444_800
"""2100-01-01: no call is later."""
SHOWN = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+$(?!\n)"
"""No control characters and no bidi controls: these texts are shown to people."""

Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=SHOWN)]
Text = Annotated[str, Field(strict=True, max_length=4096)]
Hex64 = Annotated[str, Field(strict=True, min_length=1, max_length=16, pattern=r"^[0-9a-fA-F]+$(?!\n)")]
Seconds = Annotated[float, Field(strict=True, ge=0, le=LATEST_S, allow_inf_nan=False)]
Amount = Annotated[float, Field(strict=True, ge=0, le=1e12, allow_inf_nan=False)]


class UsageEvent(BaseModel):
    """One LLM call, as a gateway or SDK reports it (JSON). Unknown fields are dropped; absent means unknown, never 0.

    Counts are inclusive (OpenTelemetry GenAI): `input_tokens` includes cached and cache-write, `output_tokens` includes
    reasoning; parts over their total are refused. Texts that a caller can choose (user agent, session, user ...) are
    bounded in length only, so that nobody hides a call from us by sending an odd one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", regex_engine="python-re")

    event_id: Name
    ts: Seconds = Field(description="completion, epoch seconds")
    tenant: Name
    key_id: Name = Field(description="never the secret")
    model: Name = Field(description="served")
    input_tokens: Count
    output_tokens: Count

    provider: Name | None = None
    requested_model: Text | None = None
    operation: Text | None = None
    cached_input_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    cache_write_1h_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    audio_input_tokens: Count | None = None
    audio_output_tokens: Count | None = None
    retrieved_tokens: Count | None = None
    estimated_input_tokens: Count | None = None
    web_search_requests: Count | None = None
    tool_calls: Count | None = None
    service_tier: Literal["standard", "batch", "flex", "priority"] | None = None
    response_cache: Literal["hit", "miss", "bypass"] | None = None

    status: Annotated[int, Field(strict=True, ge=0, le=999)] | None = None
    latency_ms: Amount | None = None
    queue_ms: Amount | None = None
    request_id: Text | None = None
    attempt: Count | None = None
    session_id: Text | None = None
    trace_id: Text | None = None
    outcome: Literal["ok", "bad"] | None = None

    user_id: Text | None = None
    client_ip: Text | None = None
    asn: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)] | None = None
    country: Text | None = None
    user_agent: Text | None = None
    feature: Text | None = None
    environment: Text | None = None
    experiment: Text | None = None
    variant: Text | None = None
    origin_tenant: Text | None = None

    prompt_fingerprint: Hex64 | None = None
    prompt_simhash: Hex64 | None = None
    cost_usd: Amount | None = None
    arrival_ts: Seconds | None = None

    @model_validator(mode="after")
    def _parts_within_totals(self) -> UsageEvent:
        check_parts(self)
        return self


def check_parts(call: Any) -> None:
    """Raises ValueError where the parts of a token count exceed their total; `call` has the fields of UsageEvent."""
    cached, write = call.cached_input_tokens or 0, call.cache_write_tokens or 0
    if cached + write > call.input_tokens:
        raise ValueError("cached_input_tokens + cache_write_tokens exceed input_tokens")
    total = call.input_tokens - cached if call.cache_write_tokens is None else write
    if (call.cache_write_1h_tokens or 0) > total:
        raise ValueError("cache_write_1h_tokens exceed their total")
    if (call.audio_input_tokens or 0) > call.input_tokens:
        raise ValueError("audio_input_tokens exceed input_tokens")
    if max(call.reasoning_tokens or 0, call.audio_output_tokens or 0) > call.output_tokens:
        raise ValueError("reasoning_tokens or audio_output_tokens exceed output_tokens")


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a usage event."""
    return UsageEvent.model_json_schema()


def bounds(name: str) -> dict[str, Any]:
    """The JSON Schema of one field's value, `null` left out."""
    field: dict[str, Any] = schema()["properties"][name]
    return next((choice for choice in field.get("anyOf", ()) if choice.get("type") != "null"), field)


if __name__ == "__main__":
    Path("docs/usage_event.schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
