"""From simulated traffic to a score: the lab's commands as their users meet them."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from examples.week import __main__ as week
from stream.cli import main
from stream.lab.baselines import BASELINES
from tests.conftest import Reachable
from tests.test_emit import create

SMALL = ("--days", "2", "--keys", "8")
TELLS = "version: 1\nrules:\n  - {name: tell, match: {}, do: [notify]}\n"
THROTTLES = """version: 1
rules:
  - {name: act, match: {severity: ticket}, do: [notify, {throttle: {strength: 0.9, lease: 15m}}]}
  - {name: tell, match: {}, do: [notify]}
"""


def burnguard(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stolen key, a loop and a look-alike, and two policies."""
    folder = tmp_path_factory.mktemp("lab")
    planted = [word for name in ("leak_fast", "agent_pingpong", "b_one_off_job") for word in ("--scenario", name)]
    said = burnguard("simulate", "--out", folder, "--seed", 4, *SMALL, *planted)
    assert said.exit_code == 0, said.output
    (folder / "tells.yaml").write_text(TELLS)
    (folder / "throttles.yaml").write_text(THROTTLES)
    return folder


def backtest(folder: Path, out: str, *more: object) -> str:
    documents = ("--prices", folder / "prices.json", "--directory", folder / "directory.json")
    said = burnguard("backtest", folder / "calls.ndjson", *documents, "--out", folder / out, *more)
    assert said.exit_code == 0, said.output
    return said.output


def scores(folder: Path, out: str) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads((folder / out / "score.json").read_bytes())}


def alerts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_labelled_backtest_is_scored_beside_every_rivals_rule(folder: Path) -> None:
    said = backtest(folder, "scored", "--labels", folder / "labels.json")
    rows = scores(folder, "scored")
    assert list(rows) == ["burnguard", *(rule.name for rule in BASELINES)]
    told = alerts(folder / "scored/alerts.jsonl")
    labels = json.loads((folder / "labels.json").read_bytes())
    stolen = next(label for label in labels["labels"] if label["scenario"] == "leak_fast")
    about = [a["at"] for a in told if a["key_id"] in stolen["key_ids"] and a["at"] >= stolen["start"]]
    found = rows["burnguard"]["by_scenario"]["leak_fast"]
    assert found["measures"]["recall"] == 1.0
    assert found["delay_s"]["median"] == pytest.approx(min(about) - stolen["material_at"], abs=0.01)
    assert re.search(r"\| leak_fast +\| +1 of 1 \|", said)
    assert "What is found" in (folder / "scored/report.html").read_text()


def test_two_policies_are_shown_side_by_side_with_what_only_one_of_them_does(folder: Path) -> None:
    policies = ("--policy", folder / "tells.yaml", "--against", folder / "throttles.yaml")
    said = backtest(folder, "both", "--labels", folder / "labels.json", *policies)
    acts = [alert for alert in alerts(folder / "both/against.jsonl") if alert["action"] == "throttle"]
    assert acts and not any(alert["action"] == "throttle" for alert in alerts(folder / "both/alerts.jsonl"))
    assert "only burnguard, tells.yaml: 0 alerts" in said
    assert f"only burnguard, throttles.yaml: {len(acts)} alerts" in said
    rows = scores(folder, "both")
    spent = [rows[f"burnguard, {name}.yaml"]["measures"]["usd_before_action"]["value"] for name in ("tells", "throttles")]
    assert spent[1] < spent[0]


def test_without_labels_there_is_a_report_and_no_score(folder: Path) -> None:
    said = backtest(folder, "plain")
    assert (folder / "plain/report.html").read_text().startswith("<!doctype html>")
    assert not (folder / "plain/score.json").exists()
    assert "What is found" not in said


def test_a_topic_is_played_as_its_file_is_and_a_part_of_it_as_that_part(
    broker: Reachable, topic_prefix: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNGUARD_KAFKA_BOOTSTRAP", broker.bootstrap)
    topic = f"{topic_prefix}-usage"
    kept = {"message.timestamp.type": "CreateTime", "retention.ms": "-1", "message.timestamp.before.max.ms": str(2**62)}
    create(broker.bootstrap, topic, 3, **kept)
    calls = [json.loads(line) for line in (folder / "calls.ndjson").read_bytes().splitlines()]
    producer = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": "lz4"})
    for call in calls:
        at = round(call["arrival_ts"] * 1000)
        producer.produce(topic, json.dumps(call).encode(), call["tenant"].encode(), timestamp=at)
        producer.poll(0)
    producer.flush()

    def totals(said: str) -> list[str]:
        return [line for line in said.splitlines() if line.startswith(("calls", "unique calls", "USD", "quarantined"))]

    documents = ("--directory", folder / "directory.json")
    whole = burnguard("backtest", f"kafka:{topic}", *documents, "--out", folder / "topic")
    assert whole.exit_code == 0, whole.output
    assert totals(whole.output) == totals(backtest(folder, "file"))
    stolen = {a["key_id"] for a in alerts(folder / "file/alerts.jsonl")}
    assert {a["key_id"] for a in alerts(folder / "topic/alerts.jsonl")} == stolen
    begin, end = calls[1000]["arrival_ts"], calls[-1000]["arrival_ts"]
    part = burnguard("backtest", f"kafka:{topic}@{begin}..{end}", "--out", folder / "part")
    inside = sum(round(begin * 1000) <= round(call["arrival_ts"] * 1000) < round(end * 1000) for call in calls)
    assert totals(part.output)[0].split() == ["calls", str(inside)]


def test_a_topic_that_is_not_there_is_said(broker: Reachable, topic_prefix: str, tmp_path: Path) -> None:
    environment = {"BURNGUARD_KAFKA_BOOTSTRAP": broker.bootstrap}
    arguments = ["backtest", f"kafka:{topic_prefix}-none", "--out", str(tmp_path)]
    said = CliRunner().invoke(main, arguments, env=environment)
    assert said.exit_code == 1
    assert f"{topic_prefix}-none: there is no such topic" in said.output


def test_trials_pool_what_each_seed_and_background_gives(tmp_path: Path, folder: Path) -> None:
    backgrounds = ("--background", folder / "calls.ndjson", "--background", folder / "calls.ndjson")
    said = burnguard("trials", "--out", tmp_path, "--seeds", "1-2", "--count", 3, *backgrounds)
    assert said.exit_code == 0, said.output
    ours = scores(tmp_path, "")["burnguard"]
    assert ours["trials"] == 4
    low, high = ours["measures"]["recall"]["interval"]
    assert 0 <= low <= ours["measures"]["recall"]["value"] <= high <= 1


def test_the_sample_week_is_fresh(tmp_path: Path) -> None:
    week.backtest(week.HERE, tmp_path)
    for name in ("alerts.jsonl", "score.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (week.HERE / name).read_bytes(), name
    week.simulate(tmp_path)
    made, kept = (gzip.decompress((folder / "calls.ndjson.gz").read_bytes()).splitlines() for folder in (tmp_path, week.HERE))
    assert len(made) == len(kept)
    assert len(set(made) ^ set(kept)) <= len(kept) // 500  # the last digit of a logarithm differs between processors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trials", "--out", "o", "--seeds", "8-1"), "give FIRST-LAST"),
        (("trials", "--out", "o", "--seeds", "x"), "give FIRST-LAST"),
        (("backtest", "kafka:usage@yesterday..", "--out", "o"), "'yesterday' is neither an ISO 8601 time nor epoch seconds"),
        (("backtest", "nothing.ndjson", "--out", "o"), "nothing.ndjson: no such file"),
        (("trials", "--out", "o", "--seeds", "²-3"), "give FIRST-LAST"),
        (("trials", "--out", "o", "--seeds", "1-99999999999999999999"), "give FIRST-LAST"),
        (("simulate", "--out", "o", "--days", "nan"), "nan is no number"),
        (("simulate", "--out", "o", "--scenario", "nothing"), "'nothing' is not one of"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = burnguard(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_labels_of_something_else_are_refused_by_name(folder: Path) -> None:
    result = burnguard("backtest", folder / "calls.ndjson", "--out", folder / "x", "--labels", folder / "directory.json")
    assert result.exit_code == 1
    assert "directory.json: no labels as `burnguard simulate` writes them" in result.output
