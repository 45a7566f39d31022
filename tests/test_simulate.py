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
from stream.lab.simulate import drawn, simulated
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


def test_the_page_of_scenarios_is_fresh() -> None:
    assert table() in Path("docs/scenarios.md").read_text()
