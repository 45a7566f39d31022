"""What a call will cost is what it costs then, to the nano-dollar."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from schemas.decode import Decoder, split
from schemas.prices import Discount, Entry, PriceEntry
from stream.estimate import Estimator
from stream.pricing import PriceBook

AT = 1_790_000_000.0
ENTRIES: list[Entry] = [
    PriceEntry(provider="openai", model="ours", effective_from=0, input=3, output=12, unit="USD per 1M tokens"),
    Discount(tenant="acme", discount=0.25, effective_from=0),
]


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(ENTRIES)


@pytest.mark.parametrize("model", ["ours", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "nobody-knows-it"])
@pytest.mark.parametrize("tokens", [0, 1, 199_999, 250_000])
@pytest.mark.parametrize("tier", [None, "batch"])
@pytest.mark.parametrize("tenant", ["acme", "other"])
def test_an_estimate_is_what_the_worker_charges(
    estimator: Estimator, model: str, tokens: int, tier: str | None, tenant: str
) -> None:
    said = estimator.estimate(model, tokens, 1000, service_tier=tier, tenant=tenant, at=AT)
    call = {"event_id": "e", "ts": AT, "tenant": tenant, "key_id": "k", "model": model, "service_tier": tier}
    for output, expected in ((0, said.input), (1000, said.most)):
        decoder = Decoder()
        line = msgspec.json.encode(call | {"input_tokens": tokens, "output_tokens": output})
        batch, _ = decoder.decode(split(line))
        cost, guessed = PriceBook(ENTRIES).cost(batch, decoder.models.names, decoder.tenants.names)
        assert (cost[0], guessed[0]) == (expected, said.guessed)
    assert said.guessed == (model == "nobody-knows-it")


def test_dollars_of_a_text_with_the_tokenizer_of_the_program() -> None:
    estimate = Estimator(ENTRIES, count=lambda text: len(text.split())).estimate("ours", "one two three", 1000, tenant="acme")
    assert estimate.input_tokens == 3
    assert estimate.input_usd == pytest.approx(9e-6 * 0.75)
    assert estimate.most_usd == pytest.approx((9e-6 + 12e-3) * 0.75)


@pytest.mark.parametrize(("model", "tokens", "output"), [("", 1, 1), ("ours", -1, 1), ("ours", 1, 2**31)])
def test_what_is_no_call_is_refused_by_name(estimator: Estimator, model: str, tokens: int, output: int) -> None:
    with pytest.raises(ValueError, match=r"model|_tokens"):
        estimator.estimate(model, tokens, output)


def test_many_threads_ask_for_many_models_at_once(estimator: Estimator) -> None:
    models = [f"gpt-4o-{n}" for n in range(40)] + ["ours", "claude-sonnet-4-5"]
    alone = {model: estimator.estimate(model, 1000, 100, at=AT) for model in models}
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda model: (model, estimator.estimate(model, 1000, 100, at=AT)), models * 20)
        assert all(alone[model] == said for model, said in found)
