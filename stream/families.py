"""What an unknown model is charged: the maximum of its family."""

from __future__ import annotations

from functools import cache

from genai_prices import data_snapshot
from genai_prices.types import ModelInfo

from stream.rates import FRESH, OUTPUT, RateRow, of_price, prices_of

LEADING_WORDS = 6
Family = tuple[str, tuple[str, ...]]
"""Provider ("" for all of them) and leading words of the name."""


def family_maximum(provider: str, model: str) -> RateRow:
    """The highest of every rate among the models that share the most leading words of the name; never 0.

    First among the provider's models, at worst all of them; among everyone's where the provider is unknown.
    """
    known = data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, provider) if provider else None
    words = _words(model)
    for owner in (known.id, "") if known else ("",):
        for n in range(len(words), -1, -1):
            family = (owner, words[:n])
            if family in _families() and (row := _dearest(family)):
                return row
    raise LookupError("genai-prices has no model that writes text for money")


def _words(model: str) -> tuple[str, ...]:
    """The leading words of a name, by which models are kin: claude, opus, 4, 1."""
    return tuple(model.lower().split("/")[-1].split("-")[:LEADING_WORDS])


@cache
def _families() -> dict[Family, list[ModelInfo]]:
    families: dict[Family, list[ModelInfo]] = {}
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            words = _words(model.id)
            for n in range(len(words) + 1):
                for owner in (provider.id, ""):
                    families.setdefault((owner, words[:n]), []).append(model)
    return families


@cache
def _dearest(family: Family) -> RateRow | None:
    """Of the models that write text for money; None where there are none."""
    prices = [p for model in _families()[family] for p in prices_of(model) if p.output_mtok is not None]
    rows = [row for price in prices for _, row in of_price(price) if row[FRESH] and row[OUTPUT]]
    return tuple(max(column) for column in zip(*rows, strict=True)) if rows else None
