"""Ten thousand usages at genai-prices' own arithmetic and at ours: the same nano-dollars, or a reason that is named here."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import genai_prices
import numpy as np
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from schemas.batch import SERVICE_TIERS
from stream.pricing import PriceBook
from stream.rates import prices_of, told_by_tokens
from tests.test_pricing import TIER_CONTEXT, calls, charged, finer_than_a_pico, nano, usage_of

USAGES = 10_000
LENGTHS = (1, 900, 127_999, 128_000, 128_001, 199_999, 200_000, 200_001, 271_999, 272_000, 272_001, 400_000, 2_000_000)
"""Of the input: round the starts of context tiers, and far beyond them."""
FIRST, LAST = 1_690_000_000, 1_830_000_000

SAME = "the same to the nano-dollar"
FINER = "a price is no whole number of pico-dollars: every token is at most half a pico-dollar off"
CACHED_AUDIO = (
    "some audio was cached, events do not say how much: ours at the cache's price, the library at audio's or refused"
)


def varied(model: ModelInfo) -> bool:
    """Whether the price depends on anything but the tokens' classes."""
    tiered = any(isinstance(value, TieredPrices) for price in charged(model) for value in vars(price).values())
    return tiered or bool(model.price_variants) or not isinstance(model.prices, ModelPrice)


def usage(rng: np.random.Generator) -> dict[str, int]:
    """Every optional part is there in about half of all usages, and may be all that is left."""
    row = {"input_tokens": int(rng.choice(LENGTHS)) if rng.random() < 0.7 else int(rng.integers(0, 500_000))}
    row["output_tokens"] = int(rng.integers(0, 60_000))

    def some(of: int) -> int:
        return int(rng.integers(0, of + 1)) if rng.random() < 0.5 else 0

    row["cached_input_tokens"] = some(row["input_tokens"])
    row["cache_write_tokens"] = some(row["input_tokens"] - row["cached_input_tokens"])
    row["cache_write_1h_tokens"] = some(row["cache_write_tokens"])
    cached = row["cached_input_tokens"] + row["cache_write_tokens"]
    row["audio_input_tokens"] = some(row["input_tokens"] if rng.random() < 0.2 else row["input_tokens"] - cached)
    row["reasoning_tokens"] = some(row["output_tokens"])
    row["audio_output_tokens"] = some(row["output_tokens"] - row["reasoning_tokens"])
    row["web_search_requests"] = some(5)
    row["ts"], row["tier"] = int(rng.integers(FIRST, LAST)) * 1000, int(rng.integers(0, len(SERVICE_TIERS)))
    return row


def theirs(row: dict[str, int], provider: str, model: str) -> int | None:
    """What the library says that it costs; None where it refuses the counts."""
    at = datetime.fromtimestamp(row["ts"] // 1000, UTC)
    try:
        price = genai_prices.calc_price(
            usage_of(row),
            model,
            provider_id=provider,
            genai_request_timestamp=at,
            price_context=TIER_CONTEXT[row["tier"]],
        )
    except ValueError as refusal:
        assert "Invalid usage data" in str(refusal)
        return None
    return nano(price.total_price)


def test_ten_thousand_usages_cost_what_the_library_says_or_the_difference_is_named() -> None:
    rng, snapshot = np.random.default_rng(20_261_124), data_snapshot.get_snapshot()
    asked = [(owner, info.id) for owner in snapshot.providers for info in owner.models]
    found = [(owner, name, owner.find_model(name, all_providers=snapshot.providers)) for owner, name in asked]
    known = [(o.id, name, info) for o, name, info in found if info and all(map(told_by_tokens, prices_of(info)))]
    rich = [n for n, (_, _, info) in enumerate(known) if varied(info)]
    rows = [usage(rng) for _ in range(USAGES)]
    for n, row in enumerate(rows):
        row["model"] = rich[n // 2 % len(rich)] if n % 2 else int(rng.integers(0, len(known)))
    names = [(provider, name) for provider, name, _ in known]
    ours, guessed = PriceBook().cost(calls(USAGES, **{k: [row[k] for row in rows] for k in rows[0]}), names)

    kinds: Counter[str] = Counter()
    for row, cost in zip(rows, ours.tolist(), strict=True):
        expected = theirs(row, *names[row["model"]])
        parts = sum(row[name] for name in ("cached_input_tokens", "cache_write_tokens", "audio_input_tokens"))
        if cost == expected:
            kinds[SAME] += 1
        elif parts > row["input_tokens"]:
            kinds[CACHED_AUDIO] += 1
        else:
            assert expected is not None, (names[row["model"]], row)
            slack = (row["input_tokens"] + row["output_tokens"]) // 2000 + 1
            assert finer_than_a_pico(known[row["model"]][2]), (names[row["model"]], row, cost, expected)
            assert abs(cost - expected) <= slack, (names[row["model"]], row, cost, expected)
            kinds[FINER] += 1
    assert kinds[SAME] > 0.99 * USAGES, kinds
    assert set(kinds) == {SAME, FINER, CACHED_AUDIO}, "a class of differences that no longer exists goes from the table"
    assert not guessed.any()
    assert len({row["model"] for row in rows}) > 1_900
