"""`burnguard usage`: what the ledger holds of past hours, as people, spreadsheets and programs read it."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actions.ledger import Deposed, Ledger
from schemas.batch import NANO
from schemas.rollup import Rollup
from stream.cli_usage import hours_of
from stream.money.statement import ALL_TIME
from stream.windows import HOUR
from tests.conftest import NewLedger
from tests.test_hearing import ROLLUP, Term
from tests.test_run import PRICES, burnguard

START = 1_790_000_000
DAY = 86_400


def events() -> list[dict[str, Any]]:
    """Three days of two tenants; one call is sent twice, and one comes a day late, at the end."""
    made = []
    for n in range(600):
        made.append(
            {
                "event_id": f"e{n}",
                "ts": START + n * 432,
                "tenant": ["acme", "globex"][n % 2],
                "key_id": f"key-{n % 3}",
                "provider": "p",
                "model": "m",
                "input_tokens": 1000 + n,
                "cached_input_tokens": n % 7,
                "output_tokens": 100,
                "feature": ["search", None, "=1+1"][n % 3],
            }
        )
    return [*made, made[300], {**made[100], "event_id": "late"}]


def nano(call: dict[str, Any]) -> int:
    return int(call["input_tokens"] * 1500 + call["output_tokens"] * 7250)


def by_hand(*keys: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Calls and nano-dollars by `keys` of a call."""
    calls, usd = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for call in {call["event_id"]: call for call in events()}.values():
        day = time.strftime("%Y-%m-%d", time.gmtime(call["ts"]))
        of = {**call, "key": call["key_id"], "day": day, "month": day[:7], "feature": call["feature"] or ""}
        calls[tuple(of[key] for key in keys)] += 1
        usd[tuple(of[key] for key in keys)] += nano(call)
    return {key: (calls[key], usd[key]) for key in calls}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run on all calls, which was run again."""
    folder = tmp_path_factory.mktemp("usage")
    (folder / "prices.json").write_text(json.dumps(PRICES))
    (folder / "calls.ndjson").write_text("".join(json.dumps(call) + "\n" for call in events()))
    for _ in range(2):
        command = ("run", folder / "calls.ndjson", "--prices", folder / "prices.json", "--ledger", folder / "l.sqlite")
        said = burnguard(*command, BURNGUARD_CHECKPOINT_S="0")
        assert said.exit_code == 0, said.output
    return folder / "l.sqlite"


def asked(ledger: Path, *arguments: str) -> str:
    said = burnguard("usage", "--ledger", ledger, *arguments)
    assert said.exit_code == 0, said.output
    return said.output


def exactly(ledger: Path, *arguments: str) -> Any:
    return json.loads(asked(ledger, "--format", "json", *arguments))


def dollars(nano_usd: int) -> str:
    return f"{nano_usd // NANO}.{nano_usd % NANO:09d}"


@pytest.mark.parametrize("by", ["tenant", "key", "tenant,key", "day", "month,feature", "day,tenant,key,feature", "model"])
def test_any_grouping_is_what_the_calls_come_to_to_the_nano_dollar(ledger: Path, by: str) -> None:
    keys = tuple(by.split(","))
    found = exactly(ledger, "--by", by)
    rows = {tuple(row[key] for key in keys): (row["calls"], row["usd"]) for row in found["rows"]}
    assert rows == {key: (calls, dollars(usd)) for key, (calls, usd) in by_hand(*keys).items()}
    (everything,) = by_hand().values()
    assert (found["total"]["calls"], found["total"]["usd"]) == (everything[0], dollars(everything[1]))


def test_a_call_that_came_a_day_late_is_counted_in_its_own_hour(ledger: Path) -> None:
    hour = time.strftime("%Y-%m-%dT%H:00Z", time.gmtime(events()[100]["ts"]))
    calls = [c for c in {c["event_id"]: c for c in events()}.values() if c["ts"] // 3600 == events()[100]["ts"] // 3600]
    rows = {row["hour"]: row["calls"] for row in exactly(ledger, "--by", "hour")["rows"]}
    assert rows[hour] == len(calls)


def test_classes_hold_every_token_once(ledger: Path) -> None:
    found = exactly(ledger, "--by", "class,tenant")
    calls = list({c["event_id"]: c for c in events()}.values())
    assert found["total"] == {"tokens": sum(c["input_tokens"] + c["output_tokens"] for c in calls)}
    cached = sum(c["cached_input_tokens"] for c in calls if c["tenant"] == "acme")
    assert {"class": "cached", "tenant": "acme", "tokens": cached} in found["rows"]


def test_csv_is_read_back_exactly_and_ends_with_the_total(ledger: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(asked(ledger, "--by", "feature,tenant", "--format", "csv"))))
    found = exactly(ledger, "--by", "feature,tenant")
    assert [{**row, "calls": int(row["calls"])} for row in rows[:-1]] == [
        {key: value if key in ("calls", "usd") else str(value) for key, value in row.items()} for row in found["rows"]
    ]
    assert rows[-1]["feature"] == "total"
    assert rows[-1]["usd"] == found["total"]["usd"]


def test_a_table_shows_who_cost_most_first_and_the_total_last(ledger: Path) -> None:
    lines = asked(ledger, "--by", "tenant,feature").splitlines()
    assert lines[0].split() == ["tenant", "feature", "calls", "input", "output", "usd"]
    spent = [float(line.split("$")[1]) for line in lines[1:-1]]
    assert spent == sorted(spent, reverse=True)
    assert lines[-1].split()[:2] == ["total", "601"]
    assert any(line.split()[1] == "-" for line in lines[1:-1])


def test_a_range_and_names_narrow_it(ledger: Path) -> None:
    day = time.strftime("%Y-%m-%d", time.gmtime(START + DAY))
    until = time.strftime("%Y-%m-%d", time.gmtime(START + 2 * DAY))
    found = exactly(ledger, "--from", day, "--to", until, "--tenant", "acme", "--key", "key-0", "--key", "key-1")
    expected = [
        c
        for c in {c["event_id"]: c for c in events()}.values()
        if time.strftime("%Y-%m-%d", time.gmtime(c["ts"])) == day and c["tenant"] == "acme" and c["key_id"] != "key-2"
    ]
    assert found["total"]["calls"] == len(expected)
    assert found["total"]["usd"] == dollars(sum(map(nano, expected)))


def test_a_month_begins_on_its_first_in_utc_and_the_last_hours_hold_this_one() -> None:
    now = 1_790_000_000_000 // HOUR  # 2026-09-21
    month = hours_of(None, None, True, None, now)
    assert (month.start, month.stop) == (1_788_220_800_000 // HOUR, 2**31 - 1)
    assert hours_of(None, None, False, 24, now) == range(now - 23, now + 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "tenant,colour"], "'colour' is nothing to group by; it can be tenant, key,"),
        (["--by", "key,key"], "key is named twice"),
        (["--from", "yesterday"], "'yesterday' is no date such as 2026-11-30"),
        (["--from", "2026-11-30T06:30"], "is within an hour, and usage is kept by the hour"),
        (["--from", "2026-11-30", "--to", "2026-11-30"], "--to must be after --from"),
        (["--last", "3w"], "'3w' is no span such as 24h or 7d"),
        (["--last", "24h", "--month-to-date"], "exclude each other"),
        (["--tier", "gold"], "'gold' is not one of 'standard', 'batch', 'flex', 'priority'"),
    ],
)
def test_a_mistake_is_said_in_a_sentence(ledger: Path, arguments: list[str], said: str) -> None:
    found = burnguard("usage", "--ledger", ledger, *arguments)
    assert found.exit_code == 2
    assert said in found.output


def test_no_ledger_is_no_new_ledger(tmp_path: Path) -> None:
    assert "no such ledger" in burnguard("usage", "--ledger", tmp_path / "l.sqlite").output
    assert not list(tmp_path.iterdir())


def test_it_is_read_while_another_program_keeps_the_ledger_locked(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert asked(ledger).splitlines()[-1].split()[:2] == ["total", "601"]


def rollup(hour: int, calls: int) -> Rollup:
    """A cell of an hour that holds so many calls."""
    of_hour = np.full(1, hour, np.int32)
    return replace(ROLLUP, clock=0, hour=of_hour, counted=of_hour, values=np.full((1, 12), calls))


def hours_in(ledger: Ledger) -> list[int]:
    return sorted(row[0] for row in ledger.usage(("hour",), range(2**31 - 1), {}))


def test_old_usage_is_deleted_a_day_at_a_time_and_the_files_of_last_year_are_not_old(new_ledger: NewLedger) -> None:
    term, first = Term(new_ledger()), 400_000
    for hour in range(first, first + 24 * 5):
        term.duty.responder.count(rollup(hour, 1), "usage", 0)
    now = (first + 24 * 365) * HOUR
    kept = []
    for _ in range(5):
        term.duty.responder.forget_usage(2, now)
        kept.append(len(hours_in(term.ledger)))
    assert kept == [96, 72, 49, 49, 49]
    assert hours_in(term.ledger)[-1] == first + 24 * 5 - 1
    days = sorted(row[:2] for row in term.ledger.usage(("day",), ALL_TIME, {"tenant": ["acme"]}))
    assert days == sorted(Counter(hour // 24 for hour in hours_in(term.ledger)).items())
    term.duty.responder.count_anew("usage", first + 100, 0)
    assert hours_in(term.ledger)[-1] == first + 99
    term.ledger.close()


def test_one_hour_that_is_yet_to_come_makes_nothing_old(new_ledger: NewLedger) -> None:
    term = Term(new_ledger())
    for hour in (100, 101, 10_000):
        term.duty.responder.count(rollup(hour, 1), "usage", 0)
    term.duty.responder.forget_usage(1, 101 * HOUR)
    assert hours_in(term.ledger) == [100, 101, 10_000]
    term.ledger.close()


def test_a_deposed_responder_neither_counts_nor_forgets(new_ledger: NewLedger) -> None:
    term = Term(new_ledger())
    term.duty.responder.count(rollup(100, 1), "usage", 0)
    old = term.duty.responder
    term.restart(0, 0)
    term.duty.responder.count(rollup(10_000, 1), "usage", 0)
    term.ledger._epoch -= 1
    with pytest.raises(Deposed):
        old.count(rollup(100, 2), "usage", 0)
    with pytest.raises(Deposed):
        old.forget_usage(1, 10_000 * HOUR)
    assert hours_in(term.ledger) == [100, 10_000]
    term.ledger.close()
