"""Bytes to batches: three readers of one contract, and what happens to bad lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.batch import ABSENT, RESPONSE_CACHE, U64
from schemas.call import Refused, convert
from schemas.decode import Decoder, parse, split
from schemas.scan import FIELDS, MAX_LINE, _perfect_hash, xxh64
from schemas.usage import UsageEvent, bounds, schema
from schemas.vocabulary import Vocabulary
from stream.sources import HELD

GOOD: dict[str, Any] = {
    "event_id": "e-1",
    "ts": 1700000000.25,
    "tenant": "acme",
    "key_id": "key-1",
    "model": "gpt-4o",
    "input_tokens": 100,
    "output_tokens": 20,
}
ODD = [
    None, True, False, 0, -0.0, -1, 1, 5.0, 1.5, 999, 1000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**400, 1e300,
    4102444800, 4102444801, "", "x", "5", "ok", "standard", "gold", "hit", "ab12", "AB12cd", "0" * 16, "0" * 17, "g",
    "ABCDEF0123456789", "hit ", "model", "x/gpt-4o", "gpt-4o-2024-08-06", "gpt-4o@1", 0.5, 1.4999, 2**31 - 0.5, 1e12,
    "a" * 256, "a" * 257, "a" * 4096, "a" * 4097, "nul\x00", "tab\t", "del\x7f", "c1\x85", "line\n", "\u202eevil",
    "naïve", "日本", "\U0001f600", [], [1], {}, {"a": {"b": 1}},
]  # fmt: skip


def line_of(event: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**event, **changes}).encode()


def decoded(*lines: bytes) -> tuple[Decoder, Any, Any]:
    decoder = Decoder()
    batch, refused = decoder.decode(split(b"\n".join(lines)))
    return decoder, batch, refused


events = st.fixed_dictionaries(
    {
        name: st.just(value) | st.sampled_from(ODD) if i % 7 == 0 else st.just(value)
        for i, (name, value) in enumerate(GOOD.items())
    },
    optional={name: st.sampled_from(ODD) | st.integers(0, 150) for name in (*FIELDS[7:], "messages", "tenan")},
)


def kept(name: str | None) -> str:
    """A feature or operation as it is kept."""
    unseen = [*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    odd = name and (len(name.encode()) > 256 or not set(map(ord, name)).isdisjoint(unseen))
    return "other" if odd else name or ""


def hashed(text: str | None) -> int:
    return xxhash.xxh64_intdigest(text.encode()) if text else 0


def event_of(event: UsageEvent) -> int:
    """An event id of its tenant, alike."""
    return (hashed(event.event_id) + 0xC2B2AE3D27D4EB4F * hashed(event.tenant)) % 2**64


def request_of(event: UsageEvent) -> int:
    """A request of its key, by what XXH64's specification makes of the three names."""
    if not event.request_id:
        return 0
    tenant, key = 0xC2B2AE3D27D4EB4F * hashed(event.tenant), 0x165667B19E3779F9 * hashed(event.key_id)
    return (hashed(event.request_id) + tenant + key) % 2**64 or 1


def mixed(fingerprint: str | None) -> int:
    """The fingerprint's number through XXH64's avalanche, as its specification writes it."""
    if fingerprint is None:
        return 0
    h = int(fingerprint, 16)
    h ^= h >> 33
    h = h * 0xC2B2AE3D27D4EB4F % 2**64
    h ^= h >> 29
    h = h * 0x165667B19E3779F9 % 2**64
    return h ^ h >> 32 or 1


def another(asked: str, model: str) -> bool:
    """Whether another model was served than asked for, letter by letter."""
    asked, model = asked.split("/")[-1], model.split("/")[-1]
    if model[: len(asked)] != asked:
        return True
    rest = model[len(asked) :]
    digits = rest[1:].split("-")[0]
    return not (rest == "" or rest[0] == "@" or (rest[0] == "-" and len(digits) > 1 and set(digits) <= set("0123456789")))


def all_three_agree_on(line: bytes) -> None:
    try:
        truth: UsageEvent | None = UsageEvent.model_validate(msgspec.json.decode(line))
    except (ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        truth = None
    truth = truth if len(line) <= MAX_LINE else None
    try:
        twin = convert(parse(line))
    except Refused as error:
        assert error.reason
        twin = None
    assert (twin is None) == (truth is None)
    decoder, batch, refused = decoded(line)
    assert (len(batch), len(refused)) == ((0, 1) if truth is None else (1, 0))
    if truth is not None:
        for name in FIELDS:
            assert getattr(twin, name) == getattr(truth, name)
            column = getattr(batch, name, None)
            if name.endswith(("tokens", "requests")) and column is not None and name != "cache_write_tokens":
                assert column[0] == (ABSENT if getattr(truth, name) is None else getattr(truth, name))
        assert decoder.keys.names[batch.key[0]] == (truth.tenant, truth.key_id)
        assert decoder.models.names[batch.model[0]] == (truth.provider or "", truth.model)
        assert decoder.features.names[batch.feature[0]] == (kept(truth.feature),)
        assert decoder.operations.names[batch.operation[0]] == (kept(truth.operation),)
        assert batch.event[0] == event_of(truth)
        for column, name in (("user", "user_id"), ("address", "client_ip"), ("session", "session_id")):
            assert getattr(batch, column)[0] == hashed(getattr(truth, name))
        assert batch.request[0] == request_of(truth)
        assert batch.fingerprint[0] == mixed(truth.prompt_fingerprint)
        assert batch.status[0] == (ABSENT if truth.status is None else truth.status)
        assert batch.attempt[0] == (ABSENT if truth.attempt is None else truth.attempt)
        assert batch.latency_ms[0] == (
            ABSENT if truth.latency_ms is None else min(int(np.floor(truth.latency_ms + 0.5)), 2**31 - 1)
        )
        assert batch.response_cache[0] == (
            ABSENT if truth.response_cache is None else RESPONSE_CACHE.index(truth.response_cache)
        )
        assert batch.fallback[0] == (another(truth.requested_model, truth.model) if truth.requested_model else ABSENT)
        assert batch.ts[0] == int(np.floor(truth.ts * 1000 + 0.5))
        claim = ABSENT if truth.cost_usd is None else min(int(np.floor(truth.cost_usd * 1e9 + 0.5)), 2**61)
        assert batch.cost_usd[0] == claim


@settings(max_examples=400, deadline=None)
@given(events, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_scanner_msgspec_and_pydantic_agree(event: dict[str, Any], ascii: bool, separators: tuple[str, str]) -> None:
    line = json.dumps(event, ensure_ascii=ascii, separators=separators).encode()
    all_three_agree_on(line)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), st.sampled_from(ODD), st.sampled_from(FIELDS), st.sampled_from(ODD))
def test_two_odd_fields_are_judged_alike_by_all_three(one: str, value: Any, other: str, second: Any) -> None:
    event = {
        **GOOD,
        "cached_input_tokens": 50,
        "cache_write_tokens": 50,
        "reasoning_tokens": 20,
        one: value,
        other: second,
    }
    all_three_agree_on(json.dumps(event, ensure_ascii=False).encode())


@settings(max_examples=200, deadline=None)
@given(st.text('{}[]":,\\ 019.eE-+truefalsn\n\x00é', max_size=40), st.integers(0, 200))
def test_broken_json_is_refused_and_its_neighbours_are_kept(noise: str, at: int) -> None:
    good = line_of(GOOD)
    broken = (good[: at % len(good)] + noise.encode() + good[at % len(good) :]).replace(b"\n", b" ")
    _, batch, refused = decoded(good, broken, line_of(GOOD, event_id="e-2"))
    assert len(batch) + len(refused) == 3
    assert len(batch) >= 2
    try:
        UsageEvent.model_validate(msgspec.json.decode(broken))
    except (ValidationError, msgspec.DecodeError, UnicodeDecodeError):
        assert len(refused) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"ts": NaN}', "not JSON"),
        (line_of(GOOD, ts=1).replace(b'"ts": 1,', b'"ts": 1e999,'), "not JSON"),
        (line_of(GOOD) + b"{}", "not JSON"),
        (b'{"tenant": "\xff"}', "UnicodeDecodeError|not JSON"),
        (b'{"tenant": "\\ud800"}', "not JSON"),
        (b'{"a":' * 200_000, "not JSON: RecursionError"),
        (line_of(GOOD, messages="x" * 10_000_000), "line_too_long"),
        (line_of(GOOD, cached_input_tokens=101), "exceed input_tokens"),
        (line_of(GOOD, reasoning_tokens=21), "exceed output_tokens"),
        (line_of(GOOD, input_tokens="5"), "valid integer"),
        (line_of(GOOD, input_tokens=True), "valid integer"),
        (line_of(GOOD, input_tokens=-5), "greater than or equal to 0"),
        (line_of(GOOD, tenant=None), "valid string"),
    ],
)
def test_a_bad_line_is_quarantined_with_its_reason(line: bytes, reason: str) -> None:
    _, batch, refused = decoded(line_of(GOOD), line, line_of(GOOD))
    assert len(batch) == 2
    assert any(part in refused[0].reason for part in reason.split("|")), refused[0].reason
    assert (refused[0].line, refused[0].length, refused[0].position) == (1, len(line), len(line_of(GOOD)) + 1)


def test_no_content_of_a_line_is_ever_kept() -> None:
    canary = "CANARY-4711"
    lines = [line_of(GOOD, **{name: canary}) for name in FIELDS] + [line_of(GOOD, **{name: [canary]}) for name in FIELDS]
    lines += [line_of(GOOD, messages=[{"content": canary}], status="no"), b'{"x": "' + canary.encode(), canary.encode()]
    decoder, _, refused = decoded(*lines)
    assert refused
    assert canary.encode() not in b"".join(row.to_json() for row in refused)
    assert canary not in str(decoder.unknown_names)


def test_unknown_names_are_counted_on_refused_rows_and_one_in_a_thousand() -> None:
    lines = [line_of(GOOD, event_id=str(i), prompt="p") for i in range(2500)] + [line_of(GOOD, status=-1, odd=1)]
    whole, _, _ = decoded(*lines)
    assert whole.unknown_names == {"prompt": 3, "odd": 1}
    cut = Decoder()
    for lo in range(0, len(lines), 7):
        cut.decode(split(b"\n".join(lines[lo : lo + 7])))
    assert cut.unknown_names == whole.unknown_names
    many, _, _ = decoded(*(line_of(GOOD, status=-1, **{f"n{i}": 1}) for i in range(300)))
    assert len(many.unknown_names) == 100


def test_lines_are_split_with_either_ending_and_without_the_last() -> None:
    lines = split(b"ab\r\n\ncd\n\r\nef", 100)
    text = [bytes(lines.buffer[s:e]) for s, e in zip(lines.start, lines.end, strict=True)]
    assert text == [b"ab", b"", b"cd", b"", b"ef"]
    assert lines.position.tolist() == [100, 104, 105, 108, 110]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 5))
def test_the_kernel_hashes_like_xxh64(data: bytes, before: int) -> None:
    buffer = np.frombuffer(b"x" * before + data, np.uint8)
    assert int(xxh64(buffer, before, len(buffer))) == xxhash.xxh64_intdigest(data)


def test_names_whose_hashes_collide_get_rows_of_their_own() -> None:
    vocabulary = Vocabulary()
    buffer = np.frombuffer(b"aabbaa", np.uint8)
    starts, lengths = np.array([[0, 2, 4]]), np.array([[2, 2, 2]], np.int32)
    same: U64 = np.full((1, 3), 42, np.uint64)
    assert vocabulary.rows(buffer, starts, lengths, same, np.zeros(3, np.bool_)).tolist() == [0, 1, 0]
    assert vocabulary.names == [("aa",), ("bb",)]


def test_many_lines_at_once_are_the_same_calls_as_few_at_a_time() -> None:
    odd: list[dict[str, Any]] = [
        {},
        {"tenant": "t\u00e9"},
        {"status": -1},
        {"user_id": "u", "latency_ms": 2.5, "requested_model": "o3"},
    ]
    lines = [line_of({**GOOD, **odd[n % 11 % 4]}, key_id=f"key-{n % 900}", event_id=f"e-{n}") for n in range(5_003)]
    lines[2_000] = lines[4_999] = b""
    _, batch, refused = decoded(*lines)
    few, parts, told, position = Decoder(), [], [], 0
    for lo in range(0, len(lines), 301):
        block = b"\n".join(lines[lo : lo + 301]) + b"\n"
        part, bad = few.decode(split(block, position), lo)
        parts.append(part)
        told += bad
        position += len(block)
    assert refused == told
    for name in HELD:
        assert getattr(batch, name).tolist() == np.concatenate([getattr(part, name) for part in parts]).tolist()


def test_features_beyond_the_room_for_them_are_other_whatever_the_cuts_and_restarts() -> None:
    names = [f"feature-{n % 1500}" if n % 3 else ["", "other", "é\x00", "x" * 257][n % 4] for n in range(6000)]
    lines = [line_of(GOOD, feature=name) for name in names]
    first = list(dict.fromkeys(["", "other", *(n for n in names if n.startswith("feature"))]))[:1000]
    expected = [name if name in first else "other" for name in names]
    for cut in (6000, 7):
        decoder = Decoder()
        found: list[str] = []
        for lo in range(0, len(lines), cut):
            batch, _ = decoder.decode(split(b"\n".join(lines[lo : lo + cut])))
            found += [decoder.features.names[row][0] for row in batch.feature]
            before, decoder = decoder, Decoder()
            decoder.restore(before.snapshot())
        assert found == expected
        assert [name for (name,) in decoder.features.names] == first


def test_a_decoder_of_an_older_checkpoint_goes_on_without_features() -> None:
    old, fresh = decoded(line_of(GOOD, feature="search"))[0].snapshot(), Decoder()
    fresh.restore({name: column for name, column in old.items() if not name.startswith(("features.", "operations."))})
    batch, _ = fresh.decode(split(line_of(GOOD, operation="chat")))
    assert (fresh.features.names[batch.feature[0]], fresh.operations.names[batch.operation[0]]) == (("",), ("chat",))


def test_a_vocabulary_keeps_its_rows_while_it_grows() -> None:
    decoder = Decoder()
    lines = [line_of(GOOD, key_id=f"schlüssel-{i % 3000}", tenant=f"t{i % 7}") for i in range(6000)]
    first, _ = decoder.decode(split(b"\n".join(lines)))
    again, _ = decoder.decode(split(b"\n".join(lines)))
    assert first.key.tolist() == again.key.tolist()
    assert len(decoder.keys) == 6000 if np.lcm(3000, 7) >= 6000 else True
    assert decoder.keys.names[first.key[10]] == ("t3", "schlüssel-10")


def test_the_committed_json_schema_is_fresh() -> None:
    assert json.loads(Path("docs/usage_event.schema.json").read_text()) == schema()


def test_the_scanner_derives_its_tables_from_the_contract() -> None:
    assert len(_perfect_hash()[2]) == sum(map(len, FIELDS))
    assert bounds("status") == {"maximum": 999, "minimum": 0, "type": "integer"}
    assert MAX_LINE == 2**20


def test_absent_counts_are_unknown_and_an_hour_write_alone_is_a_write() -> None:
    _, batch, _ = decoded(line_of(GOOD), line_of(GOOD, cache_write_1h_tokens=40))
    assert batch.cached_input_tokens.tolist() == [ABSENT, ABSENT]
    assert batch.cache_write_tokens.tolist() == [ABSENT, 40]


models = st.lists(
    st.sampled_from(["openai/", "gpt-4o", "gpt-4", "-", "-mini", "-2024-08-06", "-1", "-05", "-32k", "@2", "/", "4o", "é"]),
    min_size=1,
    max_size=5,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(models, models, st.booleans(), st.booleans())
def test_both_paths_tell_another_model_from_a_version_of_the_one_asked_for(
    asked: str, model: str, slow: bool, first: bool
) -> None:
    event = {"requested_model": asked, **GOOD} if first else {**GOOD, "requested_model": asked}
    line = json.dumps({**event, "model": model}, ensure_ascii=False).encode()
    line = line.replace(b"acme", b"\\u0061cme") if slow else line
    assert decoded(line)[1].fallback.tolist() == [another(asked, model)]


@pytest.mark.parametrize(
    ("asked", "model", "fallback"),
    [
        ("gpt-4o", "gpt-4o", 0),
        ("gpt-4o", "gpt-4o-2024-08-06", 0),
        ("openai/gpt-4o", "gpt-4o", 0),
        ("gpt-4o", "azure/eu/gpt-4o-2024-08-06", 0),
        ("claude-sonnet-4", "claude-sonnet-4@20250514", 0),
        ("claude-sonnet-4", "claude-sonnet-4-20250514-v1:0", 0),
        ("claude-opus-4", "claude-opus-4-1", 1),
        ("gpt-4", "gpt-4-32k", 1),
        ("gpt-4o", "gpt-4o-mini", 1),
        ("gpt-4o-mini", "gpt-4o", 1),
        ("gpt-4o", "GPT-4o", 1),
        ("openai/gpt-4o", "openai/o3", 1),
        ("", "gpt-4o", ABSENT),
        (None, "gpt-4o", ABSENT),
    ],
)
def test_a_fallback_is_another_model_than_was_asked_for(asked: str | None, model: str, fallback: int) -> None:
    quick, slow = (
        line_of(GOOD, requested_model=asked, model=model),
        line_of(GOOD, requested_model=asked, model=model, user_id="é"),
    )
    assert decoded(quick, slow)[1].fallback.tolist() == [fallback, fallback]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(1, 16), st.text("0123456789abcdefABCDEF g@G`/:", min_size=1, max_size=17))
def test_a_fingerprint_is_its_number_in_either_case(number: int, digits: int, other: str) -> None:
    lower = f"{number % 16**digits:x}"
    spelt = [lower, lower.upper(), lower.zfill(16)]
    _, batch, _ = decoded(*(line_of(GOOD, prompt_fingerprint=text, user_id=user) for text in spelt for user in ("u", "é")))
    assert set(batch.fingerprint.tolist()) == {mixed(lower)}
    all_three_agree_on(line_of(GOOD, prompt_fingerprint=other))
    all_three_agree_on(line_of(GOOD, prompt_simhash=other))


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e13) | st.integers(0, 10**13) | st.decimals(0, 10**10, places=4).map(float))
def test_latency_is_whole_milliseconds_half_up_in_both_paths(latency: float) -> None:
    all_three_agree_on(line_of(GOOD, latency_ms=latency))
    all_three_agree_on(line_of(GOOD, latency_ms=latency, user_id="é"))


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e13) | st.floats(0, 0.01) | st.decimals(0, 10**10, places=9).map(float))
def test_a_claimed_cost_is_nano_dollars_half_up_in_both_paths(cost: float) -> None:
    all_three_agree_on(line_of(GOOD, cost_usd=cost))
    all_three_agree_on(line_of(GOOD, cost_usd=cost, user_id="é"))


def test_what_a_call_did_not_say_is_unknown_in_both_paths() -> None:
    said = {"attempt": 0, "status": 0, "latency_ms": 0, "response_cache": "hit", "requested_model": "gpt-4o", "cost_usd": 0}
    lines = [line_of({**GOOD, **more}, tenant=tenant) for more in ({}, dict.fromkeys(said), said) for tenant in ("acme", "é")]
    _, batch, _ = decoded(*lines)
    for column in ("attempt", "status", "latency_ms", "response_cache", "fallback", "cost_usd"):
        assert getattr(batch, column).tolist() == [ABSENT] * 4 + [0] * 2
    nobody = {"user_id": "", "client_ip": "", "session_id": "", "request_id": ""}
    _, batch, _ = decoded(line_of({**GOOD, **nobody}), line_of({**GOOD, **nobody}, tenant="é"), line_of(GOOD))
    for column in ("request", "user", "address", "session", "fingerprint"):
        assert getattr(batch, column).tolist() == [0, 0, 0]


def test_nothing_of_a_line_the_scanner_gave_up_on_stays_in_the_columns() -> None:
    twice = line_of({**GOOD, "user_id": "u", "status": 500, "attempt": 3, "latency_ms": 5, "response_cache": "hit"})
    nulls = b', "user_id": null, "status": null, "attempt": null, "latency_ms": null, "response_cache": null}'
    _, batch, _ = decoded(twice[:-1] + nulls)
    assert (batch.user[0], batch.status[0], batch.attempt[0], batch.latency_ms[0], batch.response_cache[0]) == (
        0,
        *[ABSENT] * 4,
    )


def test_writing_the_schema_is_one_command(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    subprocess.run([sys.executable, "-m", "schemas.usage"], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "docs/usage_event.schema.json").read_text()) == schema()
