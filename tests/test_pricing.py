"""Dollars, against the library's own Decimal arithmetic."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from genai_prices import Usage, data_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.batch import ABSENT, Batch
from schemas.prices import PriceEntry, PriceList
from stream.pricing import PriceBook
from tests.calls import batch

NAMED = {"unit": "USD per 1M tokens", "provider": "acme-ai", "model": "m"}


def calls(n: int, **columns: object) -> Batch:
    base = batch([(0, 0, 1, 0.0)] * n)
    changed = {k: np.broadcast_to(np.asarray(v), n).astype(getattr(base, k).dtype) for k, v in columns.items()}
    return dataclasses.replace(base, **changed)


def priced(book: PriceBook, provider: str, model: str, **columns: object) -> int:
    return int(book.cost(calls(1, **columns), [(provider, model)])[0][0])


def test_every_text_model_of_the_library_costs_what_the_library_says() -> None:
    rng = np.random.default_rng(1)
    book = PriceBook()
    names: list[tuple[str, str]] = []
    expected: list[int] = []
    rows: list[tuple[int, ...]] = []
    flat = {
        "input_mtok",
        "output_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "cache_write_1h_mtok",
        "output_reasoning_mtok",
    }
    skipped = 0
    snapshot = data_snapshot.get_snapshot()
    for provider in snapshot.providers:
        for model in provider.models:
            prices = [model.prices] if isinstance(model.prices, ModelPrice) else [p.prices for p in model.prices]
            keys = {k for p in prices for k, v in p.__dict__.items() if v is not None}
            digits = [
                int(d.as_tuple().exponent)
                for p in prices for v in p.__dict__.values() if v is not None
                for d in ([v] if isinstance(v, Decimal) else [v.base, *(t.price for t in v.tiers)])
            ]  # fmt: skip
            found = provider.find_model(model.id, all_providers=snapshot.providers)
            if not keys or keys - flat or min(digits) < -6 or found is not model:
                skipped += 1
                continue
            for _ in range(2):
                cached, write = int(rng.integers(0, 90_000)), int(rng.integers(0, 90_000))
                fresh, out = int(rng.integers(0, 400_000)), int(rng.integers(0, 50_000))
                if "cache_read_mtok" not in keys:
                    cached = 0
                if "cache_write_mtok" not in keys:
                    write = 0
                when = int(rng.integers(1_600_000_000, 1_830_000_000))
                usage = Usage(
                    input_tokens=cached + write + fresh,
                    cache_read_tokens=cached,
                    cache_write_tokens=write,
                    output_tokens=out,
                )
                total = model.calc_price(
                    usage, provider, genai_request_timestamp=datetime.fromtimestamp(when, UTC)
                ).total_price
                expected.append(int((total * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN)))
                rows.append((len(names), cached + write + fresh, cached, write, out, when * 1000))
            names.append((provider.id, model.id))
    table = np.array(rows, np.int64).T
    ours, guessed = book.cost(
        calls(
            len(rows),
            model=table[0],
            input_tokens=table[1],
            cached_input_tokens=table[2],
            cache_write_tokens=table[3],
            output_tokens=table[4],
            ts=table[5],
        ),
        names,
    )
    assert len(names) > 1800, skipped
    wrong = [(names[table[0, i]], int(ours[i]), expected[i]) for i in np.flatnonzero(ours != expected)]
    assert not wrong, (len(wrong), wrong[:5])
    assert not guessed.any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=5, max_size=5), st.lists(st.floats(0, 1000), min_size=4, max_size=4))
def test_an_override_is_priced_exactly_and_rounded_once(tokens: list[int], rates: list[float]) -> None:
    fields = dict(zip(("input", "cache_read", "cache_write", "output"), (round(r, 6) for r in rates), strict=True))
    entry = PriceEntry.model_validate({**NAMED, **fields, "effective_from": 0})
    total, cached, write, out = max(tokens[:3]), *sorted(tokens[1:3]), tokens[4]
    cached, write = cached // 2, min(write // 2, total - cached // 2)
    parts = (total - cached - write, cached, write, out)
    exact = Decimal(0) + sum(
        Decimal(str(r)) * n
        for r, n in zip((fields["input"], fields["cache_read"], fields["cache_write"], fields["output"]), parts, strict=True)
    )
    expected = int((exact * 1000).quantize(Decimal(1), ROUND_HALF_EVEN))
    book = PriceBook([entry])
    assert (
        priced(
            book,
            "acme-ai",
            "m",
            input_tokens=total,
            cached_input_tokens=cached,
            cache_write_tokens=write,
            output_tokens=out,
        )
        == expected
    )


def test_the_newest_override_not_after_the_call_wins() -> None:
    entries = [
        PriceEntry.model_validate({**NAMED, "input": p, "output": 0, "effective_from": t}) for t, p in ((100, 1), (200, 2))
    ]
    book = PriceBook(entries)
    usd = [priced(book, "acme-ai", "m", input_tokens=1_000_000, ts=ts) for ts in (100_000, 199_999, 200_000)]
    assert usd == [10**9, 10**9, 2 * 10**9]
    assert priced(book, "", "m", input_tokens=1_000_000, ts=100_000) == 10**9


def test_a_service_tier_has_its_own_price() -> None:
    entry = PriceEntry.model_validate(
        {**NAMED, "input": 1, "output": 0, "effective_from": 0, "service_tiers": {"batch": 0.5}}
    )
    book = PriceBook([entry])
    assert [priced(book, "acme-ai", "m", input_tokens=10**6, tier=t) for t in (0, 1, 2)] == [10**9, 5 * 10**8, 10**9]


def test_unknown_cached_tokens_are_priced_as_fresh() -> None:
    book = PriceBook()
    unknown = priced(book, "openai", "gpt-4o", input_tokens=10**6, cached_input_tokens=ABSENT)
    assert unknown == 2_500_000_000
    assert priced(book, "openai", "gpt-4o", input_tokens=10**6, cached_input_tokens=10**6) == 1_250_000_000


@pytest.mark.parametrize("name", [("openai", "gpt-99-ultra"), ("", "no-such-model"), ("nobody", "claude-zeta-9")])
def test_an_unknown_model_costs_its_familys_maximum_never_nothing(name: tuple[str, str]) -> None:
    cost, guessed = PriceBook().cost(calls(1, input_tokens=10**6, output_tokens=10**6), [name])
    assert guessed.all()
    assert cost[0] >= 10**9


def test_the_largest_call_does_not_overflow() -> None:
    entry = PriceEntry.model_validate({**NAMED, "input": 1000, "output": 1000, "web_search": 1000, "effective_from": 0})
    most = 2**31 - 1
    cost = priced(PriceBook([entry]), "acme-ai", "m", input_tokens=most, output_tokens=most, web_search_requests=most)
    assert cost == 2 * most * 10**6 + most * 10**9


@pytest.mark.parametrize("change", [{"imput": 1}, {"input": -1}, {"input": float("nan")}, {"unit": "USD"}, {"input": 1e9}])
def test_a_price_list_with_a_typo_or_an_absurd_price_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PriceList.model_validate([{**NAMED, "input": 1, "output": 1, "effective_from": 0, **change}])
