"""The command as its users meet it: backtest, run, policy check, stop."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from actions.ledger import Ledger
from examples.receiver.receiver import Receiver
from schemas.batch import ABSENT, Batch
from schemas.decode import Decoder
from schemas.scan import MAX_LINE
from stream.cli import main
from stream.sources import HELD, FileClock, LineReader
from tests.calls import T0, batch
from tests.conftest import SECRET, NewLedger
from tests.story import T0 as STORY_T0
from tests.story import Story, signal

PRICES = [{"provider": "p", "model": "m", "effective_from": 0, "input": 1.5, "output": 7.25, "unit": "USD per 1M tokens"}]
POLICY = """version: 1
rules:
  - name: stop
    match: {severity: page}
    do:
      - notify
      - throttle: {strength: 0.9, lease: 30s}
    armed: true
"""
BURN_AT, BURN_S = 24 * 3600, 300


def burnguard(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env=environment)


def event(n: int, ts: float, key: str, **more: Any) -> dict[str, Any]:
    base = {"event_id": f"e{n}", "ts": ts, "tenant": "acme", "key_id": key, "provider": "p", "model": "m"}
    return {**base, "input_tokens": 1000, "output_tokens": 100, **more}


def history(burn: bool = True) -> list[dict[str, Any]]:
    """A calm day of five keys; then one key spends $30 a minute for five minutes."""
    rng = random.Random(7)
    start = 1_780_000_000.0
    calm = [event(n, start + n * 21.6 + rng.random(), f"key-{n % 5}") for n in range(4000)]
    theft = [
        event(10_000 + n, start + BURN_AT + n * 2, "key-1", output_tokens=137_931, input_tokens=0) for n in range(BURN_S // 2)
    ]
    return sorted(calm + (theft if burn else []), key=lambda e: float(e["ts"]))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    (tmp_path / "calls.ndjson").write_text("".join(json.dumps(e) + "\n" for e in history()))
    return tmp_path


def test_a_backtest_finds_the_burn_and_its_totals_are_the_inputs(files: Path) -> None:
    lines = (files / "calls.ndjson").read_text().splitlines(keepends=True)
    lines[100:100] = ["{broken\n", lines[99], json.dumps(event(1, -1, "k")) + "\n"]
    (files / "calls.ndjson").write_text("".join(lines))
    said = burnguard("backtest", files / "calls.ndjson", "--prices", files / "prices.json", "--out", files / "out")
    assert said.exit_code == 0, said.output
    nano = sum(e["input_tokens"] * 1500 + e["output_tokens"] * 7250 for e in history())
    assert f"calls        {len(history()) + 1}\n" in said.output
    assert f"unique calls {len(history())}\n" in said.output
    assert f"USD          {nano // 10**9}.{nano % 10**9:09d}\n" in said.output
    assert "quarantined  2\n" in said.output
    rows = [json.loads(row) for row in (files / "out/alerts.jsonl").read_text().splitlines()]
    assert {(r["tenant"], r["key_id"], r["kind"]) for r in rows} == {("acme", "key-1", "spend_spike")}
    assert [r["action"] for r in rows] == ["notify", "throttle"]
    assert 0 < rows[0]["at"] - (1_780_000_000 + BURN_AT) <= 25
    assert rows[1]["severity"] == "page"
    quarantined = [json.loads(row) for row in (files / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(q["line"], q["field"]) for q in quarantined] == [(100, ""), (102, "ts")]


def test_the_same_input_twice_gives_the_same_bytes_gzip_or_not(files: Path) -> None:
    (files / "calls.ndjson.gz").write_bytes(gzip.compress((files / "calls.ndjson").read_bytes()))
    outputs = []
    for n, name in enumerate(("calls.ndjson", "calls.ndjson", "calls.ndjson.gz")):
        out = files / f"out-{n}"
        assert not burnguard("backtest", files / name, "--prices", files / "prices.json", "--out", out).exit_code
        outputs.append((out / "alerts.jsonl").read_bytes())
    assert outputs[0]
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_backtest_of_a_pipe_counts_as_one_of_its_file(files: Path) -> None:
    """Every line twice, the second time far behind the first."""
    (files / "twice.ndjson").write_text(2 * (files / "calls.ndjson").read_text())
    os.mkfifo(files / "pipe")
    threading.Thread(target=lambda: (files / "pipe").write_bytes((files / "twice.ndjson").read_bytes()), daemon=True).start()
    said = [
        burnguard("backtest", files / name, "--prices", files / "prices.json", "--out", files / f"{name}-out").output
        for name in ("pipe", "twice.ndjson")
    ]
    assert f"calls        {2 * len(history())}\nunique calls {len(history())}\n" in said[0]
    assert said[0].splitlines()[:4] == said[1].splitlines()[:4]
    alerts = [(files / f"{name}-out/alerts.jsonl").read_bytes() for name in ("pipe", "twice.ndjson")]
    assert alerts[0] == alerts[1] != b""


def test_two_tenants_who_number_their_calls_alike_hide_none_of_each_others(files: Path) -> None:
    mine = [event(n, 1_780_000_000.0 + n, "key-1") for n in range(5)]
    events = [*mine, *({**e, "tenant": "other"} for e in mine), *mine]
    (files / "two.ndjson").write_text("".join(json.dumps(e) + "\n" for e in events))
    said = burnguard("backtest", files / "two.ndjson", "--prices", files / "prices.json", "--out", files / "out")
    assert "calls        15\nunique calls 10\n" in said.output


def test_calm_traffic_gives_no_alert(files: Path) -> None:
    (files / "calm.ndjson").write_text("".join(json.dumps(e) + "\n" for e in history(burn=False)))
    assert not burnguard("backtest", files / "calm.ndjson", "--prices", files / "prices.json", "--out", files / "o").exit_code
    assert not (files / "o/alerts.jsonl").read_bytes()


def test_an_old_file_is_recorded_and_not_acted_on(files: Path) -> None:
    said = burnguard("run", files / "calls.ndjson", "--prices", files / "prices.json", "--ledger", files / "l.sqlite")
    assert said.exit_code == 0, said.output
    assert "summary    4150 calls" in said.output
    assert "NOTIFY" not in said.output


def test_mistakes_are_said_without_a_traceback(files: Path) -> None:
    (files / "bad.yaml").write_text("version: 1\nrules:\n  - name: a\n    mach: {}\n    do: [notify]\n")
    for arguments in (("policy", "check", files / "bad.yaml"), ("run", "--policy", files / "bad.yaml")):
        said = burnguard(*arguments)
        assert said.exit_code == 1
        assert "bad.yaml:4: rules[0].mach: unknown name; allowed: name, match, do, armed" in said.output
    good = "version: 1\nrules: [{name: a, match: {}, do: [{throttle: {strength: 1, lease: 20s}}], armed: true}]\n"
    (files / "good.yaml").write_text(good)
    assert "1 rules, 1 armed" in burnguard("policy", "check", files / "good.yaml").output
    said = burnguard("run", "--policy", files / "good.yaml", "--ledger", files / "l.sqlite")
    assert "rule a is armed, but BURNGUARD_WEBHOOK_URL is not set" in said.output
    assert "no such ledger" in burnguard("stop", "--ledger", files / "none.sqlite").output


def live(receiver: Receiver, folder: Path) -> dict[str, str]:
    (folder / "secret").write_text(SECRET)
    return {
        "BURNGUARD_WEBHOOK_URL": f"{receiver.url}/hook",
        "BURNGUARD_WEBHOOK_SECRET_FILE": str(folder / "secret"),
        "BURNGUARD_WEBHOOK_ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "BURNGUARD_WEBHOOK_ALLOW_HTTP": "true",
    }


def test_stop_takes_throttles_back_itself_where_no_responder_lives(
    receiver: Receiver, tmp_path: Path, new_ledger: NewLedger
) -> None:
    story = Story(new_ledger())
    story.hear(signal(STORY_T0))
    assert story.hook.throttled
    story.ledger.close()
    said = burnguard("stop", "--ledger", story.name, **live(receiver, tmp_path))
    assert "took back 1 of 1 throttles itself" in said.output
    assert [verb for verb, _ in receiver.effects] == ["revert"]
    assert "released" in burnguard("stop", "--release", "--ledger", story.name).output


@pytest.mark.parametrize("new_ledger", ["sqlite"], indirect=True)
def test_a_burn_on_standard_input_is_throttled_though_the_process_is_killed_in_between(
    receiver: Receiver, files: Path, new_ledger: NewLedger
) -> None:
    (files / "policy.yaml").write_text(POLICY)
    ledger = new_ledger()
    past = [{**e, "ts": e["ts"] - 1_780_000_000 + time.time() - BURN_AT - 60} for e in history(burn=False)]
    (files / "past.ndjson").write_text("".join(json.dumps(e) + "\n" for e in past))
    command = [sys.executable, "-c", "from stream.cli import main; main()", "run", "--history", str(files / "past.ndjson")]
    command += ["--prices", str(files / "prices.json"), "--policy", str(files / "policy.yaml"), "--ledger", ledger, "-"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**live(receiver, files), "PATH": "/usr/bin"},
        )

    def burn(process: subprocess.Popen[str], until: Any, seconds: float) -> None:
        assert process.stdin is not None
        deadline = time.monotonic() + seconds
        while not until() and time.monotonic() < deadline:
            process.stdin.write(json.dumps(event(time.time_ns(), time.time(), "key-1", output_tokens=150_000)) + "\n")
            process.stdin.flush()
            time.sleep(0.5)
        assert until()

    first = start()
    assert first.stdout is not None
    assert any(line.startswith("history") for line in first.stdout)
    burn(first, lambda: receiver.throttled(), 40)
    first.kill()
    first.wait()
    first.stdin.close()  # type: ignore[union-attr]  # a pipe, see above
    first.stdout.close()
    second = start()
    said, _ = second.communicate("")
    assert [verb for verb, _ in receiver.effects] == ["apply", "revert"], said
    assert len({order for _, order in receiver.effects}) == 1
    assert not receiver.throttled()
    assert "REVERTED" in said
    with closing(Ledger(ledger)) as left:
        assert left.newest_happening() is None


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([1, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, MAX_LINE + 2, 3 * MAX_LINE]), min_size=1, max_size=3),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.lists(st.integers(0, 3 * MAX_LINE), max_size=6),
)
def test_a_line_that_is_too_long_is_one_row_wherever_a_block_ends(
    lengths: list[int], newline: bytes, ended: bool, cuts: list[int]
) -> None:
    good = json.dumps(event(1, 1_780_000_000.0, "key-1")).encode()
    lines = [line for length in lengths for line in (b"x" * length, good)]
    whole = newline.join(lines) + newline * ended
    refused, read = [], []
    for bounds in ([0, len(whole)], sorted({0, *(min(cut, len(whole)) for cut in cuts), len(whole)})):
        reader = LineReader(Decoder())
        calls = [reader.read(whole[lo:hi]) for lo, hi in itertools.pairwise(bounds)] + [reader.finish()]
        refused.append(reader.quarantined)
        read.append(np.concatenate([some.position for some in calls]).tolist())
        assert reader.position == len(whole)
        assert len(reader._rest) <= MAX_LINE + 1
    assert refused[0] == refused[1]
    assert [row.length for row in refused[0]] == lengths
    assert read[0] == read[1]
    assert len(read[0]) == len(lengths)


def clocked(calls: Batch, cuts: list[int]) -> list[int]:
    clock = FileClock()
    out: list[int] = []
    for lo, hi in zip([0, *cuts], [*cuts, len(calls)], strict=True):
        out += clock.feed(calls.rows(lo, hi)).clock.tolist()
    last = clock.finish()
    return out + (last.clock.tolist() if last is not None else [])


def test_calls_in_an_older_checkpoint_of_a_file_said_nothing_of_what_it_does_not_keep() -> None:
    clock, fresh, calls = FileClock(), FileClock(), batch([(0, 0, 12, 1.0)] * 3)
    clock.feed(calls)
    first = ("clock", "position", "ts", "event", "tenant", "key", "model", "tier")
    kept = {f"held.{name}" for name in (*first, *(n for n in HELD if n.endswith(("tokens", "requests"))))}
    fresh.restore({name: column for name, column in clock.snapshot().items() if not name.startswith("held.") or name in kept})
    last = fresh.finish()
    assert last is not None
    assert {n: getattr(last, n).tolist() for n in HELD if n != "clock"} == {
        n: getattr(calls, n).tolist() for n in HELD if n != "clock"
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), min_size=1, max_size=260), st.data())
def test_a_files_clock_is_its_arrival_or_the_running_median_wherever_it_is_cut(
    rows: list[tuple[int, bool]], data: st.DataObject
) -> None:
    calls = batch([(ABSENT - T0 if unknown else at + 100, at, 1, 0.0) for at, unknown in rows])
    ts, newest, truth = calls.ts.tolist(), -(2**62), []
    for i, (at, unknown) in enumerate(rows):
        around = sorted(ts[max(0, i - 50) : i + 51])
        newest = max(newest, around[(len(around) - 1) // 2] if unknown else T0 + at + 100)
        truth.append(newest)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    assert clocked(calls, cuts) == truth
    assert np.all(np.diff(truth) >= 0)


def test_the_summary_of_a_run_has_every_use_however_many_there_are(files: Path) -> None:
    calls = (
        event(n, 1_780_000_000 + n / 100, f"key-{n % 5}", feature=f"f-{n % 400}", model=f"m-{n % 3}") for n in range(1_200)
    )
    (files / "calls.ndjson").write_text("".join(json.dumps(call) + "\n" for call in calls))
    said = burnguard("run", files / "calls.ndjson", "--prices", files / "prices.json", "--ledger", files / "ledger.db")
    assert said.exit_code == 0, said.output
    assert "everybody: 1,200 calls" in said.output


def test_the_summary_of_a_run_says_whose_clock_is_off(files: Path) -> None:
    start, clocks = 1_780_000_000, {"ahead": 90, "behind": -20, "right": 0}
    calls = (
        event(n, start + n / 3 + clocks[tenant], "k", arrival_ts=start + n / 3, tenant=tenant)
        for n, tenant in enumerate(400 * list(clocks))
    )
    (files / "calls.ndjson").write_text("".join(json.dumps(call) + "\n" for call in calls))
    said = burnguard("run", files / "calls.ndjson", "--prices", files / "prices.json", "--ledger", files / "ledger.db")
    assert said.exit_code == 0, said.output
    assert "clocks     ahead 90 s ahead, behind 20 s behind\n" in said.output


@pytest.mark.parametrize("history", [True, False])
def test_a_file_that_does_not_say_when_calls_came_says_nothing_of_clocks(files: Path, history: bool) -> None:
    calls = (event(n, 1_780_000_000 + 20 * n, "k", tenant=f"t{n % 3}") for n in range(400))
    (files / "calls.ndjson").write_text("".join(json.dumps(call) + "\n" for call in calls))
    (files / "empty.ndjson").write_text("")
    how = ["--history", files / "calls.ndjson", files / "empty.ndjson"] if history else [files / "calls.ndjson"]
    said = burnguard("run", *how, "--prices", files / "prices.json", "--ledger", files / "ledger.db")
    assert said.exit_code == 0, said.output
    assert "everybody:" in said.output
    assert "clocks" not in said.output
