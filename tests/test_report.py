"""The report of a backtest, as its readers meet it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors.gap import offset_gap
from schemas.batch import NANO, Ms
from schemas.directory import Directory
from schemas.documents import parse_document
from schemas.incidents import Incident, IncidentState, News
from schemas.orders import Order
from schemas.policy import Policy
from schemas.prices import Entry, PriceList
from schemas.signals import Contribution, Evidence
from stream.lab.backtest import Backtest, File, Played, Totals, backtest
from stream.lab.labels import Label, Labels
from stream.lab.report import report
from stream.lab.spending import Spent
from stream.lab.tables import Table
from stream.live import usd as dollars
from tests.test_run import BURN_AT, BURN_S, POLICY, PRICES, history

START = 1_780_000_000
VOID = {"meta", "link", "path", "rect", "br"}
MINUTE: Ms = 60_000


class Page(HTMLParser):
    """A page as it is read: its words, its tags; every tag that is opened must be closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)


def played(events: Iterable[dict[str, Any]], folder: Path, prices: Any = PRICES, policy: str = POLICY) -> Backtest:
    """A real backtest of these calls."""
    folder.mkdir(exist_ok=True)
    (folder / "calls.ndjson").write_text("".join(json.dumps(e) + "\n" for e in events))
    book = parse_document(json.dumps(prices).encode(), "prices.json", PriceList)
    rules = parse_document(policy.encode(), "policy.yaml", Policy)
    entries: list[Entry] = list(book.root)
    return backtest([File(folder / "calls.ndjson")], entries, Directory(), [rules], folder)


@pytest.fixture(scope="module")
def burn(tmp_path_factory: pytest.TempPathFactory) -> Backtest:
    """A calm day of five keys, then one spends $150 in five minutes."""
    return played(history(), tmp_path_factory.mktemp("burn"))


def planted(kind: str | None, key_id: str = "key-1", start: float = BURN_AT) -> Labels:
    end = START + start + BURN_S
    label = Label(
        id="l1",
        scenario="a stolen key",
        kind=kind,
        tenant="acme",
        key_ids=(key_id,),
        start=START + start,
        end=end,
        material_at=START + start + 10,
        material=True,
        usd=150.0,
        action="none" if kind is None else "throttle",
        curve=((START + start, 0.0), (end, 150.0)),
    )
    return Labels(seed=7, background="five calm keys", scored_from=START + 3600, until=end + 3600, keys=5, labels=(label,))


def of(result: Backtest, labels: Labels | None = None, source: str = "calls.ndjson", score: tuple[Table, ...] = ()) -> str:
    return report(result.played[0], result, source, labels, score)


def money(pattern: str, text: str) -> float:
    """The amount that stands where the pattern says USD."""
    found = re.search(pattern.replace("USD", r"(-?)\$([\d,]+\.\d\d)"), text)
    assert found is not None, pattern
    return float(f"{found[1]}{found[2].replace(',', '')}")


def test_the_numbers_in_the_page_are_the_backtests(burn: Backtest) -> None:
    text = Page(of(burn)).text
    assert f"spent {dollars(burn.totals.usd)}" in text
    assert f"calls {burn.totals.calls:,} keys 5 tenants 1" in text
    assert "incidents 1 " in text
    injected = sum(e["output_tokens"] * 7.25e-6 for e in history() if e["input_tokens"] == 0)
    assert money("came to USD over normal", text) == pytest.approx(injected, rel=0.01)
    first, applied = burn.played[0].alerts
    assert f"noticed {first.at - START - BURN_AT:.0f} s later" in text
    assert "90% of its calls were refused" in text and applied.action == "throttle"
    for what, said in (
        ("applied", "90% of its calls refused until"),
        ("renewed", "renewed until"),
        ("reverted", "taken back,"),
    ):
        assert text.count(said) == sum(news.what == f"throttle_{what}" for news in burn.played[0].news) > 0


def test_the_balance_adds_up_and_is_what_the_verdict_says(burn: Backtest) -> None:
    for labels in (None, planted("leaked_key"), planted(None)):
        text = Page(of(burn, labels)).text
        lost = money("Ordinary spend refused with it(?:, in all incidents)? USD", text)
        lost += money("All that . false throttles? would have refused USD", text) if labels else 0
        net = money("Saved, net USD", text)
        assert net == pytest.approx(money("Burn that throttles would have refused USD", text) + lost, abs=0.02)
        assert abs(net) == abs(money("net loss of USD" if net < 0 else "saved USD net", text))


def test_an_action_on_a_look_alike_costs_all_that_it_refuses(burn: Backtest) -> None:
    right, wrong = (Page(of(burn, planted(kind))).text for kind in ("leaked_key", None))
    assert money("Saved, net USD", right) > 100 > 0 > -100 > money("Saved, net USD", wrong)
    assert "Right: throttle. Done: throttled." in right
    assert "Right: leave it alone. Done: throttled, which is wrong." in wrong
    assert "Throttled by mistake: 1 of 1 look-alike." in wrong


def test_what_was_planted_and_never_noticed_is_said(burn: Backtest) -> None:
    text = Page(of(burn, planted("leaked_key", "key-3", start=7200))).text
    assert "Noticed: 0 of 1 planted incident that cost enough to matter." in text
    assert "Not noticed" in text and "acme / key-3 “a stolen key”" in text
    assert "a false alarm, acted on" in text


def test_the_page_is_whole_and_needs_no_network(burn: Backtest) -> None:
    html = of(burn, planted("leaked_key"), score=(Table("Recall", ("class", "found"), (("leaked_key", "1 of 1"),)),))
    page = Page(html)
    assert "leaked_key 1 of 1" in page.text
    assert not re.search(r"//|src=|url\(|@import|<script", html)
    links = [attributes["href"] for tag, attributes in page.tags if tag in ("a", "link")]
    ids = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert links and all(link in {"data:,", *ids} for link in links)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) > 3 and all(a.get("aria-label") or a.get("aria-hidden") for a in drawings)


def test_a_runbook_that_has_an_address_is_a_link(burn: Backtest) -> None:
    html = report(burn.played[0], burn, "calls.ndjson", runbooks="https://wiki.example/runbooks/")
    assert ("a", {"href": "https://wiki.example/runbooks/spend_spike.md"}) in Page(html).tags


def test_the_same_input_gives_the_same_bytes(burn: Backtest, tmp_path: Path) -> None:
    assert of(burn, planted("leaked_key")) == of(played(history(), tmp_path), planted("leaked_key"))


def test_names_that_others_chose_are_words_and_nothing_else(tmp_path: Path) -> None:
    tenant, model, key = "<script>alert(1)</script>", "'\"><img src=x onerror=alert(2)>", "\u200bkey</td>"
    named = [{**e, "tenant": tenant, "model": model, "key_id": f"{key}{e['key_id']}"} for e in history()]
    result = played(named, tmp_path, prices=[{**PRICES[0], "model": model}])
    labels = planted("<b>kind</b>")
    score = (Table("<i>title</i>", ("<u>",), (("<s>cell</s>",),)),)
    html = of(result, labels, source="<script>alert(3)</script>.ndjson", score=score)
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "b2", "i", "u", "s"})
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for words in (tenant, "<script>alert(3)</script>.ndjson", "<i>title</i>", "<s>cell</s>"):
        assert words in page.text
    assert "\u200b" not in html


def test_calm_traffic_reads_well(tmp_path: Path) -> None:
    text = Page(of(played(history(burn=False), tmp_path))).text
    assert "No incident: nobody would have been told anything, and nothing would have been refused." in text
    assert "Every key stayed within its own habit" in text
    assert not re.search(r"\b(None|nan|inf)\b", text.replace("None. Every", ""))


def test_a_record_without_a_call_reads_well(tmp_path: Path) -> None:
    text = Page(of(played([], tmp_path), planted("leaked_key"))).text
    assert "No incident" in text and "calls 0 keys 0 tenants 0" in text
    assert "Spend over time" not in text


def test_a_policy_that_only_tells_saves_nothing_and_says_so(tmp_path: Path) -> None:
    tell = "version: 1\nrules: [{name: tell, match: {}, do: [notify]}]\n"
    text = Page(of(played(history(), tmp_path, policy=tell))).text
    assert "This policy would have told people and refused nothing." in text
    assert "A page was sent; the policy wants no more." in text
    assert "saved, net $0.00" in text


def test_why_nothing_was_done_is_said(tmp_path: Path) -> None:
    """The burn comes after half a day: no baseline has seen a whole one."""
    young = [e for e in history() if e["ts"] > START + BURN_AT / 2]
    text = Page(of(played(young, tmp_path))).text
    assert "A page was sent, and nothing else was done, because its baseline has not seen a whole day." in text
    assert "This policy would have told people and refused nothing." in text


def test_what_is_lost_in_the_data_is_told_without_dollars(burn: Backtest) -> None:
    gap = offset_gap(3, 1000, 250, (START + 7200) * 1000, "")
    incident = Incident("g", "data", gap.kind, gap.tenant, gap.key_id, gap.at, gap.at, gap.evidence, "ticket")
    heard = replace(burn.played[0], news=(News(gap.at, "incident_opened", "", incident), *burn.played[0].news))
    text = Page(report(heard, burn, "calls.ndjson")).text
    assert "2. everybody telemetry gap, ticket, open calls lost of partition 3 from offset 1000: 250 calls." in text
    assert "2 incidents came to $149.99 over normal." in text


def test_one_call_from_a_broken_clock_does_not_flatten_the_chart(tmp_path: Path) -> None:
    stray = {**history()[0], "event_id": "stray", "ts": 86_400.0}
    text = Page(of(played([*history()[:2000], stray, *history()[2000:]], tmp_path))).text
    assert "span 1 d" in text
    assert "Fri 2 Jan 1970 1 $0.00" in text


def many(incidents: int, days: int, name: str = "key") -> Backtest:
    """A record made by hand: `incidents` keys that each burn $10 a minute for an hour, throttled 15 times in it."""
    begin, rng = 29_000_000, random.Random(5)
    names = tuple((f"{name}{n % 30}", f"{name}-{n}") for n in range(incidents))
    usd: Counter[tuple[int, int]] = Counter()
    for _ in range(40_000):
        usd[rng.randrange(incidents), begin + rng.randrange(days * 1440)] += rng.randrange(NANO)
    news = []
    for n, (tenant, key_id) in enumerate(names):
        at = begin + rng.randrange(days * 1440 - 120)
        for minute in range(at, at + 60):
            usd[n, minute] += rng.randrange(5 * NANO, 15 * NANO)
        news += _story(n, tenant, key_id, at * MINUTE)
    key, minutes = np.array(sorted(usd)).T
    nano = np.array([usd[place] for place in sorted(usd)])
    spent = Spent(names, key.astype(np.int32), minutes, nano, np.ones(len(key), np.int64))
    rules = parse_document(POLICY.encode(), "policy.yaml", Policy)
    totals = Totals(len(key), len(key), int(nano.sum()), 0)
    return Backtest(totals, spent, (Played(rules, tuple(sorted(news, key=lambda one: one.at)), ()),))


def _story(n: int, tenant: str, key_id: str, began: Ms) -> list[News]:
    reasons = tuple(Contribution(f"{tenant} reason {r}", 10.0, 0.1, "USD") for r in range(6))
    evidence = Evidence(10.0, 0.1, MINUTE, began, 600.0, 10.0, 6, None, 0.4, reasons)

    def heard(at: Ms, **more: Any) -> Incident:
        return Incident(f"i{n}", "spend", "spend_spike", tenant, key_id, began, at, evidence, "page", told="page", **more)

    def throttle(at: Ms) -> Order:
        lease = (0.9, MINUTE, at, at, at + MINUTE)
        return Order(f"o{n}-{at}", f"i{n}", 0, "throttle", tenant, key_id, *lease, "", applied_at=at)

    at, end = began + 2 * MINUTE, began + 60 * MINUTE
    news = [News(at, "incident_opened", "", heard(at)), News(at, "notified", "", heard(at))]
    for now in range(at, at + 15 * MINUTE, MINUTE):
        news.append(News(now, "throttle_applied", "", heard(now), throttle(now)))
        news.append(News(now, "throttle_failed", f"{key_id} was not taken back", heard(now), throttle(now)))
    return [*news, News(end, "incident_resolved", "", heard(end, state=IncidentState.RESOLVED, resolved_at=end))]


def _label(n: int, scenario: str, incident: Incident) -> Label:
    start = incident.evidence.since / 1000
    curve = ((start, 0.0), (start + 3600, 600.0))
    end = start + 3600
    return Label(
        f"l{n}", scenario, "leaked_key", incident.tenant, (incident.key_id,), start, end, start, True, 600.0, "rotate", curve
    )


@pytest.mark.parametrize("name", ["key", "<&'\">" * 200])
def test_the_page_stays_small_however_many_incidents_and_says_what_it_leaves_out(name: str) -> None:
    result = many(500, 30, name)
    opened = [n.incident for n in result.played[0].news if n.incident is not None and n.what == "incident_opened"]
    really = tuple(_label(n, name, incident) for n, incident in enumerate(opened))
    score = (Table("Recall", (name, name), ((name, name),) * 5000),)
    html = of(result, Labels(7, name, 0, 3e9, 5, really), source=name, score=score)
    assert len(html.encode()) < 1_000_000
    text = Page(html).text
    assert "incidents 500 " in text
    assert re.search(r"338 more incidents, none over \$[\d,.]+, \$[\d,.]+ together, left out here", text)
    assert "4850 more rows are left out here" in text
    assert re.search(r"\d+ more, left out here", text)
