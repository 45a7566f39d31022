"""The adapters by the name of their source: foreign bytes -> usage events of the contract, and what was refused and why."""

from __future__ import annotations

from collections.abc import Callable

from schemas.adapters import bifrost, cloudevents, kong, litellm, otlp, providers
from schemas.adapters.reading import Reading
from schemas.adapters.who import SourceName, Who

ADAPTERS: dict[SourceName, Callable[[bytes, Who, float], Reading]] = {
    "litellm": litellm.calls,
    "otlp": otlp.calls,
    "bifrost": bifrost.calls,
    "kong": kong.calls,
    "cloudevents": cloudevents.calls,
    "openai": providers.reader(providers.openai_answers, providers.openai),
    "anthropic": providers.reader(providers.anthropic_answers, providers.anthropic),
    "gemini": providers.reader(providers.gemini_answers, providers.gemini, "usageMetadata.totalTokenCount"),
    "bedrock": providers.reader(providers.bedrock_answers, providers.bedrock, "usage.totalTokens"),
}


def usage_events(source: SourceName, body: bytes, who: Who, now: float) -> Reading:
    """What a source's bytes tell. `now` (epoch s) is the time of a call whose source does not say when it was.

    Never raises; events are what the contract accepts, JSON-ready, and hold no prompt and no answer.
    """
    return ADAPTERS[source](body, who, now)
