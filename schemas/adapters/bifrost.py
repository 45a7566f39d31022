"""Bifrost's traces, as its Kafka connector publishes them: one request a record, with its spans.

Counts are inclusive, as Bifrost prices them. The cost it tells of may be wrong by orders of magnitude: it is only compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.adapters import spans
from schemas.adapters.reading import Item, NoCall, Reading, at, bounded, items, listed, moment, text
from schemas.adapters.spans import KNOWN, OTHER, Span
from schemas.adapters.who import Who
from schemas.decode import Refused

CALLS = {"llm.call": "chat", "embedding": "embeddings", "speech": "speech", "transcription": "transcription"}
"""The kinds of span that are calls; all others are about them."""
_OPERATION = "gen_ai.operation.name"
_CALLER = ("client.address", "http.user_agent")
"""What only the root span tells."""


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The calls that Bifrost tells of, every attempt of a request its own."""
    return spans.calls(list(bounded((span for trace in items(body) for span in _spans(trace, who)), body)), who)


def _spans(trace: Item | Refused, who: Who) -> Iterator[Span | Refused | NoCall]:
    if isinstance(trace, Refused):
        yield trace
        return
    try:
        told = listed(trace, "Spans")
        if not told:
            yield NoCall(OTHER) if "RootSpan" in trace else Refused("no Spans", "Spans")
        root = at(trace, "RootSpan.Attributes")
        wanted = (*who.tenant_from, *who.key_from, *who.origin_tenant_from, *_CALLER)
        said = {name: found for name in wanted if (found := at(root, name)) is not None}
        for span in told:
            yield _span(trace, span, said)
    except Refused as refused:
        yield refused


def _span(trace: Item, span: object, root: Item) -> Span:
    own = at(span, "Attributes")
    attributes = own if isinstance(own, dict) else {}
    kind = CALLS.get(text(span, "Kind") or "")
    known = {name: value for name, value in attributes.items() if name in KNOWN and not isinstance(value, dict | list)}
    if kind is None:
        known = {}
    else:
        known = {
            **{name: root.get(name) for name in _CALLER},
            _OPERATION: kind,
        } | known
        known["bifrost.request.id"] = text(trace, "RequestID")
    return Span(
        trace=text(trace, "TraceID") or "",
        id=text(span, "SpanID") or "",
        parent=text(span, "ParentID") or "",
        start=moment(span, "StartTime"),
        end=moment(span, "EndTime"),
        failed=at(span, "Status") == "error",
        attributes=known,
        item=root | attributes,
    )
