"""GenAI spans, whatever carried them: the names of three generations and two dialects, and which spans are calls.

`input_tokens` includes cached and cache-write tokens and `output_tokens` reasoning, in the convention and in both dialects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.adapters.reading import (
    NO_ANSWER,
    STATUS,
    Event,
    Names,
    NoCall,
    Reading,
    attempt,
    count,
    identity,
    lasted,
    read,
    text,
    used,
    values,
    whose,
)
from schemas.adapters.who import Who
from schemas.call import Refused

_USAGE, _TOKENS, _VERCEL = "gen_ai.usage", "llm.token_count", "ai.usage"
NAMES: Names = {
    "input_tokens": (
        f"{_USAGE}.input_tokens",
        f"{_USAGE}.prompt_tokens",
        "llm.usage.prompt_tokens",
        f"{_TOKENS}.prompt",
        f"{_VERCEL}.inputTokens",
        f"{_VERCEL}.promptTokens",
        f"{_VERCEL}.tokens",
        "gen_ai.response.prompt_tokens",
    ),
    "output_tokens": (
        f"{_USAGE}.output_tokens",
        f"{_USAGE}.completion_tokens",
        "llm.usage.completion_tokens",
        f"{_TOKENS}.completion",
        f"{_VERCEL}.outputTokens",
        f"{_VERCEL}.completionTokens",
        "gen_ai.response.completion_tokens",
    ),
    "cached_input_tokens": (
        f"{_USAGE}.cache_read.input_tokens",
        f"{_USAGE}.cache_read_input_tokens",
        f"{_USAGE}.prompt_token_details.cached_read_tokens",
        f"{_USAGE}.input_token_details.cached_read_tokens",
        f"{_USAGE}.prompt_tokens_details.cache_read",
        f"{_USAGE}.prompt_tokens_details.cached_tokens",
        f"{_USAGE}.details.cache_read_tokens",
        f"{_USAGE}.input_tokens.cached",
        f"{_USAGE}.cached_input_tokens",
        f"{_TOKENS}.prompt_details.cache_read",
        f"{_VERCEL}.inputTokenDetails.cacheReadTokens",
        f"{_VERCEL}.cachedInputTokens",
    ),
    "cache_write_tokens": (
        f"{_USAGE}.cache_write.input_tokens",
        f"{_USAGE}.cache_creation.input_tokens",
        f"{_USAGE}.cache_creation_input_tokens",
        f"{_USAGE}.prompt_token_details.cached_write_tokens",
        f"{_USAGE}.input_token_details.cached_write_tokens",
        f"{_USAGE}.cache_write_input_tokens",
        f"{_USAGE}.prompt_tokens_details.cache_write",
        f"{_USAGE}.details.cache_write_tokens",
        f"{_USAGE}.input_tokens.cache_write",
        f"{_TOKENS}.prompt_details.cache_write",
        f"{_VERCEL}.inputTokenDetails.cacheWriteTokens",
    ),
    "cache_write_1h_tokens": (
        f"{_USAGE}.prompt_token_details.cached_write_tokens_1h",
        f"{_USAGE}.input_token_details.cached_write_tokens_1h",
    ),
    "reasoning_tokens": (
        f"{_USAGE}.reasoning.output_tokens",
        f"{_USAGE}.reasoning_tokens",
        f"{_USAGE}.completion_token_details.reasoning_tokens",
        f"{_USAGE}.output_token_details.reasoning_tokens",
        f"{_USAGE}.completion_tokens_details.reasoning",
        f"{_USAGE}.completion_tokens_details.reasoning_tokens",
        f"{_USAGE}.details.reasoning_tokens",
        f"{_USAGE}.output_tokens.reasoning",
        f"{_TOKENS}.completion_details.reasoning",
        f"{_VERCEL}.outputTokenDetails.reasoningTokens",
        f"{_VERCEL}.reasoningTokens",
    ),
    "audio_input_tokens": (
        f"{_USAGE}.audio.input_tokens",
        f"{_USAGE}.prompt_token_details.audio_tokens",
        f"{_USAGE}.input_token_details.audio_tokens",
        f"{_TOKENS}.prompt_details.audio",
    ),
    "audio_output_tokens": (
        f"{_USAGE}.audio.output_tokens",
        f"{_USAGE}.completion_token_details.audio_tokens",
        f"{_USAGE}.output_token_details.audio_tokens",
        f"{_TOKENS}.completion_details.audio",
    ),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider"),
    "model": (
        "gen_ai.response.model",
        "llm.response.model",
        "llm.model_name",
        "embedding.model_name",
        "ai.response.model",
        "gen_ai.request.model",
        "ai.model.id",
    ),
    "requested_model": ("gen_ai.request.model", "llm.request.model"),
    "operation": ("gen_ai.operation.name", "llm.request.type", "ai.operationId"),
    "service_tier": (
        "openai.response.service_tier",
        "gen_ai.openai.response.service_tier",
        "gen_ai.response.service_tier",
    ),
    "status": ("http.response.status_code", "http.status_code", "gen_ai.error.code", "error.type"),
    "request_id": ("bifrost.request.id", "gen_ai.response.id", "ai.response.id"),
    "session_id": (
        "gen_ai.conversation.id",
        "session.id",
        "langfuse.session.id",
        "langsmith.trace.session_id",
        "traceloop.association.properties.session_id",
    ),
    "user_id": ("user.id", "enduser.id", "langfuse.user.id", "traceloop.association.properties.user_id"),
    "client_ip": ("client.address",),
    "user_agent": ("user_agent.original", "http.user_agent"),
    "environment": ("deployment.environment.name", "deployment.environment"),
    "cost_usd": ("gen_ai.usage.cost", "operation.cost", "llm.cost.total"),
}
_TOTAL = (f"{_USAGE}.total_tokens", "llm.usage.total_tokens", f"{_TOKENS}.total", f"{_VERCEL}.totalTokens")
_RESPONSE, _RETRIES, _ERROR = "gen_ai.response.id", "bifrost.retries", "error.type"
_KINDS = ("openinference.span.kind", "traceloop.span.kind", "langsmith.span.kind", "langfuse.observation.type")
_AGENT = "gen_ai.agent.name"
KNOWN = frozenset(
    {path for paths in NAMES.values() for path in paths} | {*_TOTAL, *_KINDS, _AGENT, _RESPONSE, _RETRIES, _ERROR}
)
"""The attributes that are looked at; all others, prompts and answers among them, are dropped as they are read."""
OPERATIONS = {
    **dict.fromkeys(("llm", "generation", "chat.completions", "responses"), "chat"),
    **dict.fromkeys(("completion", "text.completions"), "text_completion"),
    **{"embedding": "embeddings", "reranker": "rerank"},
    **dict.fromkeys((f"ai.{how}.dogenerate" for how in ("generatetext", "generateobject")), "chat"),
    **dict.fromkeys((f"ai.{how}.dostream" for how in ("streamtext", "streamobject")), "chat"),
    **dict.fromkeys((f"ai.{how}.doembed" for how in ("embed", "embedmany")), "embeddings"),
}
"""What older names and dialects call an operation."""
CALLS = frozenset(("chat", "generate_content", "speech", "transcription", *OPERATIONS, *OPERATIONS.values()))
ABOUT_CALLS = frozenset(
    "invoke_agent create_agent invoke_workflow plan execute_tool retrieval fetch_response"
    " agent chain tool workflow task retriever guardrail evaluator prompt parser"
    " ai.generatetext ai.streamtext ai.generateobject ai.streamobject ai.embed ai.embedmany ai.toolcall".split()
)
"""Spans around calls: usage on them is the sum of calls inside, which have spans of their own."""
NONE = "none"
"""What Spring AI says where there is nothing to say."""
AGENT, REPEATED, OTHER = "span around calls", "another span of the same call", "no model call"


@dataclass(frozen=True, slots=True)
class Span:
    """One span: ids in hex, times in epoch seconds, of its attributes the known ones; `item` is where `Who` looks."""

    trace: str
    id: str
    parent: str
    start: float | None
    end: float | None
    failed: bool
    attributes: dict[str, Any]
    item: dict[str, Any]

    @property
    def response(self) -> str | None:
        named = text(self.attributes, _RESPONSE)
        return None if named == NONE else named

    @property
    def tells_of_use(self) -> bool:
        return any(
            self.attributes.get(path) is not None for name in NAMES if name.endswith("_tokens") for path in NAMES[name]
        )

    @property
    def failure(self) -> bool:
        return self.failed or self.attributes.get(_ERROR) is not None


def calls(spans: Sequence[Span | Refused | NoCall], who: Who) -> Reading:
    """The calls among the spans of one payload, each once: an agent's sums and second spans of a call are passed over."""
    return read(_once(spans), lambda span: event(span, who))


def event(span: Span, who: Who) -> Event:
    """The span of a call as a usage event. Raises Refused."""
    found = values(span.attributes, _told(span))
    said = str(found.get("operation") or next(filter(None, map(span.attributes.get, _KINDS)), "")).lower()
    found["operation"] = OPERATIONS.get(said, found.get("operation"))
    found["ts"] = span.end
    found["latency_ms"] = lasted(span.start, span.end)
    if span.failure and "status" not in found:
        found["status"] = STATUS.get(str(span.attributes.get(_ERROR)).rpartition(".")[2], NO_ANSWER)
    found["attempt"] = attempt(span.attributes, _RETRIES)
    found["trace_id"] = span.trace or None
    total = next((number for path in _TOTAL if (number := count(span.attributes, path)) is not None), None)
    named = f"{span.trace}-{span.response or span.id}" if span.response or span.id else None
    found["event_id"] = identity(named, span.trace, span.parent, span.start, span.end, span.attributes, span.item)
    return used(whose(span.item, who, found), span.failure, total)


def _told(span: Span) -> Names:
    """The names that stand on a span: most spans have few of all that we know."""
    there = {name for name, value in span.attributes.items() if value != NONE}
    return {name: told for name, paths in NAMES.items() if (told := tuple(path for path in paths if path in there))}


def _once(spans: Sequence[Span | Refused | NoCall]) -> Iterator[Span | Refused | NoCall]:
    """The spans, those that are no call of their own as NoCall. A call tells of its use, or that it failed."""
    kinds = [_kind(span) if isinstance(span, Span) else "" for span in spans]
    telling = [
        span for span, kind in zip(spans, kinds, strict=True) if isinstance(span, Span) and kind == "call" and _tells(span)
    ]
    repeated = _repeated(telling, [span for span in spans if isinstance(span, Span)])
    for span, kind in zip(spans, kinds, strict=True):
        if not isinstance(span, Span):
            yield span
        elif kind != "call":
            yield NoCall(kind)
        else:
            yield NoCall(REPEATED) if id(span) in repeated else span


def _tells(span: Span) -> bool:
    return span.tells_of_use or span.failure


def _kind(span: Span) -> str:
    names = [value.lower() for path in (*_KINDS, *NAMES["operation"]) if isinstance(value := span.attributes.get(path), str)]
    if any(name in ABOUT_CALLS for name in names):
        return AGENT
    if not names and _AGENT in span.attributes and not any(path in span.attributes for path in NAMES["model"]):
        return AGENT
    return "call" if span.tells_of_use or any(name in CALLS for name in names) else OTHER


def _repeated(telling: list[Span], spans: list[Span]) -> set[int]:
    """Which spans (by `id()`) say again what another says: of one response the fullest stays, of nested calls the inner.

    Two nested spans that name different responses are two calls; what failed says nothing again of what was used.
    """
    fullest: dict[tuple[str, str], Span] = {}
    for span in telling:
        key = (span.trace, span.response or span.id or str(id(span)))
        if key not in fullest or len(span.attributes) > len(fullest[key].attributes):
            fullest[key] = span
    repeated = {id(span) for span in telling} - {id(span) for span in fullest.values()}
    calls_by_id = {(span.trace, span.id): span for span in fullest.values() if span.id}
    parents = {(span.trace, span.id): (span.trace, span.parent) for span in spans if span.id}
    seen: set[tuple[str, str]] = set()
    for span in fullest.values():
        outer = (span.trace, span.parent)
        while outer in parents and outer not in calls_by_id and outer not in seen:
            seen.add(outer)
            outer = parents[outer]
        call = calls_by_id.get(outer)
        if call is None or call is span or (call.tells_of_use and not span.tells_of_use):
            continue
        if not (span.response and call.response and span.response != call.response):
            repeated.add(id(call))
    return repeated
