"""Hostile payloads, and what must hold whatever the bytes: shared by the tests of the corpus and by the fuzzer."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import fields
from typing import Any

import msgspec

from schemas.adapters import native
from schemas.adapters.reading import Reading
from schemas.adapters.sources import usage_events
from schemas.adapters.who import SOURCES
from schemas.batch import Batch
from schemas.call import convert
from schemas.decode import Decoder, parse, split
from schemas.scan import FIELDS, MAX_LINE
from schemas.usage import UsageEvent
from stream.intake import Source
from tests.foreign import CAPTURED, NOW, PAYLOADS, SECRET_TEXT, TELLERS, Truth, body, who
from tests.test_decode import GOOD, all_three_agree_on

INTAKE: tuple[Source, ...] = ("native", *SOURCES)
LONGEST_REASON = 200
USUAL = Truth(1_000, 500, 30, 70, 90, 10, frozenset(("cached", "write", "write_1h", "reasoning")))
WHOLE: dict[str, Any] = GOOD | {
    **dict.fromkeys(FIELDS[len(GOOD) :], 1),
    **{"provider": "openai", "requested_model": "openai/gpt-4o", "operation": "chat", "service_tier": "flex"},
    **{
        "response_cache": "miss",
        "request_id": "q-1",
        "session_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "trace_id": "t-1",
        "outcome": "ok",
    },
    **{"user_id": "u-1", "client_ip": "203.0.113.7", "country": "DE", "user_agent": "app/1", "feature": "search"},
    **{"environment": "prod", "experiment": "e", "variant": "b", "origin_tenant": "o-1"},
    **{"prompt_fingerprint": "00ff00ff00ff00ff", "prompt_simhash": "AB12"},
}
"""An event that tells of everything."""

FRAGMENTS = (
    *(b"null", b"true", b"false", b"0", b"-0", b"-1", b"1", b"5.0", b"1.5", b"1e0", b"1E+2", b"-1e-1", b"01", b"+1", b".5"),
    *(b"NaN", b"Infinity", b"-Infinity", b"nan", b"1e999", b"-1e999", b"1e-999", b"1e308", b"0x1f", b"1_000", b"1.", b"1e"),
    *(b"2147483647", b"2147483648", b"4294967296", b"9007199254740993", b"9223372036854775808", b"18446744073709551616"),
    *(b"9" * 400, b"0." + b"9" * 400, b"4102444800", b"4102444801", b"-62135596800", b"253402300799", b"1e12", b"1e12000"),
    *(b'""', b'" "', b'"5"', b'"-5"', b'"1e3"', b'"NaN"', b'"true"', b'"1_0"', b'"\xd9\xa1\xd9\xa2"', b'"\xef\xbc\x95"'),
    *(b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:59.999999999Z"', b'"9999-12-31T23:59:59-23:59"', b'"2026-02-30"'),
    *(b'"0001-01-01T00:00:00+23:59"', b'"20260101"', b'"2026-W01-1"', b'"24:00"'),
    *(b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\u005cu0041"', b'"\\x"', b'"\\u12"', b'"\\'),
    *(b'"\x00"', b'"\x1f"', b'"\x7f"', b'"\xc2\x85"', b'"\xff\xfe"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"'),
    *(b'"\xe2\x80\xaemoc"', b'"\xe2\x81\xa6x"', b'"\xef\xbb\xbf"', b'"\xe2\x80\xa8"', b'"a\\nb"', b'"a\rb"', b'"\tx"'),
    *(b'"sk-live-0123456789abcdef"', b'"Bearer CANARY"', b'"CANARY"', b'"__proto__"', b'"../../etc/passwd"'),
    *(b'"' + b"x" * size + b'"' for size in (256, 257, 4_096, 4_097, 20_000)),
    *(b'"' + "\N{MAN}".encode() * size + b'"' for size in (256, 257, 4_097)),
    *(
        b"[]",
        b"[[]]",
        b"[1]",
        b"[null]",
        b"{}",
        b'{"":0}',
        b'{"__proto__":{"CANARY":1}}',
        b'{"a":1,"a":2}',
        b"[{}]" + b" " * 9,
    ),
    *(b"[" * 500 + b"]" * 500, b'{"a":' * 500 + b"1" + b"}" * 500, b"[" * 2_000 + b"]" * 2_000, b"[" * 2_000),
    *(b"", b" ", b",", b"}", b"]", b'"', b":", b"1 1", b'1,"CANARY":2', b"1}{", b"/*x*/1", b"'1'", b"undefined"),
)
"""What may stand where a value of JSON stands."""

RAW = (
    *(b"", b" ", b"\x00", b"null", b"7", b'"x"', b"[]", b"[[]]", b"{}", b"NaN", b"1e999", b"\xff\xfe", b"\xfe\xff\x00{"),
    *(b"\xef\xbb\xbf{}", b"\xef\xbb\xbf\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32"), b"{}\n" * 50),
    *(b'{"a":1,"a":2}', b'"\\ud800"', b"1" * 6_000, b"[" * 100_000, b'{"a":' * 100_000, b'{"__proto__":{}}', b"{}{}"),
    *(b"\r" * 999, b"\n" * 999, b"\x1f\x8b\x08\x00", b"\x0a\xff\xff\xff\xff\x0f", b"\xe2\x80\xa8", b"\x0c{}", b'{"a"\x00:1}'),
)
"""What is no call, whoever is said to have sent it."""


def field(number: int, value: bytes | int, wire: int | None = None) -> bytes:
    """A field of protobuf's wire format."""
    kind = wire if wire is not None else 0 if isinstance(value, int) else 2
    return _varint(number << 3 | kind) + (
        _varint(value) if isinstance(value, int) else _varint(len(value)) * (kind == 2) + value
    )


def _varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + _varint(value >> 7) if value > 127 else bytes([value])


def spans(*attributes: bytes, before: bytes = b"", times: int = 1) -> bytes:
    """An OTLP request of spans with these attributes (encoded KeyValues); `before` stands ahead of them in each span."""
    span = before + b"".join(field(9, attribute) for attribute in attributes)
    return field(1, field(2, field(2, span) * times))


def nested(depth: int) -> bytes:
    """An attribute whose value is an array in an array, so many deep."""
    value = field(1, b"x")
    lengths = []
    size = len(value)
    for _ in range(depth):
        inner = b"\x0a" + _varint(size)
        outer = b"\x2a" + _varint(size + len(inner))
        lengths.append(outer + inner)
        size += len(inner) + len(outer)
    return field(1, b"gen_ai.prompt") + field(2, b"".join(reversed(lengths)) + value)


def counted(name: str, value: bytes) -> bytes:
    return field(1, name.encode()) + field(2, value)


_USED = (counted("gen_ai.usage.input_tokens", field(3, 7)), counted("gen_ai.usage.output_tokens", field(3, 1)))
PROTOBUF = (
    spans(*_USED),
    spans(*_USED, before=field(1, b"x" * 3) + field(2, b"y" * 99)),
    spans(*_USED, before=field(7, b"\xff" * 8, 1) + field(8, b"\xff" * 8, 1)),
    spans(*_USED, before=field(99, b"CANARY") + field(1000, 5) + field(5, b"abcd", 5)),
    spans(*_USED, before=field(15, 2) + field(15, b"CANARY") + field(9, 7)),
    spans(*_USED, before=b"\x0b\x0c"),
    spans(*_USED, before=b"\x0b"),
    spans(*_USED, nested(40)),
    spans(*_USED, nested(10_000)),
    spans(*(counted("gen_ai.usage.input_tokens", value) for value in (field(3, 2**64 - 1), field(1, b"7"), field(2, 1)))),
    spans(*(counted("gen_ai.usage.input_tokens", field(4, number, 1)) for number in (b"\0" * 6 + b"\xf8\x7f", b"\xff" * 8))),
    spans(*(counted("gen_ai.usage.output_tokens", value) for value in (field(7, b"\xff"), field(5, b""), field(1, b"\xff")))),
    spans(counted("gen_ai.usage.input_tokens", b"")),
    spans(field(1, b"\xff\xfe") + field(2, field(3, 7))),
    b"\x80" * 11,
    b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    field(0, b"x"),
    *(spans(*_USED)[:cut] for cut in range(1, len(spans(*_USED)), 7)),
)
"""OTLP/protobuf that is odd or broken."""


def huge(many: int) -> dict[str, bytes]:
    """Fragments that are made to cost much."""
    return {
        "ten megabytes of text": b'"' + b"x" * 10_000_000 + b'"',
        "escapes": b'"' + b"\\u00e9" * many + b'"',
        "empty objects": b"[" + b"{}," * many + b"{}]",
        "empty lists": b"[" + b"[]," * many + b"[]]",
        "names": b"{" + b",".join(b'"%x":0' % n for n in range(many)) + b"}",
        "digits": b"9" * many,
        "depth": b"[" * many + b"]" * many,
        "lines": b"{}\n[]\n" * many,
    }


def huge_protobuf(many: int) -> dict[str, bytes]:
    """Requests that are made to cost much."""
    return {
        "empty groups": field(1, b"") * many,
        "empty scopes": field(1, field(2, b"") * many),
        "empty spans": spans(times=many),
        "empty attributes": spans(*[b""] * many),
        "counts": spans(*_USED * (many // 2)),
        "unknown fields": spans(*_USED, before=field(99, 1) * many),
        "ten megabytes of text": spans(*_USED, counted("user.id", field(1, b"x" * 10_000_000))),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inner for place in places(part, (*path, key))]


def bend(payload: Any, path: tuple[Any, ...], fragment: bytes, beside: bool = False) -> bytes:
    """The payload with the fragment in a place; or also `beside` what stands there, under the same name."""
    changed = deepcopy(payload)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if beside and isinstance(holder, dict):
        fragment += b"," + json.dumps(path[-1]).encode() + b":" + body(holder[path[-1]])
    holder[path[-1]] = "@HERE@"
    return body(changed).replace(b'"@HERE@"', fragment)


def payloads() -> dict[str, tuple[Source, Any]]:
    """A good payload of every source and dialect, by name."""
    told: dict[str, tuple[Source, Any]] = {name: (teller.source, teller.emit(USUAL)) for name, teller in TELLERS.items()}
    return told | {"native": ("native", WHOLE | {"prompt": SECRET_TEXT})}


def captured(source: Source) -> list[bytes]:
    """What real software of a source sent."""
    return [(PAYLOADS / name).read_bytes() for found, name in CAPTURED if found == source]


def read(source: Source, raw: bytes) -> Reading:
    """What the intake makes of the bytes."""
    return native.calls(raw, native.WHO, NOW) if source == "native" else usage_events(source, raw, who(source), NOW)


def intake_holds(source: Source, raw: bytes) -> Reading:
    """Whatever the bytes: no exception, every event is one by the contract and for decode, no content in the reasons."""
    reading = read(source, raw)
    for event in reading.events:
        line = msgspec.json.encode(event)
        UsageEvent.model_validate_json(line)
        convert(parse(line))
    said = [text for refusal in reading.refused for text in (refusal.reason, refusal.field)] + list(reading.passed)
    assert all("CANARY" not in text and len(text) <= LONGEST_REASON for text in said)
    return reading


def decode_holds(block: bytes) -> None:
    """Whatever the lines: three readers agree on each, so do both paths, and each is a call or has a reason."""
    lines = split(block)
    texts = [block[start:end] for start, end in zip(lines.start.tolist(), lines.end.tolist(), strict=True)]
    for line in filter(None, texts):
        all_three_agree_on(line)
        both_paths_agree_on(line)
    batch, refused = Decoder().decode(lines)
    assert len(batch) + len(refused) == len(texts)
    assert all("CANARY" not in row.to_json().decode() and len(row.reason) <= LONGEST_REASON for row in refused)


def both_paths_agree_on(line: bytes) -> None:
    """A name with an escape sends a line down the slow path; all its columns are those of the fast one."""
    quick, odd = Decoder(), Decoder()
    batch, refused = quick.decode(split(line))
    slow = b'{"\\u0078":0,' + line.lstrip(b" \t\r")[1:]
    if refused or len(slow) > MAX_LINE:
        return
    twin, _ = odd.decode(split(slow))
    for column in fields(Batch):
        assert getattr(batch, column.name).tolist() == getattr(twin, column.name).tolist(), column.name
    for vocabulary in ("tenants", "keys", "models", "features", "operations"):
        assert list(getattr(quick, vocabulary).names) == list(getattr(odd, vocabulary).names)
