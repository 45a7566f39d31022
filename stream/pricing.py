"""Tokens to nano-dollars: price overrides over genai-prices, compiled once per model to a flat table."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices
from numpy.typing import NDArray

from detectors.base import Names
from schemas.batch import ABSENT, I64, SERVICE_TIERS, Batch, Ms
from schemas.prices import PriceEntry

FRESH, CACHED, WRITE, WRITE_1H, OUTPUT, REASONING, AUDIO_IN, AUDIO_OUT = range(8)
SEARCH, REQUEST = 8, 9
FALLBACK = {
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
"""The library's price keys in the order of a rate row, and the key that stands in for one that a model lacks."""
CONTEXTS: dict[str, dict[str, str] | None] = {
    "standard": None,
    "batch": {"processing": "batch", "service_tier": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
}
MINUTE: Ms = 60_000
PICO_PER_NANO = 1_000


class Sheet:
    """One model's prices: when they change, and the rate rows per service tier and context length."""

    def __init__(self, starts: list[Ms] | None, guessed: bool) -> None:
        self.starts = starts
        self.guessed = guessed
        self.rows: dict[tuple[int, int], tuple[I64, int]] = {}

    def version(self, ts: I64) -> I64:
        """Which dated version holds for each call; prices by the hour of day get one version a minute."""
        if self.starts is None:
            return ts // MINUTE
        return np.searchsorted(np.array(self.starts, np.int64), ts, side="right").astype(np.int64) - 1


class PriceBook:
    """What calls cost, exactly: int64 pico-dollars a token summed per call, then rounded half-even to nano-dollars.

    An override holds from its `effective_from` on for its provider and model (or, where the call names no provider, for
    its model); else genai-prices decides. An unknown model costs the maximum of its family: the provider's models whose
    name begins alike, else all of the provider's, else all models; `guessed` then says so.
    """

    def __init__(self, overrides: Sequence[PriceEntry] = ()) -> None:
        self._library = data_snapshot.get_snapshot()
        self._overrides: dict[tuple[str, str], list[PriceEntry]] = {}
        for entry in sorted(overrides, key=lambda e: e.effective_from):
            self._overrides.setdefault((entry.provider, entry.model), []).append(entry)
            self._overrides.setdefault(("", entry.model), []).append(entry)
        self._sheets: list[Sheet] = []
        self._models: dict[int, ModelInfo | None] = {}
        self._rates: I64 = np.zeros((0, 10), np.int64)
        self._known: dict[tuple[int, ...], int] = {}
        self._maxima: dict[str, tuple[int, ...]] = {}
        text = "\n".join(entry.model_dump_json() for entry in overrides)
        self.version = hashlib.blake2b(f"{self._library.providers!r}{text}".encode(), digest_size=8).hexdigest()

    def cost(self, batch: Batch, models: Names) -> tuple[I64, NDArray[np.bool_]]:
        """Nano-dollars per call, and whether its model has no known price. `models[row]` is (provider, model)."""
        for provider, model in models[len(self._sheets) :]:
            self._sheets.append(self._sheet(len(self._sheets), provider, model))
        rows = np.zeros(len(batch), np.int64)
        guessed = np.zeros(len(batch), np.bool_)
        groups = batch.model.astype(np.int64) * len(SERVICE_TIERS) + batch.tier
        for group in np.unique(groups).tolist():
            model, tier = divmod(group, len(SERVICE_TIERS))
            mine = np.flatnonzero(groups == group)
            sheet = self._sheets[model]
            guessed[mine] = sheet.guessed
            versions = sheet.version(batch.ts[mine])
            for version in np.unique(versions).tolist():
                calls = mine[versions == version]
                lengths, first = self._rows_of(model, models[model], version, tier)
                rows[calls] = first + np.searchsorted(lengths, batch.input_tokens[calls], side="left")
        return _exact(batch, self._rates[rows]), guessed

    def _sheet(self, row: int, provider: str, model: str) -> Sheet:
        info = self._find(provider, model)
        self._models[row] = info
        dated = [round(e.effective_from * 1000) for e in self._entries(provider, model)]
        if info is None:
            return Sheet(dated, guessed=not dated)
        if not isinstance(info.prices, ModelPrice):
            for price in info.prices:
                if isinstance(price.constraint, StartDateConstraint):
                    day = price.constraint.start_date
                    dated.append(round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000))
                elif price.constraint is not None:
                    return Sheet(None, guessed=False)
        for variant in info.price_variants or ():
            if isinstance(variant.constraint, StartDateConstraint):
                day = variant.constraint.start_date
                dated.append(round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000))
            elif variant.constraint is not None:
                return Sheet(None, guessed=False)
        return Sheet(sorted(set(dated)), guessed=False)

    def _rows_of(self, row: int, name: tuple[str, ...], version: int, tier: int) -> tuple[I64, int]:
        """Context lengths above which the next rate row holds, and the first rate row."""
        sheet = self._sheets[row]
        found = sheet.rows.get((version, tier))
        if found is None:
            starts = sheet.starts
            at = version * MINUTE if starts is None else starts[version] if version >= 0 else 0
            lengths, rates = self._compile(row, name[0], name[1], at, SERVICE_TIERS[tier])
            found = sheet.rows[version, tier] = np.array(lengths, np.int64), self._keep(rates)
        return found

    def _compile(self, row: int, provider: str, model: str, at: Ms, tier: str) -> tuple[list[int], list[tuple[int, ...]]]:
        entries = self._entries(provider, model)
        newest = bisect_right([round(e.effective_from * 1000) for e in entries], at)
        if newest:
            return [], [_of_entry(entries[newest - 1], tier)]
        info = self._models[row]
        if info is None:
            return [], [self._family_maximum(provider, model)]
        return _of_price(info.get_prices(datetime.fromtimestamp(at / 1000, UTC), CONTEXTS[tier]))

    def _keep(self, rates: list[tuple[int, ...]]) -> int:
        key = tuple(value for rate in rates for value in rate)
        if key not in self._known:
            self._known[key] = len(self._rates)
            self._rates = np.concatenate([self._rates, np.array(rates, np.int64)])
        return self._known[key]

    def _entries(self, provider: str, model: str) -> list[PriceEntry]:
        return self._overrides.get((provider, model), [])

    def _find(self, provider: str, model: str) -> ModelInfo | None:
        try:
            return self._library.find_provider_model(model, None, provider or None, None)[1]
        except LookupError:
            return None

    def _family_maximum(self, provider: str, model: str) -> tuple[int, ...]:
        family = model.lower().split("/")[-1].split("-")[0]
        mine = [p for p in self._library.providers if p.id == provider.lower()] or self._library.providers
        key = f"{mine[0].id if len(mine) == 1 else ''}/{family}"
        if key not in self._maxima:
            alike = [m for m in _models(mine) if m.id.split("/")[-1].startswith(family)]
            self._maxima[key] = _dearest(alike) or _dearest(_models(mine)) or _dearest(_models(self._library.providers))
        return self._maxima[key]


def _models(providers: Iterable[Provider]) -> list[ModelInfo]:
    return [model for provider in providers for model in provider.models]


def _dearest(models: list[ModelInfo]) -> tuple[int, ...]:
    """The highest of every rate among text models; empty where none has a price."""
    prices = [m.prices if isinstance(m.prices, ModelPrice) else m.prices[-1].prices for m in models if m.prices]
    rows = [rate for price in prices if price.output_mtok is not None for rate in _of_price(price)[1]]
    return tuple(max(column) for column in zip(*rows, strict=True)) if rows else ()


def _of_entry(entry: PriceEntry, tier: str) -> tuple[int, ...]:
    factor = Decimal(str(entry.service_tiers.get(tier, 1)))  # type: ignore[call-overload]  # a str for a Literal key

    def rate(*choices: float | None) -> int:
        first = next(choice for choice in choices if choice is not None)
        return _integer(Decimal(str(first)) * factor * 10**6)

    write = rate(entry.cache_write, entry.input)
    return (
        rate(entry.input),
        rate(entry.cache_read, entry.input),
        write,
        rate(entry.cache_write_1h, entry.cache_write, entry.input),
        rate(entry.output),
        rate(entry.output),
        rate(entry.audio_input, entry.input),
        rate(entry.audio_output, entry.output),
        _integer(Decimal(str(entry.web_search or 0)) * 10**6),
        0,
    )


def _of_price(price: ModelPrice) -> tuple[list[int], list[tuple[int, ...]]]:
    """Context lengths and one rate row per step: a tier's rate holds for all tokens of a call above its start."""
    values: dict[str, Decimal | TieredPrices | None] = {}
    for key, stand_in in FALLBACK.items():
        own = getattr(price, key)
        values[key] = own if own is not None or stand_in is None else values[stand_in]
    lengths = sorted({tier.start for v in values.values() if isinstance(v, TieredPrices) for tier in v.tiers})
    return lengths, [
        tuple(_integer(_at_length(values[key], length) * 10**6) for key in FALLBACK) for length in [-1, *lengths]
    ]


def _at_length(value: Decimal | TieredPrices | None, length: int) -> Decimal:
    if isinstance(value, TieredPrices):
        return next((tier.price for tier in reversed(value.tiers) if length >= tier.start), value.base)
    return value or Decimal(0)


def _integer(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), ROUND_HALF_EVEN))


def _exact(batch: Batch, rates: I64) -> I64:
    """Sum the parts in pico-dollars and round once. Rates are at most 10**10 pico-dollars a token of a known count."""

    def known(column: NDArray[np.int32]) -> I64:
        return np.where(column == ABSENT, 0, column).astype(np.int64)

    cached, write, hour = (
        known(c) for c in (batch.cached_input_tokens, batch.cache_write_tokens, batch.cache_write_1h_tokens)
    )
    fresh = batch.input_tokens.astype(np.int64) - cached - write
    audio_in = np.minimum(known(batch.audio_input_tokens), fresh)
    audio_out = known(batch.audio_output_tokens)
    reasoning = np.minimum(known(batch.reasoning_tokens), batch.output_tokens - audio_out)
    tokens = (
        fresh - audio_in,
        cached,
        write - hour,
        hour,
        batch.output_tokens - audio_out - reasoning,
        reasoning,
        audio_in,
        audio_out,
    )
    pico = np.zeros(len(batch), np.int64)
    for part, count in enumerate(tokens):
        pico += count * rates[:, part]
    nano, rest = np.divmod(pico, PICO_PER_NANO)
    nano += (rest > PICO_PER_NANO // 2) | ((rest == PICO_PER_NANO // 2) & (nano % 2 == 1))
    nano += known(batch.web_search_requests) * rates[:, SEARCH] + rates[:, REQUEST]
    return np.asarray(nano, np.int64)
