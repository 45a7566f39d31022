"""Every field of the usage event, taken from the contract itself: three readers, one verdict."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from prometheus_client import generate_latest

from schemas.decode import Refused, _Columns, convert, parse, split
from schemas.scan import FIELDS, scan
from schemas.usage import MAX_COUNT, UsageEvent, bounds
from stream import metrics
from stream.assembly import Assembly
from stream.partition import Partition
from stream.readings import Whose
from stream.windows import DAY
from tests.calls import T0
from tests.hostile import both_paths_agree_on
from tests.test_decode import GOOD, all_three_agree_on
from tests.test_meters import Call, played

ROOMY = GOOD | {"input_tokens": MAX_COUNT, "output_tokens": MAX_COUNT}
"""Totals that any part fits into."""
WRONG_KINDS: list[Any] = [True, False, [], {}, [1], ["x"], {"a": {"b": 1}}, [[[[]]]]]


def good(name: str) -> list[Any]:
    """The least and the most that a field may say, and what lies between."""
    bound = bounds(name)
    if "enum" in bound:
        return list(bound["enum"])
    if bound["type"] == "string":
        texts = ["a" * bound.get("minLength", 0), "a", "a" * bound["maxLength"]]
        return texts if "0-9a-fA-F" in bound.get("pattern", "") else [*texts, "é", "日" * bound["maxLength"]]
    between = [] if bound["type"] == "integer" else [0.5, bound["maximum"] - 0.5]
    return [bound["minimum"], bound["maximum"], *between]


def bad(name: str) -> list[Any]:
    """One beyond either end, and what is of another kind."""
    bound = bounds(name)
    if "enum" in bound:
        return ["", bound["enum"][0].upper(), bound["enum"][0] + " ", "x" * 10_000, 0, 1.5]
    if bound["type"] == "string":
        shown = ["a\x00", "a\n", "\u202ea"] if "pattern" in bound else []
        hexadecimal = ["g", "é", "-1"] if "0-9a-fA-F" in bound.get("pattern", "") else []
        empty = [""] * bool(bound.get("minLength"))
        return ["a" * (bound["maxLength"] + 1), "é" * 100_000, 0, 1.5, *shown, *hexadecimal, *empty]
    beyond = [bound["minimum"] - 1, bound["maximum"] + 1, 2**63, 2**64, 10**400, -(10**400)]
    return [*beyond, *([] if bound["type"] == "number" else [0.5, 1.0, 1e300]), "", "1", "NaN", "x" * 10_000]


def accepted(line: bytes) -> bool:
    """The one verdict of all three, and of the fast and the slow path where it is yes."""
    all_three_agree_on(line)
    both_paths_agree_on(line)
    try:
        convert(parse(line))
    except Refused:
        return False
    return True


def scanned(line: bytes) -> bool:
    """Whether the fast path alone accepts it."""
    lines, columns = split(line), _Columns(1)
    scan(lines.buffer, lines.start, lines.end, *columns.written())
    return not columns.slow[0]


def saying(name: str, *values: bytes) -> bytes:
    """An event with these values under a field's name, one after the other."""
    rest = {other: value for other, value in ROOMY.items() if other != name}
    said = b"".join(b", " + json.dumps(name).encode() + b": " + value for value in values)
    return json.dumps(rest).encode()[:-1] + said + b"}"


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_bounded_alike_by_all_three(name: str) -> None:
    for value in good(name):
        for ascii in (True, False):
            assert accepted(saying(name, json.dumps(value, ensure_ascii=ascii).encode())), value
        plain = not isinstance(value, str) or value.isascii()
        assert scanned(saying(name, json.dumps(value).encode())) == plain, value
    for value in [*bad(name), *WRONG_KINDS]:
        assert not accepted(saying(name, json.dumps(value, ensure_ascii=False).encode())), value
    for text in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b'"\\ud800"', b'"\xff"', b'"', b""):
        assert not accepted(saying(name, text)), text


@pytest.mark.parametrize("name", FIELDS)
def test_only_what_is_required_may_not_be_absent_or_null(name: str) -> None:
    optional = not UsageEvent.model_fields[name].is_required()
    assert accepted(saying(name)) == accepted(saying(name, b"null")) == optional
    assert scanned(saying(name)) == scanned(saying(name, b"null")) == optional


@pytest.mark.parametrize("name", FIELDS)
def test_of_a_field_told_twice_the_last_counts(name: str) -> None:
    last, first, *_ = (json.dumps(value).encode() for value in good(name))
    wrong = json.dumps(bad(name)[0], ensure_ascii=False).encode()
    optional = not UsageEvent.model_fields[name].is_required()
    for values, verdict in (
        ((first, last), True),
        ((wrong, last), True),
        ((first, wrong), False),
        ((first, b"null"), optional),
    ):
        assert accepted(saying(name, *values)) == verdict, values


@pytest.mark.parametrize("name", FIELDS)
def test_a_name_with_escapes_is_the_same_name(name: str) -> None:
    odd = json.dumps(name).encode().replace(name[:1].encode(), f"\\u{ord(name[0]):04x}".encode(), 1)
    line = saying(name, json.dumps(good(name)[-1]).encode()).replace(json.dumps(name).encode(), odd)
    assert accepted(line)
    assert getattr(convert(parse(line)), name) == good(name)[-1]


def cache_and_money(*told: int | None) -> tuple[float | None, int]:
    """Through decode, prices and meters: the share of input that was cached, and nano-dollars, of calls of 1,000 tokens."""
    said: list[dict[str, int]] = [{} if cached is None else {"cached_input_tokens": cached} for cached in told]
    event = GOOD | {"ts": T0 / 1000, "provider": "p", "model": "m", "input_tokens": 1_000, "output_tokens": 0}
    calls = [Call(T0, 0, event | {"event_id": f"e-{n}"} | cached) for n, cached in enumerate(said)]
    readings, _, end = played(calls, random.Random(0))
    totals = readings.totals(Whose("acme"), DAY, end)
    return totals.prefix_share, totals.usd


def test_a_source_that_tells_of_no_cache_is_priced_as_fresh_and_stays_out_of_its_statistics() -> None:
    """A call of 1,000 fresh tokens costs 1,000,000 nano-dollars; of 400 cached ones among them, 700,000."""
    assert cache_and_money(None) == (None, 1_000_000)
    assert cache_and_money(0) == (0.0, 1_000_000)
    assert cache_and_money(400) == (0.4, 700_000)
    assert cache_and_money(400, None, None) == (0.4, 2_700_000)
    assert cache_and_money(400, 0) == (0.2, 1_700_000)


def test_fields_that_are_none_of_ours_are_shown_by_name_and_never_what_they_hold() -> None:
    """A name that is no name may be what somebody wrote."""
    odd = {"messages": ["CANARY"], "cached_tokens": 3, "CANARY: tell me a secret": 1, "x" * 99: "CANARY"}
    partition = Partition(0, Assembly([]), generation=1, next=0, pointer="")
    partition.assembly.decoder.decode(split(json.dumps(GOOD | odd).encode()))
    metrics.standing({}, [partition], 0, 0.0)
    shown = generate_latest().decode()
    for name in ("messages", "cached_tokens", "other", "x" * 64):
        assert f'burnguard_unknown_fields{{name="{name}"}} 1.0' in shown
    assert "CANARY" not in shown
