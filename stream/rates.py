"""Rate rows: what each kind of token of a model costs, from an override or from genai-prices."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from schemas.prices import PriceEntry

FRESH, CACHED, WRITE, WRITE_1H, OUTPUT, REASONING, AUDIO_IN, AUDIO_OUT, SEARCH, REQUEST = range(10)
"""The columns of a rate row, in pico-dollars per token, per web search and per request."""
STAND_IN: dict[str, str | None] = {
    "input_mtok": None,
    "cache_read_mtok": "input_mtok",
    "cache_write_mtok": "input_mtok",
    "cache_write_1h_mtok": "cache_write_mtok",
    "output_mtok": None,
    "output_reasoning_mtok": "output_mtok",
    "input_audio_mtok": "input_mtok",
    "output_audio_mtok": "output_mtok",
    "web_searches_kcount": None,
    "requests_kcount": None,
}
"""The library's price keys in the order of the columns, and the key that stands in for one that a model lacks."""
PICO_PER_TOKEN = 10**6
"""of a price in USD per 1M tokens"""
PICO_PER_COUNT = 10**9
"""of a price in USD per 1,000 searches or requests"""

RateRow = tuple[int, ...]
Steps = list[tuple[int, RateRow]]
"""Rate rows by context length: the last one whose length is below a call's input tokens holds for the whole call."""


def of_entry(entry: PriceEntry, tier: str) -> Steps:
    """The one step of an override; a service tier that it does not name costs the standard price."""
    factor = Decimal(str(next((f for name, f in entry.service_tiers.items() if name == tier), 1)))

    def rate(*choices: float | None) -> int:
        first = next(choice for choice in choices if choice is not None)
        return _integer(Decimal(str(first)) * factor * PICO_PER_TOKEN)

    row = (
        rate(entry.input),
        rate(entry.cache_read, entry.input),
        rate(entry.cache_write, entry.input),
        rate(entry.cache_write_1h, entry.cache_write, entry.input),
        rate(entry.output),
        rate(entry.output),
        rate(entry.audio_input, entry.input),
        rate(entry.audio_output, entry.output),
        _integer(Decimal(str(entry.web_search or 0)) * PICO_PER_COUNT),
        0,
    )
    return [(-1, row)]


def of_price(price: ModelPrice) -> Steps:
    """The library's cliffs: a tier's rate holds for all tokens of a call with more input than its start."""
    values: dict[str, Decimal | TieredPrices | None] = {}
    for key, stand_in in STAND_IN.items():
        own = getattr(price, key)
        values[key] = own if own is not None or stand_in is None else values[stand_in]
    lengths = {tier.start for value in values.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    return [(length, tuple(_pico(key, values[key], length) for key in STAND_IN)) for length in (-1, *sorted(lengths))]


def discounted(steps: Steps, off: float) -> Steps:
    """Every rate less a share of it."""
    if not off:
        return steps
    share = 1 - Decimal(str(off))
    return [(length, tuple(_integer(rate * share) for rate in row)) for length, row in steps]


def told_by_tokens(price: ModelPrice) -> bool:
    """Whether a call's tokens tell what it costs: they do not where hours, characters or pages are charged instead."""
    charged = {key for key, value in vars(price).items() if value is not None}
    return not charged or not charged.isdisjoint(STAND_IN)


def prices_of(model: ModelInfo) -> list[ModelPrice]:
    """Every standard price that a model ever has, whatever the date."""
    return [model.prices] if isinstance(model.prices, ModelPrice) else [dated.prices for dated in model.prices]


def _pico(key: str, value: Decimal | TieredPrices | None, length: int) -> int:
    if isinstance(value, TieredPrices):
        value = next((tier.price for tier in reversed(value.tiers) if length >= tier.start), value.base)
    return _integer((value or Decimal(0)) * (PICO_PER_TOKEN if key.endswith("_mtok") else PICO_PER_COUNT))


def _integer(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), ROUND_HALF_EVEN))
