"""Labelled traffic: it is what its labels say, and the same for the same seed."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from schemas.batch import NANO
from schemas.decode import Decoder
from schemas.directory import Directory
from schemas.prices import PriceList
from schemas.usage import UsageEvent
from stream.cli import main
from stream.dedupe import MOST_IDS, SeenIds
from stream.documents import read_document
from stream.lab.labels import Label, Labels
from stream.lab.scenarios import SCENARIOS, table
from stream.lab.scene import DEAR
from stream.lab.simulate import Simulated, drawn, simulated
from stream.pricing import PriceBook
from stream.sources import LineReader, read_file

DAYS, KEYS = 2.0, 12
NAMES = [scenario.name for scenario in SCENARIOS]
ONE = {scenario.name: [scenario] for scenario in SCENARIOS}
BESIDE = {"cron_storm", "b_load_test"}
"""These also bring ordinary calls that are no part of what they are labelled for."""


def written(folder: Path, seed: int, names: list[str], source: Path | None = None, days: float = DAYS) -> Labels:
    made = simulated(seed, [ONE[name][0] for name in names], source, KEYS, days)
    assert sum(made.write(folder)) == len(made.calls)
    return made.labels


def usd(folder: Path) -> float:
    """What the unique calls of a file cost, without the price changes that come with it."""
    decoder, book, seen, total = Decoder(), PriceBook(), SeenIds(most=MOST_IDS), 0
    reader = LineReader(decoder)
    for batch in read_file(folder / "calls.ndjson", reader):
        cost, _ = book.cost(batch, decoder.models.names)
        total += int(cost[seen.first_seen(batch.event)].sum())
    assert not reader.quarantined
    return total / NANO


def events_of(made: Simulated, folder: Path) -> list[dict[str, Any]]:
    for _ in made.write(folder):
        pass
    return events(folder)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "calls.ndjson").read_bytes().splitlines()]


def during(rows: list[dict[str, Any]], label: Label) -> list[dict[str, Any]]:
    own = [r for r in rows if r["tenant"] == label.tenant and ("*" in label.key_ids or r["key_id"] in label.key_ids)]
    return [r for r in own if label.start <= r["ts"] <= label.end]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    written(folder, 5, [])
    return folder


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    names = [scenario.name for scenario in drawn(7, 8)]
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        written(tmp_path / folder, seed, names)
    files = ("calls.ndjson", "labels.json", "directory.json", "prices.json")
    one, again, other = ([(tmp_path / folder / name).read_bytes() for name in files] for folder in "abc")
    assert one == again
    assert one[0] != other[0]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_label_says_it_cost_is_what_the_file_costs_more(name: str, plain: Path, tmp_path: Path) -> None:
    (label,) = written(tmp_path, 5, [name]).labels
    assert label.scenario == name and label.lookalike == name.startswith("b_")
    assert label.start <= label.material_at <= label.end
    if name not in BESIDE and name != "telemetry_gap":
        assert label.usd == pytest.approx(max(usd(tmp_path) - usd(plain), 0), abs=0.02)
    spent = [so_far for _, so_far in label.curve]
    assert spent == [] or spent[-1] == pytest.approx(label.usd, abs=1e-3)
    assert label.start >= Labels.read(tmp_path / "labels.json").scored_from
    read_document(tmp_path / "prices.json", PriceList)
    known = read_document(tmp_path / "directory.json", Directory)
    assert "*" in (label.tenant, *label.key_ids) or all(known.key(label.tenant, key) for key in label.key_ids)


def test_every_line_is_a_usage_event_and_every_price_of_the_background_is_known(tmp_path: Path) -> None:
    written(tmp_path, 3, [name for name in NAMES if name != "unpriced_model"], days=2.0)
    rows = events(tmp_path)
    for row in rows[:: max(len(rows) // 2_000, 1)]:
        UsageEvent.model_validate(row)
    book = PriceBook()
    models = {(row["provider"], row["model"]) for row in rows} | set(DEAR)
    assert [model for model in models if (found := book._find(*model)) is None or found.guessed] == []
    arrived = [row["arrival_ts"] for row in rows]
    assert arrived == sorted(arrived)


def test_every_label_has_calls_and_keys_of_its_own() -> None:
    for seed in range(20, 24):
        made = simulated(seed, SCENARIOS, None, 60, 2.0)
        of: Counter[tuple[str, str]] = Counter()
        for label in made.labels.labels:
            assert label.end > label.start or label.scenario == "b_price_change", (seed, label)
            of.update((label.tenant, key) for key in label.key_ids)
        assert max(of.values()) == 1


def test_what_happens_to_a_whole_tenant_leaves_keys_for_the_rest() -> None:
    assert len(simulated(40, SCENARIOS, None, 80, 4.0).left_out) < 5


def test_no_field_alone_gives_an_incident_away(tmp_path: Path) -> None:
    """What ordinary calls never say, a detector could find without looking at anything else."""
    rows = events_of(simulated(5, [], None, 40, 2.0), tmp_path)
    said = {name for row in rows for name in row}
    assert {"requested_model", "reasoning_tokens", "response_cache"} <= said
    assert any(row["attempt"] > 1 for row in rows)
    prompts = Counter(row["prompt_fingerprint"] for row in rows)
    assert 0.01 < sum(count for count in prompts.values() if count > 2) / len(rows) < 0.5
    ids = [row["event_id"] for row in events_of(simulated(5, SCENARIOS, None, 40, 2.0), tmp_path)]
    assert abs(np.corrcoef(np.arange(len(ids)), np.argsort(np.argsort(ids)))[0, 1]) < 0.1


def test_what_is_planted_is_flushed_with_all_else() -> None:
    for seed in range(4):
        made = simulated(seed, ONE["spend_spike"] + ONE["agent_pingpong"], None, 40, 2.0)
        for label in made.labels.labels:
            own = made.calls["key"] == made.words.keys.index((label.tenant, label.key_ids[0]))
            arrived = np.round(made.calls["arrival_ts"] % 10, 1)
            before = np.unique(arrived[own & (made.calls["ts"] < label.start - 20)])
            after = arrived[own & (made.calls["ts"] > label.start)]
            assert len(before) > 20 or np.isin(after, before).mean() > 0.9, (seed, label.scenario)


def test_embeddings_have_no_answers_and_what_is_refused_no_tokens(tmp_path: Path) -> None:
    for seed in range(2):
        for row in events_of(simulated(seed, SCENARIOS, None, 30, 2.0), tmp_path):
            assert row["operation"] == "chat" or (row["output_tokens"] == 0 and "claude" not in row["model"])
            assert row["status"] in (200, 499) or row["input_tokens"] == 0


def test_a_retry_comes_after_what_it_repeats(tmp_path: Path) -> None:
    for seed in (1, 19, 21):  # with clocks that are behind
        rows = events_of(simulated(seed, ONE["retry_storm_parse"], None, 30, 2.0), tmp_path)
        tried = Counter(row["prompt_fingerprint"] for row in rows if row["attempt"] == 1)
        first = {row["prompt_fingerprint"]: row["ts"] for row in rows if row["attempt"] == 1}
        once = [row for row in rows if row["attempt"] > 1 and tried[row["prompt_fingerprint"]] == 1]
        assert once and all(row["ts"] > first[row["prompt_fingerprint"]] for row in once), seed


def test_a_jumping_clock_is_labelled_for_when_it_jumped() -> None:
    for seed in range(9, 12):
        usual = {call["call"]: call["ts"] for call in simulated(seed, [], None, KEYS, DAYS).calls}
        jumped = simulated(seed, ONE["b_clock_skew"], None, KEYS, DAYS)
        (label,) = jumped.labels.labels
        moved = jumped.calls[[abs(usual[call["call"]] - call["ts"]) > 1 for call in jumped.calls]]
        assert label.start - 60 <= moved["arrival_ts"].min() <= moved["arrival_ts"].max() <= label.end + 400


def claims(folder: Path, rows: list[dict[str, Any]], prices: PriceBook) -> list[float]:
    """What each call that claims a cost claims, over what it costs."""
    decoder = Decoder()
    batches = read_file(folder / "calls.ndjson", LineReader(decoder))
    usd = [prices.cost(batch, decoder.models.names)[0] / NANO for batch in batches]
    return [
        row["cost_usd"] / cost
        for row, cost in zip(rows, np.concatenate(usd), strict=True)
        if row.get("cost_usd") and cost > 1e-6
    ]


def test_who_claims_what_a_call_cost_knows_a_new_price(tmp_path: Path) -> None:
    for seed in (3, 4, 5):
        rows = events_of(simulated(seed, ONE["b_price_change"], None, 30, DAYS), tmp_path)
        prices = PriceBook(list(read_document(tmp_path / "prices.json", PriceList).root))
        assert {round(share, 2) for share in claims(tmp_path, rows, prices)} == {1.0}


def test_a_claim_in_your_own_events_follows_what_was_planted(tmp_path: Path, plain: Path) -> None:
    yours = [{**row, "cost_usd": (row["input_tokens"] + row["output_tokens"]) * 1e-5} for row in events(plain)]
    (tmp_path / "yours.ndjson").write_text("".join(json.dumps(row) + "\n" for row in yours))
    made = simulated(5, ONE["prompt_bloat_step"], tmp_path / "yours.ndjson", KEYS, DAYS)
    before = {row["event_id"]: row for row in yours}
    grown = [r for r in events_of(made, tmp_path) if r["input_tokens"] > before[r["event_id"]]["input_tokens"]]
    assert grown and all(row["cost_usd"] > 1.5 * before[row["event_id"]]["cost_usd"] for row in grown)


def test_a_budget_does_not_name_the_tenant_that_burns(tmp_path: Path) -> None:
    known = simulated(3, ONE["budget_burn"], None, 60, 4.0).directory["tenants"]
    assert 0.2 < sum("monthly_budget_usd" in tenant for tenant in known) / len(known) < 0.9


def test_a_resold_key_gets_hundreds_of_users_and_ci_a_new_runner_of_one_country_each_time(tmp_path: Path) -> None:
    for seed in range(3):
        (label,) = (made := simulated(seed, ONE["leak_proxy_resale"], None, 30, 4.0)).labels.labels
        own = during(events_of(made, tmp_path), label)
        assert len({row["user_id"] for row in own if "user_id" in row}) > 120
    (label,) = (made := simulated(5, ONE["ci_prod_key"], None, KEYS, 4.0)).labels.labels
    runs = [row for row in during(events_of(made, tmp_path), label) if row["user_agent"] == "pytest-llm/2"]
    assert len({row["country"] for row in runs}) == 1 and len({row["client_ip"] for row in runs}) > 9


def test_what_times_out_fails_before_it_is_tried_again(tmp_path: Path) -> None:
    (label,) = (made := simulated(5, ONE["retry_storm_timeout"], None, KEYS, DAYS)).labels.labels
    own = during(events_of(made, tmp_path), label)
    again = {row["prompt_fingerprint"] for row in own if row["attempt"] > 1}
    assert {r["status"] for r in own if r["prompt_fingerprint"] in again and r["attempt"] == 1 and "session_id" in r} == {499}


def test_nothing_happens_before_the_labels_count(tmp_path: Path, plain: Path) -> None:
    labels = written(tmp_path, 5, ["leak_fast"])
    assert labels.scored_from - 1_788_739_200.0 == DAYS * 43_200
    ids = {row["event_id"] for row in events(tmp_path) if row["arrival_ts"] < labels.scored_from}
    assert ids == {row["event_id"] for row in events(plain) if row["arrival_ts"] < labels.scored_from}


def test_a_leak_comes_from_abroad_with_probes_first(tmp_path: Path) -> None:
    (label,) = written(tmp_path, 5, ["leak_fast"]).labels
    own = [r for r in events(tmp_path) if r["key_id"] == label.key_ids[0]]
    home = {r["country"] for r in own if r["ts"] < label.start - 10}
    away = [r for r in during(own, label) if r["country"] not in home]
    assert away and min(r["ts"] for r in away) == pytest.approx(label.start, abs=0.01)
    times = np.sort([r["ts"] for r in away])
    pause = times[np.flatnonzero(np.diff(times) > 230)[0]]
    probes = [r for r in away if r["ts"] <= pause]
    assert len({r["model"] for r in probes}) > 2 and max(r["output_tokens"] for r in probes) <= 1


def test_a_broken_cache_hits_no_more_and_the_requests_stay(tmp_path: Path, plain: Path) -> None:
    (label,) = written(tmp_path, 5, ["cache_break_full"]).labels
    broken, whole = during(events(tmp_path), label), during(events(plain), label)
    assert {r["event_id"] for r in broken} == {r["event_id"] for r in whole}

    def hit(rows: list[dict[str, Any]]) -> float:
        return float(sum(r.get("cached_input_tokens", 0) for r in rows) / sum(r["input_tokens"] for r in rows))

    assert hit(broken) < 0.1 < 0.5 < hit(whole)


def test_a_loop_repeats_its_prompts_and_an_agent_at_work_does_not(tmp_path: Path) -> None:
    for name, few in (("agent_loop_tight", True), ("agent_pingpong", True), ("b_agent_marathon", False)):
        (label,) = written(tmp_path / name, 6, [name]).labels
        rows = [r for r in during(events(tmp_path / name), label) if r["status"] == 200]
        session = Counter(r["session_id"] for r in rows).most_common(1)[0][0]
        prompts = [r["prompt_simhash"] for r in rows if r["session_id"] == session]
        bits = np.unpackbits(np.array([int(p, 16) for p in prompts], np.uint64).view(np.uint8).reshape(-1, 8), axis=1)
        near = np.mean([(np.count_nonzero(bits[:n] != bits[n], axis=1) <= 6).any() for n in range(20, len(bits))])
        assert near > 0.9 if few else near < 0.05


def test_late_calls_are_sent_twice_and_a_jumping_clock_moves_only_the_events_time(tmp_path: Path, plain: Path) -> None:
    (late,) = written(tmp_path / "late", 5, ["b_late_dup"]).labels
    ids = Counter(r["event_id"] for r in during(events(tmp_path / "late"), late))
    assert sum(count > 1 for count in ids.values()) > 0.2 * len(ids)
    assert max(r["arrival_ts"] - r["ts"] for r in during(events(tmp_path / "late"), late)) > 120
    written(tmp_path / "skew", 5, ["b_clock_skew"])
    skewed, usual = (sorted((r["arrival_ts"], r["event_id"]) for r in events(f)) for f in (tmp_path / "skew", plain))
    assert dict((name, at) for at, name in reversed(skewed)) == dict((name, at) for at, name in reversed(usual))
    assert {r["ts"] for r in events(tmp_path / "skew")} != {r["ts"] for r in events(plain)}


def test_a_gap_takes_calls_out_of_one_tenant(tmp_path: Path, plain: Path) -> None:
    (label,) = written(tmp_path, 5, ["telemetry_gap"]).labels
    left, usual = during(events(tmp_path), label), during(events(plain), label)
    assert len(left) < 0.5 * len(usual)
    assert label.usd == 0 and label.material and label.action == "notify"


AGENTIC = "session,agent,turn,t_s,model,input_tokens,cached_tokens,output_tokens,api_time_s,think_time_s,stop,input_types"
TRACES = {
    "servegen.csv": [
        "t_s,client,input_tokens,output_tokens",
        "0.5,7,100,10",
        "9.1,8,200,20",
        "90000,7,300,30",
        "200000,8,9,1",
    ],
    "azure.csv": [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:16:50.9951690,396,109",
    ],
    "mooncake.jsonl": [
        '{"timestamp": 0, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 2]}',
        '{"timestamp": 3000, "input_length": 1100, "output_length": 50, "hash_ids": [0, 1, 3]}',
    ],
    "sessions.csv": [
        AGENTIC,
        "1,0,0,0.00,claude-opus-4-5-20251101,71175,0,169,7.34,0.00,tool_use,text",
        "1,0,1,19.00,claude-opus-4-5-20251101,72762,71168,296,9.19,12.00,tool_use,tool_result",
    ],
}


@pytest.mark.parametrize("name", list(TRACES))
def test_a_real_trace_is_a_background(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress("\n".join(TRACES[name]).encode()))
    labels = written(tmp_path / "out", 1, ["leak_dormant_key"], path, days=4.0)
    rows = [r for r in events(tmp_path / "out") if r["key_id"] not in labels.labels[0].key_ids]
    assert labels.background == path.name and rows
    assert all(r["input_tokens"] >= r.get("cached_input_tokens", 0) for r in rows)
    if name in ("mooncake.jsonl", "sessions.csv"):
        assert any(r.get("cached_input_tokens") for r in rows if r["status"] == 200)


def test_your_own_events_stay_as_they_are(tmp_path: Path) -> None:
    written(tmp_path / "yours", 2, ["price_mismatch"])
    yours = tmp_path / "yours/calls.ndjson"
    labels = written(tmp_path / "out", 4, ["leak_dormant_key"], yours)
    before = {r["event_id"]: r for r in events(tmp_path / "yours")}
    after = {r["event_id"]: r for r in events(tmp_path / "out") if r["key_id"] not in labels.labels[0].key_ids}
    for row in (*before.values(), *after.values()):
        del row["arrival_ts"]  # of a call that was sent twice one or the other
    assert before == after


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


def test_the_command_says_what_it_wrote_and_what_it_can(tmp_path: Path) -> None:
    said = command("--out", tmp_path, "--days", 2, "--keys", 6, "--scenario", "leak_fast", "--scenario", "b_one_off_job")
    assert said.exit_code == 0, said.output
    assert "1 incidents" in said.output and "1 look-alikes" in said.output
    listed = command("--list").output
    assert all(scenario.name in listed and scenario.says in listed for scenario in SCENARIOS)


def test_a_file_that_is_neither_trace_nor_events_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    said = command("--out", tmp_path / "o", "--background", tmp_path / "odd.csv")
    assert said.exit_code == 1
    assert "odd.csv: neither a trace that is known nor usage events" in said.output


def test_a_background_without_a_call_is_refused_and_a_broken_line_named(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "calls.ndjson"
    for text in ("", "\n"):
        path.write_text(text)
        said = command("--out", tmp_path / "o", "--background", path)
        assert (said.exit_code, "calls.ndjson: is empty" in said.output) == (1, True)
    first, second, *_ = (plain / "calls.ndjson").read_text().splitlines()
    path.write_text(f"{first}\n\n{second}\n")
    assert command("--out", tmp_path / "o", "--background", path, "--count", 0).exit_code == 0
    path.write_text(f"{first}\n\n{second[:40]}\n")
    said = command("--out", tmp_path / "o", "--background", path)
    assert (said.exit_code, "usage events: line 3: " in said.output) == (1, True)


def test_the_page_of_scenarios_is_fresh() -> None:
    assert table() in Path("docs/scenarios.md").read_text()
