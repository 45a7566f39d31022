"""OpenTelemetry traces, as OTLP/HTTP sends them: protobuf, or JSON (one request, or one a line as Collectors write files)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from schemas.adapters import spans
from schemas.adapters.reading import LONGEST_TEXT, Item, NoCall, Reading, at, bounded, camel, count, items, listed, text
from schemas.adapters.spans import KNOWN, Span
from schemas.adapters.who import Who
from schemas.call import Refused

_BLANK = b" \t\r\n\xef\xbb\xbf"
_FAILED = (2, "STATUS_CODE_ERROR")
_DEPTH = 10
"""Of an attribute's value in a request."""
_KINDS = ("stringValue", "intValue", "doubleValue", "boolValue")
EMPTY = "no spans"
"""What a request or a group without any is: a part as a span is, so that nobody can send more of them than of spans."""


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The calls among the spans of a request. Protobuf begins with a line break, so what looks like JSON may be it."""
    wanted = _Wanted(who)
    told: list[Item | Refused] = [Refused("neither OTLP/JSON nor OTLP/protobuf")]
    if body[:64].lstrip(_BLANK)[:1] in (b"{", b"["):
        told = list(items(body))
    if not all(isinstance(document, Refused) for document in told) or not told:
        return spans.calls(list(bounded((span for document in told for span in _of_json(document, wanted)), body)), who)
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return spans.calls([document for document in told[:1] if isinstance(document, Refused)], who)
    if body and not request.resource_spans:
        return spans.calls([Refused("no resourceSpans", "resourceSpans")], who)
    return spans.calls(list(bounded(_of_protobuf(request, wanted), body)), who)


class _Wanted:
    """The attributes that are kept of a span and its resource."""

    def __init__(self, who: Who) -> None:
        paths = (*who.tenant_from, *who.key_from, *who.origin_tenant_from)
        self._names = {
            place: {path.removeprefix(f"{place}.") for path in paths if path.startswith(f"{place}.")}
            for place in ("resource", "attributes")
        }

    def span(self, own: Iterable[tuple[str, Any]], resource: Item, **rest: Any) -> Span:
        """A span of its attributes; where its resource says the same, the resource is believed: no caller can set it."""
        attributes = self.kept("attributes", own)
        known = {name: value for name, value in (attributes | resource).items() if name in KNOWN}
        return Span(attributes=known, item={"resource": resource, "attributes": attributes}, **rest)

    def kept(self, place: str, pairs: Iterable[tuple[str, Any]]) -> Item:
        names = self._names[place]
        told = ((name, value) for name, value in pairs if value is not None and (name in KNOWN or name in names))
        return {name: value[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in told}


def _of_json(document: Item | Refused, wanted: _Wanted) -> Iterator[Span | Refused | NoCall]:
    try:
        if isinstance(document, Refused):
            raise document
        request = camel(document, _DEPTH) if "resource_spans" in document else document
        groups = listed(request, "resourceSpans")
        if not groups and request.keys() - {"resourceSpans"}:
            raise Refused("no resourceSpans", "resourceSpans")
        if not groups:
            yield NoCall(EMPTY)
        for group in groups:
            resource = wanted.kept("resource", _pairs(group, "resource.attributes"))
            scopes = listed(group, "scopeSpans") or listed(group, "instrumentationLibrarySpans")
            if not scopes:
                yield NoCall(EMPTY)
            for scope in scopes:
                told = listed(scope, "spans")
                if not told:
                    yield NoCall(EMPTY)
                for span in told:
                    yield _json_span(span, resource, wanted)
    except Refused as refused:
        yield refused


def _json_span(span: Any, resource: Item, wanted: _Wanted) -> Span | Refused:
    try:
        return wanted.span(
            _pairs(span, "attributes"),
            resource,
            trace=_hex(span, "traceId", 16),
            id=_hex(span, "spanId", 8),
            parent=_hex(span, "parentSpanId", 8),
            start=_seconds(count(span, "startTimeUnixNano")),
            end=_seconds(count(span, "endTimeUnixNano")),
            failed=at(span, "status.code") in _FAILED,
        )
    except Refused as refused:
        return refused


def _pairs(item: Any, path: str) -> Iterator[tuple[str, Any]]:
    for pair in listed(item, path):
        name, value = text(pair, "key"), at(pair, "value")
        if name and isinstance(value, dict):
            kind = next((kind for kind in _KINDS if kind in value), None)
            if kind is not None:
                yield name, count(value, kind) if kind == "intValue" else value[kind]


def _hex(span: Any, path: str, size: int) -> str:
    """An id in hex, as OTLP/JSON has it, or in Base64, as protobuf's own JSON has it; "" for what is none."""
    given = text(span, path) or ""
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", given):
        return _id(bytes.fromhex(given))
    try:
        raw = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return _id(raw) if len(raw) == size else ""


def _id(raw: bytes) -> str:
    """In hex; zeros are no id."""
    return raw.hex() if any(raw) else ""


def _of_protobuf(request: ExportTraceServiceRequest, wanted: _Wanted) -> Iterator[Span | NoCall]:
    for group in request.resource_spans:
        resource = wanted.kept("resource", map(_pair, group.resource.attributes))
        if not group.scope_spans:
            yield NoCall(EMPTY)
        for scope in group.scope_spans:
            if not scope.spans:
                yield NoCall(EMPTY)
            for span in scope.spans:
                yield wanted.span(
                    map(_pair, span.attributes),
                    resource,
                    trace=_id(span.trace_id),
                    id=_id(span.span_id),
                    parent=_id(span.parent_span_id),
                    start=_seconds(span.start_time_unix_nano),
                    end=_seconds(span.end_time_unix_nano),
                    failed=span.status.code == Status.STATUS_CODE_ERROR,
                )


def _pair(attribute: KeyValue) -> tuple[str, Any]:
    kind = attribute.value.WhichOneof("value")
    scalar = kind in ("string_value", "int_value", "double_value", "bool_value")
    return attribute.key, getattr(attribute.value, str(kind)) if scalar else None


def _seconds(nanoseconds: int | None) -> float | None:
    return nanoseconds / 1e9 if nanoseconds else None
