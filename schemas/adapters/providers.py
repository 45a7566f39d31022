"""The bodies that providers answer with: OpenAI (chat, responses, embeddings, sound, images), Anthropic, Gemini, Bedrock.

Bare, as a stream's events (a JSON array, lines, or as they came over the wire), or as a batch's or a log's lines. None says
whose call it was; what stands in for tenant and key is yours to say. Only some say when, or have an id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from schemas.adapters.reading import (
    NO_ANSWER,
    STATUS,
    Event,
    Item,
    Names,
    NoCall,
    Reading,
    at,
    camel,
    count,
    each,
    identity,
    inclusive,
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
    "cached_input_tokens": (
        "usage.prompt_tokens_details.cached_tokens",
        "usage.input_tokens_details.cached_tokens",
        "usage.input_token_details.cached_tokens",
        "usage.prompt_cache_hit_tokens",
        "usage.cached_tokens",
    ),
    "cache_write_tokens": ("usage.prompt_tokens_details.cache_write_tokens", "usage.input_tokens_details.cache_write_tokens"),
    "audio_input_tokens": ("usage.prompt_tokens_details.audio_tokens", "usage.input_token_details.audio_tokens"),
    "reasoning_tokens": (
        "usage.completion_tokens_details.reasoning_tokens",
        "usage.output_tokens_details.reasoning_tokens",
    ),
    "audio_output_tokens": ("usage.completion_tokens_details.audio_tokens", "usage.output_token_details.audio_tokens"),
    "model": ("model",),
    "service_tier": ("service_tier",),
    "ts": ("completed_at", "created", "created_at"),
    "request_id": ("id",),
    "cost_usd": ("usage.cost",),
}
ANTHROPIC: Names = {
    "web_search_requests": ("usage.server_tool_use.web_search_requests",),
    "model": ("model",),
    "service_tier": ("usage.service_tier",),
    "request_id": ("id",),
}
_SUMMED = {
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
    "cache_write_1h_tokens": "cache_creation.ephemeral_1h_input_tokens",
    "reasoning_tokens": "output_tokens_details.thinking_tokens",
}
"""Counts of Anthropic's usage, and of each of its iterations."""
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


PART, UNANSWERED = "part of a stream", "not answered"
_TOOLS = frozenset(("function_call", "custom_tool_call", "tool_use"))
HOSTS = {
    **{"prompt_filter_results": "azure", "x_groq": "groq", "provider": "openrouter"},
    **{"usage.prompt_cache_hit_tokens": "deepseek", "usage.cost_in_usd_ticks": "x-ai"},
}
"""Who else answers as OpenAI does, by a field that only they send."""
CHATS = frozenset(("chat.completion", "chat.completion.chunk", "response", "realtime.response"))
_LOGGED: Names = {
    "cached_input_tokens": ("input.cacheReadInputTokenCount",),
    "cache_write_tokens": ("input.cacheWriteInputTokenCount",),
    "cache_write_1h_tokens": ("output.outputBodyJson.usage.cache_creation.ephemeral_1h_input_tokens",),
    "output_tokens": ("output.outputTokenCount",),
}
"""What Bedrock's log says of a call, whatever the model's maker answered."""
_STREAM = frozenset("message_delta message_stop ping content_block_start content_block_delta content_block_stop".split())
_SOUND = {
    "audio_input_tokens": ("promptTokensDetails",),
    "audio_output_tokens": ("candidatesTokensDetails", "responseTokensDetails"),
}
_BY_PROMPT = re.compile(r"(.*/)?gemini-[12]\b")
"""Models whose searches are billed once a prompt, however many there were."""
_EVENTS = frozenset("messageStart contentBlockStart contentBlockDelta contentBlockStop messageStop".split())


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's body, what it came in, and what that says of the call."""

    body: Item
    around: Item
    said: Event = field(default_factory=dict)


Part = Answer | Refused | NoCall
BATCH: Event = {"service_tier": "batch"}


def openai(answer: Answer) -> Event:
    """Everything is inclusive; where a host's total is more, the rest is thoughts that stand beside the output."""
    body = answer.body
    if "usage" not in body or at(body, "type") == "message":
        raise Refused("not a response of OpenAI", "usage")
    kind, total = text(body, "object"), count(body, "usage.total_tokens")
    found = inclusive(values(body, OPENAI), total)
    if kind == "list":
        found["operation"] = "embeddings"
    elif kind is not None:
        found["operation"] = "chat" if kind in CHATS else kind
    if total is not None and "output_tokens" in found and "input_tokens" in found:
        found["output_tokens"] = max(found["output_tokens"], total - found["input_tokens"])
    searches = sum(at(part, "type") == "web_search_call" for part in each(body, "output"))
    if "request_id" in found and "ts" in found:
        found["event_id"] = f"{found['request_id']}-{found['ts']:.0f}"  # Ollama gives one of 999 ids
    host = next((name for path, name in HOSTS.items() if at(body, path) is not None), "openai")
    return found | {"provider": host, "web_search_requests": searches or None, "tool_calls": tool_calls(body)}


def openai_answers(told: Iterator[Item | Refused]) -> Iterable[Part]:
    """Of a stream the last that tells of use; of a batch's line what was answered."""
    parts = [part if isinstance(part, Refused) else _openai_answer(part) for part in told]
    last = {_chunk(part): number for number, part in enumerate(parts) if _chunk(part)}
    return [NoCall(PART) if last.get(_chunk(part), number) != number else part for number, part in enumerate(parts)]


def _openai_answer(item: Item) -> Part:
    batched = at(item, "response.body")
    if isinstance(batched, dict):
        said = BATCH | values(item, {"status": ("response.status_code",)})
        return Answer(batched, item, said) if "usage" in batched else NoCall(UNANSWERED)
    if (text(item, "type") or "").startswith("response."):
        done = at(item, "response")
        return Answer(done, item) if isinstance(done, dict) and isinstance(at(done, "usage"), dict) else NoCall(PART)
    if at(item, "object") in ("chat.completion.chunk", "") and at(item, "usage") is None:
        return NoCall(PART)  # "" is what Azure's first one says
    return Answer(item, item)


def _chunk(part: Part) -> str | None:
    """Which stream it is a chunk of."""
    chunk = isinstance(part, Answer) and at(part.body, "object") == "chat.completion.chunk"
    return text(part.body, "id") if chunk and isinstance(part, Answer) else None


def tool_calls(answer: object) -> int | None:
    """How many calls of the caller's own tools an answer asks for; None where it asks for none, or is not there."""
    asked = [part for choice in each(answer, "choices") for part in each(choice, "message.tool_calls")]
    asked += [part for path in ("output", "content") for part in each(answer, path) if text(part, "type") in _TOOLS]
    return len(asked) or None


def anthropic(answer: Answer) -> Event:
    """`input_tokens` is what was neither read from nor written to the cache; output includes thinking.

    A compaction is billed beside the answer, and stands in `iterations` only.
    """
    body = answer.body
    if at(body, "type") != "message":
        raise Refused("not a response of Anthropic", "type")
    found = values(body, ANTHROPIC)
    sums = [at(body, "usage"), *(part for part in each(body, "usage.iterations") if at(part, "type") == "compaction")]
    for name, path in _SUMMED.items():
        found[name] = whole(*(count(part, path) for part in sums))
    by_lifetime = [count(part, f"cache_creation.ephemeral_{kept}_input_tokens") for part in sums for kept in ("5m", "1h")]
    if found["cache_write_tokens"] is None:
        found["cache_write_tokens"] = whole(*by_lifetime)
    found["input_tokens"] = _with(whole(*(count(part, "input_tokens") for part in sums)), found)
    return found | {"provider": "anthropic", "operation": "chat", "tool_calls": tool_calls(body)}


def anthropic_answers(told: Iterator[Item | Refused]) -> Iterable[Part]:
    """A stream's message with what its deltas say of the use: they count from the message's beginning."""
    parts: list[Part] = []
    begun: Item | None = None
    for item in told:
        if isinstance(item, Refused):
            parts.append(item)
            continue
        kind, message, use = text(item, "type"), at(item, "message"), at(item, "usage")
        if kind == "message_start" and isinstance(message, dict) and isinstance(at(message, "usage"), dict):
            begun = dict(message)
            parts.append(Answer(begun, item))
        elif begun is not None and kind in _STREAM:
            if isinstance(use, dict):
                begun["usage"] = begun["usage"] | {name: value for name, value in use.items() if value is not None}
            parts.append(NoCall(PART))
        elif "custom_id" in item and "result" in item:
            batched = at(item, "result.message")
            parts.append(Answer(batched, item, BATCH) if isinstance(batched, dict) else NoCall(UNANSWERED))
        else:
            parts.append(Answer(item, item))
    return parts


def gemini(answer: Answer) -> Event:
    """Cached tokens are included; prompts of tools and thoughts are told beside."""
    body = answer.body
    told = at(body, "usageMetadata")
    if not isinstance(told, dict):
        raise Refused("not a response of Gemini", "usageMetadata")
    found = values(body, GEMINI)
    prompt, total = count(told, "promptTokenCount"), count(told, "totalTokenCount")
    made = count(told, "candidatesTokenCount" if "candidatesTokenCount" in told else "responseTokenCount")
    if prompt is not None:
        found["input_tokens"] = whole(prompt, count(told, "toolUsePromptTokenCount"))
    if made is not None or total is None:
        found["output_tokens"] = whole(made, found.get("reasoning_tokens"))
    for name, paths in _SOUND.items():
        parts = [part for path in paths for part in listed(told, path) if at(part, "modality") == "AUDIO"]
        found[name] = whole(*(count(part, "tokenCount") for part in parts))
    if "embedding" in body or "embeddings" in body:
        found["operation"] = "embeddings"
    else:
        found["operation"] = "chat"
    candidates = each(body, "candidates")
    asked = [part for candidate in candidates for part in each(candidate, "content.parts") if at(part, "functionCall")]
    searches = sum(len(each(candidate, "groundingMetadata.webSearchQueries")) for candidate in candidates)
    if _BY_PROMPT.match(found.get("model") or ""):
        searches = min(searches, 1)
    return found | {"provider": "google", "tool_calls": len(asked) or None, "web_search_requests": searches or None}


def gemini_answers(told: Iterator[Item | Refused]) -> Iterable[Part]:
    """A stream's parts count from its beginning, so that the last one counts."""
    parts = [part if isinstance(part, Refused) else _gemini_answer(part) for part in told]
    for part, after in zip_longest(parts, parts[1:]):
        goes_on = isinstance(part, Answer) and isinstance(after, Answer) and _same_stream(part.body, after.body)
        yield NoCall(PART) if goes_on else part


def _gemini_answer(item: Item) -> Answer:
    batched = at(item, "response")
    body, said = (batched, BATCH) if isinstance(batched, dict) else (item, {})
    if "usage_metadata" in body:
        body = camel(body, 3)
    return Answer(body, item, said)


def _same_stream(part: Item, after: Item) -> bool:
    candidates = each(part, "candidates")
    unfinished = bool(candidates) and not any(at(candidate, "finishReason") for candidate in candidates)
    same = ("responseId", "modelVersion", "usageMetadata.promptTokenCount")
    return unfinished and all(at(part, path) == at(after, path) for path in same)


def bedrock(answer: Answer) -> Event:
    """`inputTokens` is what was neither read from nor written to the cache. A body, or Bedrock's log entry around it."""
    body, item = answer.body, answer.around
    failed = text(item, "errorCode")
    logged = at(item, "input.inputTokenCount") is not None
    if isinstance(at(body, "usage"), dict) and at(body, "usage.inputTokens") is not None:
        found = values(body, BEDROCK)
        by_lifetime = [(text(part, "ttl"), count(part, "inputTokens")) for part in listed(body, "usage.cacheDetails")]
        found["cache_write_1h_tokens"] = whole(*(number for kept, number in by_lifetime if kept == "1h"))
        found.setdefault("cache_write_tokens", whole(*(number for _, number in by_lifetime)))
        found["input_tokens"] = _with(count(body, "usage.inputTokens"), found)
        found["operation"] = "chat"
    elif logged or failed:
        found = values(item, _LOGGED)
        found["input_tokens"] = _with(count(item, "input.inputTokenCount"), found)
        embedded = at(item, "output.outputBodyJson.embedding") is not None
        found["operation"] = "embeddings" if embedded else "chat"
    elif at(body, "type") == "message":
        found = anthropic(answer)
    else:
        raise Refused("not a response of Bedrock", "usage")
    asked = [part for part in each(body, "output.message.content") if at(part, "toolUse") is not None]
    model = text(item, "modelId") or found.get("model")
    return found | {
        **{"provider": "aws", "model": model and model.rpartition("/")[2], "ts": moment(item, "timestamp")},
        "request_id": text(item, "requestId") or text(body, "ResponseMetadata.RequestId") or found.get("request_id"),
        "tool_calls": len(asked) or tool_calls(body),
        "status": STATUS.get(failed, NO_ANSWER) if failed else None,
    }


def bedrock_answers(told: Iterator[Item | Refused]) -> Iterable[Part]:
    """Of a stream its metadata; of a log entry and of a batch's line the answer in it."""
    for item in told:
        if isinstance(item, Refused):
            yield item
        elif item and item.keys() <= _EVENTS:
            yield NoCall(PART)
        else:
            bodies = (at(item, path) for path in ("modelOutput", "output.outputBodyJson", "metadata"))
            body = next((body for body in bodies if isinstance(body, dict)), item)
            yield Answer(body, item, BATCH if "modelOutput" in item else {})


def reader(
    answers: Callable[[Iterator[Item | Refused]], Iterable[Part]],
    provider: Callable[[Answer], Event],
    total: str = "usage.total_tokens",
) -> Callable[[bytes, Who, float], Reading]:
    """The adapter of a provider: the answers among what was read, and what one of them says."""

    def event(answer: Answer, who: Who, now: float) -> Event:
        found = provider(answer) | answer.said
        found["ts"] = found.get("ts") or now
        found["event_id"] = identity(found.get("event_id", found.get("request_id")), answer.around)
        failed = (found.get("status") or 200) >= 400 or found.get("status") == NO_ANSWER
        return used(whose(answer.around, who, found), failed, count(answer.body, total))

    return lambda body, who, now: read(_ended(answers(items(_lines(body)))), lambda answer: event(answer, who, now))


def _ended(parts: Iterable[Part]) -> Sequence[Part]:
    """The parts; of a stream that never says what it used the last one is refused, for a call is missing."""
    told = list(parts)
    silent = bool(told) and all(isinstance(part, NoCall) and str(part) == PART for part in told)
    return [*told[:-1], Refused("no token counts: a stream without its last part", "usage")] if silent else told


def _lines(body: bytes) -> bytes:
    """The data of server-sent events, a line each; anything else as it is."""
    if not body.lstrip().startswith((b"data:", b"event:", b"id:", b":")):
        return body
    data = (line.removeprefix(b"data:").strip() for line in body.splitlines() if line.startswith(b"data:"))
    return b"\n".join(line for line in data if line != b"[DONE]")


ANSWERS: dict[SourceName, Callable[[bytes, Who, float], Reading]] = {
    "openai": reader(openai_answers, openai),
    "anthropic": reader(anthropic_answers, anthropic),
    "gemini": reader(gemini_answers, gemini, "usageMetadata.totalTokenCount"),
    "bedrock": reader(bedrock_answers, bedrock, "usage.totalTokens"),
}


def _with(fresh: int | None, found: Event) -> int | None:
    """Fresh tokens and those that went through the cache."""
    return None if fresh is None else whole(fresh, found.get("cached_input_tokens"), found.get("cache_write_tokens"))
