"""What a tenant pays by contract, and what a model costs on hardware of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.documents import DocumentError, parse_document
from schemas.prices import Discount, PriceEntry, PriceList, SelfHosted
from stream.cli import main
from stream.pricing import PriceBook
from tests.test_pricing import NAMED, calls

MILLION = 10**6
NANO = 10**9


def off(tenant: str, discount: float, effective_from: float = 0, **narrower: str) -> Discount:
    return Discount.model_validate({"tenant": tenant, "discount": discount, "effective_from": effective_from, **narrower})


def hosted(**hardware: float) -> SelfHosted:
    entry = {"provider": "ours", "model": "llama", "effective_from": 0, "self_hosted": hardware or None}
    return SelfHosted.model_validate(entry)


def usd(entries: list[Discount], tenant: str, model: tuple[str, str], ts: int = 0) -> float:
    """Of a million tokens in."""
    batch = calls(1, ts=ts, input_tokens=MILLION, output_tokens=0)
    return float(PriceBook(entries).cost(batch, [model], [(tenant,)])[0][0] / NANO)


def test_a_tenant_pays_less_by_its_contract_and_nobody_else_does() -> None:
    discount, gpt = [off("acme", 0.2, 100)], ("openai", "gpt-4o")
    assert [usd(discount, "acme", gpt, ts) for ts in (99_999, 100_000)] == [2.5, 2.0]
    assert usd(discount, "globex", gpt, 100_000) == 2.5


def test_every_token_class_search_and_tier_is_discounted_and_a_guess_is_not() -> None:
    entry = {"input": 1, "cache_read": 0.1, "output": 4, "web_search": 10, "service_tiers": {"batch": 0.5}}
    book = PriceBook([PriceEntry.model_validate({**NAMED, **entry, "effective_from": 0}), off("acme", 0.25)])
    columns = {"input_tokens": 3 * MILLION, "cached_input_tokens": MILLION, "output_tokens": MILLION}
    batch = calls(4, tenant=[0, 1, 0, 1], tier=[0, 0, 1, 1], web_search_requests=1000, **columns)
    cost, _ = book.cost(batch, [("acme-ai", "m")], [("globex",), ("acme",)])
    assert (cost / NANO).tolist() == [16.1, 12.075, 13.05, 9.7875]
    unknown = ("openai", "gpt-99-ultra")
    assert usd([off("acme", 0.25)], "acme", unknown) == usd([], "acme", unknown) > 0


def test_the_narrowest_discount_holds_and_among_equals_the_newest() -> None:
    discounts = [
        off("acme", 0.1),
        off("acme", 0.2, 50),
        off("acme", 0.3, 10, provider="openai"),
        off("acme", 0.5, 20, provider="openai", model="gpt-4o"),
        off("acme", 0.0, 60, model="gpt-4o-mini"),
    ]
    paid = {ts: usd(discounts, "acme", ("openai", "gpt-4o"), ts * 1000) / 2.5 for ts in (0, 10, 20, 50)}
    assert paid == {0: 0.9, 10: 0.7, 20: 0.5, 50: 0.5}
    assert usd(discounts, "acme", ("openai", "gpt-4o-mini"), 60_000) == 0.15, "ended for this model"
    assert usd(discounts, "acme", ("anthropic", "claude-sonnet-4-5"), 60_000) == pytest.approx(6 * 0.8)
    assert usd(discounts, "acme", ("", "gpt-4o-2024-11-20"), 30_000) == 2.5 * 0.7, "of the provider that the library finds"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12), st.integers(1, 7))
def test_a_batch_costs_what_its_calls_cost_one_by_one_whatever_tenants_rows_stand_for(
    who: list[tuple[int, int]], step: int
) -> None:
    models = [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("", "made-up")]
    discounts = [off("t0", 0.1), off("t1", 0.1), off("t2", 0.4, provider="anthropic")]
    book, paid = PriceBook(discounts), []
    for lo in range(0, len(who), step):
        part = who[lo : lo + step]
        tenants = [(f"t{(row + lo) % 4}",) for row in range(4)]
        batch = calls(len(part), tenant=[t for t, _ in part], model=[m for _, m in part], input_tokens=MILLION)
        paid += book.cost(batch, models, tenants)[0].tolist()
        alone = [PriceBook(discounts).cost(batch.rows(i, i + 1), models, tenants)[0][0] for i in range(len(part))]
        assert paid[lo:] == alone


def test_a_self_hosted_model_costs_what_its_hardware_costs() -> None:
    book = PriceBook([hosted(gpu_usd_per_hour=2.7, gpus=8, input_tokens_per_second=20_000, output_tokens_per_second=2_000)])
    batch = calls(2, input_tokens=[MILLION, 0], output_tokens=[0, MILLION])
    cost, guessed = book.cost(batch, [("ours", "llama")])
    assert (cost / NANO).tolist() == [0.3, 3.0], "8 x 2.70 USD buy an hour: 72 M tokens read, or 7.2 M written"
    assert not guessed.any()


def test_a_self_hosted_model_without_hardware_costs_nothing_is_no_guess_and_is_said() -> None:
    cost, guessed = PriceBook([hosted()]).cost(calls(1, input_tokens=MILLION), [("ours", "llama")])
    assert (cost[0], guessed[0]) == (0, False)
    runner = CliRunner()
    with runner.isolated_filesystem():
        with open("prices.json", "w") as file:
            json.dump([hosted().model_dump()], file)
        with open("calls.ndjson", "w"):
            pass
        said = runner.invoke(main, ["backtest", "calls.ndjson", "--prices", "prices.json", "--out", "out"])
    assert "prices.json: llama is self-hosted and has no price: its calls cost nothing" in said.output


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"tenant": "a", "discount": 15, "effective_from": 0}, "[0].discount: Input should be less than or equal to 1"),
        ({"discount": 0.1, "effective_from": 0}, "[0].tenant: Field required"),
        ({"tenant": "a", "discount": 0.1, "effective_from": 0, "modle": "m"}, "[0].modle: unknown name; allowed: tenant,"),
        ({**NAMED, "effective_from": 0, "self_hosted": None}, "[0].unit: unknown name; allowed: provider, model,"),
        (
            {
                "provider": "ours",
                "model": "m",
                "effective_from": 0,
                "self_hosted": {"gpu_usd_per_hour": 9, "input_tokens_per_second": 1, "output_tokens_per_second": 1},
            },
            "[0]: more than 1,000 USD per 1M tokens",
        ),
        ({"provider": "ours", "model": "m", "effective_from": 0, "self_hosted": {"gpus": 2}}, "[0].self_hosted.gpu_usd_per"),
        ("free", "[0]: "),
    ],
)
def test_a_mistake_in_an_entry_is_named(entry: object, says: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_document(json.dumps([entry]).encode(), "prices.json", PriceList)
    assert says in str(refused.value)
    assert "<" not in str(refused.value)


def test_the_example_in_the_docs_is_a_price_list() -> None:
    page = (Path(__file__).parents[1] / "docs" / "prices.md").read_text()
    example = page.split("```json")[1].split("```")[0]
    entries = parse_document(example.encode(), "prices.json", PriceList).root
    assert usd([e for e in entries if isinstance(e, Discount)], "acme", ("openai", "gpt-4o"), 1_800_000_000_000) == 2.125
    hosted_here = next(e for e in entries if isinstance(e, SelfHosted) and e.self_hosted)
    assert (hosted_here.price().input, hosted_here.price().output) == (0.3, 3.0)


def test_the_version_changes_with_a_contract_and_with_hardware() -> None:
    versions = {PriceBook(entries).version for entries in ([], [off("a", 0.1)], [off("a", 0.2)], [hosted()])}
    assert len(versions) == 4
