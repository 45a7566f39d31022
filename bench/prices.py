"""`python -m bench.prices`: calls priced a second on one core, ours vectorised beside what others do call by call."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

import genai_prices
import numpy as np
from genai_prices import data_snapshot

from bench.calls import STEP, calls
from schemas.batch import SERVICE_TIERS, Batch
from schemas.decode import Decoder, split
from schemas.prices import Discount
from stream.pricing import PriceBook

START_S = 1_790_000_000
CALLS, ASKED, ROUNDS, TENANTS_WITH_DISCOUNT = 500_000, 5_000, 5, 1_000
MADE_UP = 100_000


def decoded(decoder: Decoder) -> list[Batch]:
    """Calls of 100,000 keys in 2,000 tenants, three models, with cached tokens."""
    batches = []
    for rows in calls(CALLS, 100_000, lambda n: START_S + n / 1000):
        lines = split(b"\n".join(rows))
        lines.clock[:] = START_S * 1000
        batches.append(decoder.decode(lines)[0])
    return batches


def varied(batches: list[Batch], decoder: Decoder) -> list[Batch]:
    """The same calls, of every model of the library in turns, of all service tiers and of two years."""
    rng = np.random.default_rng(1)
    library = [(owner.id, model.id) for owner in data_snapshot.get_snapshot().providers for model in owner.models]
    rows = np.array([decoder.models.row(*name) for name in library], np.int32)
    return [
        replace(
            batch,
            model=rng.choice(rows, len(batch)),
            tier=rng.integers(0, len(SERVICE_TIERS), len(batch)).astype(np.int8),
            ts=batch.ts - rng.integers(0, 2 * 365 * 86_400_000, len(batch)),
        )
        for batch in batches
    ]


def best(run: Callable[[], int]) -> float:
    """Calls a second of CPU, of the best of some rounds; `run` prices some and says how many."""
    speeds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        priced = run()
        speeds.append(priced / (time.process_time() - began))
    return max(speeds)


def vectorised(book: PriceBook, batches: list[Batch], decoder: Decoder) -> int:
    for batch in batches:
        book.cost(batch, decoder.models.names, decoder.tenants.names)
    return CALLS


def rows_of(batches: list[Batch], decoder: Decoder) -> Iterator[tuple[str, int, int, int, int]]:
    """Model, time and tokens of the first calls, as Python has them."""
    for batch in batches:
        columns = (batch.model, batch.ts, batch.input_tokens, batch.cached_input_tokens, batch.output_tokens)
        for model, *counts in zip(*(column.tolist() for column in columns), strict=True):
            yield (decoder.models.names[model][1], counts[0], counts[1], counts[2], counts[3])


def library(rows: list[tuple[str, int, int, int, int]]) -> int:
    """genai-prices as its README shows it."""
    for model, ts, tokens, cached, output in rows:
        genai_prices.calc_price(
            genai_prices.Usage(input_tokens=tokens, cache_read_tokens=cached, output_tokens=output),
            model,
            provider_id="openai",
            genai_request_timestamp=datetime.fromtimestamp(ts / 1000, UTC),
        )
    return len(rows)


def dictionary(rows: list[tuple[str, int, int, int, int]], prices: dict[str, dict[str, float]]) -> float:
    """What tokencost and LiteLLM do in the simplest case: a price per token from a dictionary, multiplied as floats.

    No dates, no service tiers, no context tiers, no rounding.
    """
    total = 0.0
    for model, _, tokens, cached, output in rows:
        price = prices[model]
        fresh = (tokens - cached) * price["input_cost_per_token"] + cached * price["cache_read_input_token_cost"]
        total += fresh + output * price["output_cost_per_token"]
    return total


def per_token(decoder: Decoder) -> dict[str, dict[str, float]]:
    """The dictionary that such tools hold, of the models in the calls."""
    usages = {
        "input_cost_per_token": {"input_tokens": 1},
        "cache_read_input_token_cost": {"input_tokens": 1, "cache_read_tokens": 1},
        "output_cost_per_token": {"input_tokens": 0, "output_tokens": 1},
    }

    def price(model: str, usage: dict[str, int]) -> float:
        return float(genai_prices.calc_price(genai_prices.Usage(**usage), model, provider_id="openai").total_price)

    return {model: {name: price(model, u) for name, u in usages.items()} for _, model in decoder.models.names}


def made_up() -> tuple[float, int]:
    """Seconds of CPU for names that nobody knows, each its own, read and priced; and how many models are known then."""
    decoder, book = Decoder(), PriceBook()
    line = b'{"event_id":"%d","ts":1.0,"tenant":"t","key_id":"k","model":"made-up-%d","input_tokens":1,"output_tokens":1}'
    began = time.process_time()
    for lo in range(0, MADE_UP, STEP):
        lines = split(b"\n".join(line % (n, n) for n in range(lo, lo + STEP)))
        lines.clock[:] = 1000
        book.cost(decoder.decode(lines)[0], decoder.models.names)
    return time.process_time() - began, len(decoder.models)


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one core;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "genai-prices")))
    decoder = Decoder()
    batches = decoded(decoder)
    rows = list(rows_of(batches, decoder))
    prices = per_token(decoder)
    discounts = [
        Discount(tenant=f"tenant-{n}", discount=0.01 * (n % 20), effective_from=0) for n in range(TENANTS_WITH_DISCOUNT)
    ]
    mixed = varied(batches, decoder)
    plain, contracts = PriceBook(), PriceBook(discounts)
    ours = plain.cost(batches[0], decoder.models.names)[0]
    theirs = dictionary(rows[: len(ours)], prices)
    assert abs(ours.sum() / 1e9 - theirs) < 1e-6 * theirs, "not the same dollars"
    runs: list[tuple[str, Callable[[], int]]] = [
        ("price book, vectorised, three models", lambda: vectorised(plain, batches, decoder)),
        ("and every model of the library, tier, date", lambda: vectorised(plain, mixed, decoder)),
        (f"three models, {len(discounts):,} tenants with discounts", lambda: vectorised(contracts, batches, decoder)),
        ("peer: genai-prices, calc_price a call", lambda: library(rows[:ASKED])),
        ("peer: prices in a dictionary, floats", lambda: CALLS if dictionary(rows, prices) else 0),
    ]
    for what, run in runs:
        print(f"{what:<45} {best(run) / 1e6:8.3f} M calls/s")
    seconds, known = made_up()
    print(f"{MADE_UP:,} made-up names: {seconds:.1f} s, {known:,} models known then")


if __name__ == "__main__":
    main()
