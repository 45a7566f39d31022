"""What adapters share: foreign bytes to items, an item to a usage event by a table of names, and what became of the rest."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from schemas.adapters.who import Who
from schemas.call import Refused, convert, json_of
from schemas.usage import LATEST_S, SHOWN, UsageEvent, bounds

T = TypeVar("T")
Item = dict[str, Any]
Event = dict[str, Any]
Names = Mapping[str, tuple[str, ...]]
"""A field of the usage event -> the paths in an item where it may stand; the first one that says something counts."""

LONGEST_NAME, LONGEST_TEXT = (bounds(name)["maxLength"] for name in ("event_id", "user_agent"))
LONGEST_TIME = 64
FEWEST_PARTS, SHORTEST_PART = 1_000, 64
"""No call and no span is told of in fewer bytes."""
ALSO = {
    "service_tier": {
        **{"default": "standard", "on_demand": "standard"},
        **{"on_demand_flex": "flex", "on_demand_priority": "priority"},
    },
    "response_cache": {"true": "hit", "false": "miss", "refresh": "miss"},
}
"""What sources say besides the contract's own words."""
PROVIDERS = {
    **dict.fromkeys(("aws.bedrock", "bedrock", "bedrock_converse", "amazon-bedrock", "aws_bedrock"), "aws"),
    **dict.fromkeys(("azure.ai.openai", "azure.ai.inference", "az.ai.openai", "az.ai.inference"), "azure"),
    **dict.fromkeys(("azure_ai", "azure_openai", "azure-openai"), "azure"),
    **dict.fromkeys(("gcp.gemini", "gcp.vertex_ai", "gcp.vertex.agent", "gcp.gen_ai", "google.vertex"), "google"),
    **dict.fromkeys(("gemini", "vertex_ai", "vertex_ai_beta", "vertexai", "google_genai"), "google"),
    **{"text-completion-openai": "openai", "cohere_chat": "cohere"},
    **dict.fromkeys(("x_ai", "xai"), "x-ai"),
    **{"mistral_ai": "mistral", "mistralai": "mistral", "moonshot_ai": "moonshotai", "moonshot": "moonshotai"},
    **{"fireworks_ai": "fireworks", "together_ai": "together"},
}
"""A provider under the one name that prices and overrides know it by."""
_ENDPOINT = re.compile(r"\.(chat|responses|completions?|embeddings?|messages|generative-ai|image|speech|transcription)$")
"""What Vercel's AI SDK says behind the provider's name."""
STATUS = {
    **{"BadRequestError": 400, "AuthenticationError": 401, "PermissionDeniedError": 403, "NotFoundError": 404},
    **{"RateLimitError": 429, "InternalServerError": 500, "ServiceUnavailableError": 503, "OverloadedError": 529},
    **{"Timeout": 408, "APITimeoutError": 408, "ContextWindowExceededError": 400, "ContentPolicyViolationError": 400},
    **{"ValidationException": 400, "AccessDeniedException": 403, "ThrottlingException": 429},
    **{"ModelTimeoutException": 408, "ServiceUnavailableException": 503, "InternalServerException": 500},
}
"""What clients and Bedrock call an HTTP status."""
NO_ANSWER = 0
"""The status of a call that failed, and nobody says how."""
_SHOWN = re.compile(SHOWN)
_SECRET = re.compile(r"(?i)(bearer\s|sk-|pk-|gsk_|xai-|aiza|hf_)")


class NoCall(Exception):
    """What was read is no call of its own, and why."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was refused: why, at which field, and as which part of what was read (from 1). Never its content."""

    reason: str
    field: str
    part: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What an adapter made of some bytes: events that the contract accepts, calls refused, and what is no call."""

    events: list[Event]
    refused: list[Refusal]
    passed: Counter[str] = field(default_factory=Counter)


def read(parts: Iterable[Any], event: Callable[[Any], Event]) -> Reading:
    """Every part judged: `event` makes a usage event of it, or raises Refused or NoCall. A part may be such an error."""
    reading = Reading([], [])
    for number, part in enumerate(parts, 1):
        try:
            if isinstance(part, Exception):
                raise part
            found = {name: value for name, value in event(part).items() if value is not None}
            convert(found)
            reading.events.append(found)
        except Refused as refused:
            reading.refused.append(Refusal(refused.reason, refused.field, number))
        except NoCall as passed:
            reading.passed[str(passed)] += 1
    return reading


def items(body: bytes) -> Iterator[Item | Refused]:
    """The objects of a JSON document, of a JSON array, or of NDJSON."""
    documents = _documents(body.removeprefix(b"\xef\xbb\xbf"))
    for item in bounded((item for found in documents for item in (found if isinstance(found, list) else [found])), body):
        yield item if isinstance(item, dict | Refused) else Refused("not a JSON object")


def bounded(parts: Iterable[T], body: bytes) -> Iterator[T | Refused]:
    """No more parts than a body can tell of in earnest; the rest of what is made to cost us much is one refused part."""
    most = FEWEST_PARTS + len(body) // SHORTEST_PART
    for number, part in enumerate(parts):
        if number == most:
            yield Refused(f"more than {most} parts: the rest was not looked at")
            return
        yield part


def _documents(body: bytes) -> Iterator[Any]:
    try:
        yield json_of(body)
        return
    except Refused as refused:
        whole = refused
    lines = [line for line in body.splitlines() if line.strip()]
    if not any(isinstance(_line(line), dict | list) for line in lines):
        yield whole
        return
    yield from map(_line, lines)


def _line(line: bytes) -> Any:
    try:
        return json_of(line)
    except Refused as refused:
        return refused


def at(item: Any, path: str) -> Any:
    """What stands at a dotted path, None where nothing does; a name on the way may hold dots itself."""
    if not isinstance(item, dict):
        return None
    found = item.get(path)
    dot = path.find(".")
    while found is None and dot >= 0:
        if path[:dot] in item:
            found = at(item[path[:dot]], path[dot + 1 :])
        dot = path.find(".", dot + 1)
    return found


def listed(item: Any, path: str) -> list[Any]:
    """The list at a path, empty where there is none. Raises Refused where something else stands there."""
    found = at(item, path)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Refused("not a list", path)
    return found


def each(item: Any, path: str) -> list[Any]:
    """What the list at a path holds; nothing where there is no list."""
    found = at(item, path)
    return found if isinstance(found, list) else []


def camel(item: Any, depth: int) -> Any:
    """The item with `names_like_this` as `namesLikeThis`, so many levels deep."""
    if depth and isinstance(item, dict):
        return {
            re.sub("_([a-z])", lambda letter: letter[1].upper(), name): camel(part, depth - 1) for name, part in item.items()
        }
    return [camel(part, depth - 1) for part in item] if depth and isinstance(item, list) else item


def count(item: Any, path: str) -> int | None:
    """The count at a path, a number or its digits. Raises Refused for what is no count: a guess would be wrong dollars."""
    found = at(item, path)
    if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) < 20:
        found = int(found)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if found is None or (type(found) is int and 0 <= found < 1 << 63):
        return found
    raise Refused("not a count", path)


def amount(item: Any, path: str) -> float | None:
    """The number at a path; what is none, or out of all bounds, says nothing."""
    found = at(item, path)
    if isinstance(found, str) and len(found) <= LONGEST_TIME:
        try:
            found = float(found)
        except ValueError:
            return None
    return float(found) if type(found) in (int, float) and 0 <= found <= 1e12 else None


def text(item: Any, path: str) -> str | None:
    """The text at a path, cut to the longest that is kept; numbers are texts too, nothing else is."""
    found = at(item, path)
    if type(found) is int and abs(found) < 1 << 64:
        found = str(found)
    return found[:LONGEST_TEXT] if isinstance(found, str) and found else None


def moment(item: Any, path: str) -> float | None:
    """The time at a path in epoch seconds: a number, or RFC 3339 (UTC where it names no zone)."""
    found = at(item, path)
    if isinstance(found, str) and len(found) <= LONGEST_TIME and not found.replace(".", "", 1).isdecimal():
        try:
            when = datetime.fromisoformat(found)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    seconds = amount(item, path)
    return seconds if seconds is None or seconds <= LATEST_S else None


def _status(item: Any, path: str) -> int | None:
    found = text(item, path)
    return int(found) if found and re.fullmatch("[1-9][0-9]{2}", found) else None


def _choice(words: dict[str, str]) -> Callable[[Any, str], str | None]:
    def choice(item: Any, path: str) -> str | None:
        found = at(item, path)
        return words.get(str(found).lower()) if isinstance(found, str | bool) else None

    return choice


def _kind(name: str) -> Callable[[Any, str], Any]:
    bound = bounds(name)
    if "enum" in bound:
        return _choice({word: word for word in bound["enum"]} | ALSO.get(name, {}))
    kinds: dict[str, Callable[[Any, str], Any]] = {"integer": count, "number": amount, "string": text}
    return kinds[bound["type"]]


_KINDS = {name: _kind(name) for name in UsageEvent.model_fields} | {"ts": moment, "status": _status}
_OF_USE = {name for name in UsageEvent.model_fields if name.endswith("_tokens")} | {"web_search_requests", "cost_usd"}


def values(item: Any, names: Names) -> Event:
    """The fields that the item tells of. Raises Refused for a count that is none."""
    found = {}
    for name, paths in names.items():
        for path in paths:
            value = _KINDS[name](item, path)
            if value is not None:
                found[name] = value
                break
    if "provider" in found:
        named = _ENDPOINT.sub("", found["provider"].lower())
        found["provider"] = PROVIDERS.get(named, named)
    return found


def whose(item: Any, who: Who, event: Event) -> Event:
    """The event with whose it is. Raises Refused where neither the item nor `who` names a tenant and a key."""
    said: Event = {}
    for name, paths, otherwise in (("tenant", who.tenant_from, who.tenant), ("key_id", who.key_from, who.key_id)):
        said[name] = next((found for path in paths if (found := text(item, path))), otherwise)
        if said[name] is None:
            tried = f"none of {', '.join(paths)} is set" if paths else "this source names none"
            raise Refused(f"no {name}: {tried}, and none stands in", name)
    if who.tenant_only and said["tenant"] != who.tenant:
        raise Refused("not the tenant that this producer may write", "tenant")
    if _SECRET.match(said["key_id"]):
        said["key_id"] = hashlib.sha256(said["key_id"].encode()).hexdigest()
    said["origin_tenant"] = next((found for path in who.origin_tenant_from if (found := text(item, path))), None)
    user, salt = event.get("user_id"), who.user_salt
    said["user_id"] = hashlib.blake2b(user.encode(), digest_size=16, key=salt.encode()).hexdigest() if user and salt else None
    return event | said | {"model": event.get("model") or who.model}


def used(event: Event, failed: bool = False, total: int | None = None) -> Event:
    """The event with its counts settled.

    A hit in the gateway's own cache used nothing at the provider, whatever the answer once took; a call that failed and
    tells of no tokens used none. An output that is not told is what the total leaves; embeddings and ranks have none.
    """
    told = [event.get("input_tokens"), event.get("output_tokens")]
    if event.get("response_cache") == "hit" or (failed and told == [None, None]):
        rest = {name: value for name, value in event.items() if name not in _OF_USE}
        return rest | {"input_tokens": 0, "output_tokens": 0}
    only_input = event.get("operation") in ("embeddings", "rerank")
    if only_input and told == [None, None] and total is not None:
        return event | {"input_tokens": total, "output_tokens": 0}
    if told == [None, None]:
        raise Refused("no token counts", "input_tokens")
    if told[1] is None and told[0] is not None:
        if total is not None and total >= told[0]:
            return event | {"output_tokens": total - told[0]}
        if only_input:
            return event | {"output_tokens": 0}
    return inclusive(event, total)


def inclusive(event: Event, total: int | None) -> Event:
    """The event with what its total shows to stand beside a count, not in it: cached tokens, reasoning, or both."""
    given, made = event.get("input_tokens"), event.get("output_tokens")
    if given is None or made is None or total is None or total <= given + made:
        return event
    cached = whole(event.get("cached_input_tokens"), event.get("cache_write_tokens")) or 0
    reasoning = event.get("reasoning_tokens") or 0
    for more_input, more_output in ((cached, 0), (0, reasoning), (cached, reasoning)):
        if total == given + made + more_input + more_output:
            return event | {"input_tokens": given + more_input, "output_tokens": made + more_output}
    return event


def identity(given: object, *otherwise: object) -> str:
    """An id: the one that was given, where it is one; else a stable one of all that a source says of this call.

    Neither white space, nor the order of names, nor what else came in the body changes it.
    """
    if isinstance(given, str) and len(given) <= LONGEST_NAME and _SHOWN.fullmatch(given):
        return given
    return "d-" + hashlib.blake2b(msgspec.json.encode((given, *otherwise), order="sorted"), digest_size=16).hexdigest()


def lasted(began: float | None, ended: float | None) -> float | None:
    """Milliseconds between two times in epoch seconds; None where one is not known, or the second lies before the first."""
    return None if began is None or ended is None or ended < began else (ended - began) * 1000


def attempt(item: Any, path: str) -> int | None:
    """Which attempt it is, where a path tells how often it was tried again. Raises Refused."""
    retries = count(item, path)
    return None if retries is None else retries + 1


def whole(*counts: int | None) -> int | None:
    """The sum of the counts that are known; None where none is."""
    known = [number for number in counts if number is not None]
    return sum(known) if known else None
